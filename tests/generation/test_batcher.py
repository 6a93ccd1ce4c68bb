"""Continuous batching: who joins when, what each gets, and that one's trouble is its own."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from registry.base_model import LoadedModel, encode_prompt
from registry.errors import IntegrityError, UsageError
from registry.generation.batcher import Batcher, Running
from registry.generation.requests import Generated, Request, Sampling, Term
from registry.generation.runners.choosing import make_runner
from registry.layout import question_prompt
from registry.store.layout import AdapterLayout

MakeBody = Callable[[AdapterLayout, int], bytes]
SCALE = 8.0
QUESTIONS = (
    "Who built the lighthouse?",
    "How many beehives does the ferry from Tamsin to Bellhaven carry across the strait every spring?",
    "Where?",
    "Who keeps the clock of the observatory?",
    "Where is the mill on the river Ense, and what lies beside it?",
)


def batcher_of(loaded: LoadedModel, layout: AdapterLayout, **sizes: int) -> Batcher:
    room = {"rows": 4, "context": 256, "cache_bytes": 10**6, "most_terms": 3} | sizes
    return Batcher(loaded, make_runner(loaded, layout, SCALE, **room))


def ask(loaded: LoadedModel, question: str, terms: Sequence[Term] = (), **more: Any) -> Request:
    ids = encode_prompt(loaded.tokenizer, question_prompt("chat", question))
    return Request(tuple(ids), **{"max_new_tokens": 8, "terms": tuple(terms)} | more)


def run(batcher: Batcher) -> list[Running]:
    ended = []
    while not batcher.is_idle:
        ended += batcher.step()
    return ended


def generated(running: Running) -> Generated:
    assert running.error is None
    assert running.generated is not None
    return running.generated


@pytest.fixture
def term(layout: AdapterLayout, make_body: MakeBody) -> Callable[..., Term]:
    return lambda seed, factor=1.0: Term(f"adapter {seed}", factor, make_body(layout, seed))


def test_answers_do_not_depend_on_who_runs_beside(
    tiny_model: LoadedModel, layout: AdapterLayout, term: Callable[..., Term]
) -> None:
    drawn = random.Random(0)
    requests = []
    for number in range(23):
        terms = [term(seed, drawn.choice([0.5, 1.0])) for seed in drawn.sample(range(9), drawn.randrange(4))]
        sampling = Sampling(drawn.choice([0.0, 1.0]), 0.9, seed=number)
        length = drawn.randrange(1, 20)
        requests.append(ask(tiny_model, drawn.choice(QUESTIONS), terms, max_new_tokens=length, sampling=sampling))
    alone = []
    for request in requests:
        single = batcher_of(tiny_model, layout, rows=1)
        running = single.submit(request)
        run(single)
        alone.append(generated(running).tokens)
    batcher = batcher_of(tiny_model, layout, cache_bytes=0, rows=5)
    together: list[Running] = []
    waiting = list(requests)
    while waiting or not batcher.is_idle:
        for _ in range(drawn.randrange(3)):  # they come while others run
            if waiting:
                together.append(batcher.submit(waiting.pop(0)))
        batcher.step()
        assert batcher.running <= 5
    assert [generated(running).tokens for running in together] == alone
    assert len({tokens for tokens in alone}) > 5


def test_an_answer_tells_its_tokens_text_and_times(tiny_model: LoadedModel, layout: AdapterLayout) -> None:
    batcher = batcher_of(tiny_model, layout)
    pieces: list[str] = []
    request = ask(tiny_model, QUESTIONS[1])
    running = batcher.submit(request, pieces.append)
    assert run(batcher) == [running]
    answer = generated(running)
    assert answer.text == "".join(pieces) == tiny_model.tokenizer.decode(answer.tokens, skip_special_tokens=True)
    assert (answer.finish, len(answer.tokens), answer.prompt_tokens) == ("length", 8, len(request.ids))
    assert answer.elapsed_ms >= answer.first_token_ms > 0
    assert answer.prefill_ms > 0
    assert answer.decode_ms > 0
    greedy = tiny_model.model.generate(
        torch.tensor([request.ids]), max_new_tokens=8, do_sample=False, pad_token_id=3, eos_token_id=2
    )
    assert answer.tokens == tuple(greedy[0, len(request.ids) :].tolist())


def test_an_answer_ends_at_a_stop_string_or_where_the_model_ends_it(
    tiny_model: LoadedModel, layout: AdapterLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = batcher_of(tiny_model, layout)
    whole = batcher.submit(ask(tiny_model, QUESTIONS[0], max_new_tokens=12))
    run(batcher)
    text, tokens = generated(whole).text, generated(whole).tokens
    stop = text[4:7]
    pieces: list[str] = []
    cut = batcher.submit(ask(tiny_model, QUESTIONS[0], max_new_tokens=12, stop=(stop,)), pieces.append)
    run(batcher)
    assert generated(cut).text == "".join(pieces) == text[: text.index(stop)]
    assert generated(cut).finish == "stop"
    monkeypatch.setattr(tiny_model.model.generation_config, "eos_token_id", [2, tokens[3]])
    ending = batcher_of(tiny_model, layout)
    ended = ending.submit(ask(tiny_model, QUESTIONS[0], max_new_tokens=12))
    run(ending)
    assert generated(ended).tokens == tokens[: tokens.index(tokens[3])]
    assert generated(ended).finish == "stop"


def test_who_came_first_goes_first_and_a_row_is_free_at_once(tiny_model: LoadedModel, layout: AdapterLayout) -> None:
    batcher = batcher_of(tiny_model, layout, rows=2)
    lengths = (2, 6, 2, 2)
    running = [batcher.submit(ask(tiny_model, "Where?", max_new_tokens=length)) for length in lengths]
    assert (batcher.running, batcher.waiting) == (0, 4)
    ended: list[Running] = []
    while not batcher.is_idle:
        ended += batcher.step()
    assert ended == [running[0], running[2], running[1], running[3]] or ended == [running[n] for n in (0, 2, 3, 1)]
    assert generated(running[3]).waiting_ms > generated(running[1]).waiting_ms


def test_adapters_stay_until_others_need_their_room(
    tiny_model: LoadedModel, layout: AdapterLayout, term: Callable[..., Term]
) -> None:
    batcher = batcher_of(tiny_model, layout, cache_bytes=4 * layout.body_bytes, rows=2)

    def answer(*seeds: int) -> tuple[int, int]:
        before = batcher.entries.hits, batcher.entries.misses
        batcher.submit(ask(tiny_model, "Where?", [term(seed) for seed in seeds], max_new_tokens=1))
        run(batcher)
        return batcher.entries.hits - before[0], batcher.entries.misses - before[1]

    assert answer(0, 1, 2) == (0, 3)
    assert answer(0, 1, 2) == (3, 0)
    assert answer(0, 3) == (1, 1)
    assert answer(4) == (0, 1)  # in the place of 1, which was used longest ago
    assert answer(0, 3, 2) == (3, 0)
    assert answer(1) == (0, 1)


def test_a_request_waits_until_there_is_room_for_its_adapters(
    tiny_model: LoadedModel, layout: AdapterLayout, term: Callable[..., Term]
) -> None:
    batcher = batcher_of(tiny_model, layout, cache_bytes=0, rows=4)  # room for three adapters
    first = batcher.submit(ask(tiny_model, "Where?", [term(0), term(1)], max_new_tokens=3))
    same = batcher.submit(ask(tiny_model, "Where?", [term(1), term(0)], max_new_tokens=3))
    other = batcher.submit(ask(tiny_model, "Where?", [term(2), term(3)], max_new_tokens=3))
    batcher.step()
    assert (batcher.running, batcher.waiting) == (2, 1)
    assert run(batcher)[-1] is other
    assert generated(first).tokens == generated(same).tokens


def test_damaged_adapters_end_their_own_request_alone(
    tiny_model: LoadedModel, layout: AdapterLayout, term: Callable[..., Term]
) -> None:
    batcher = batcher_of(tiny_model, layout)
    short = Term("short", 1.0, b"\0" * 12)
    numbers = np.full(layout.elements, np.nan, np.float32)
    sound = batcher.submit(ask(tiny_model, "Where?", [term(0)]))
    cut = batcher.submit(ask(tiny_model, "Where?", [term(1), short]))
    poisoned = batcher.submit(ask(tiny_model, "Where?", [Term("nan", 1.0, numbers.tobytes())]))
    after = batcher.submit(ask(tiny_model, "Where?", [term(0)]))
    assert len(run(batcher)) == 4
    assert isinstance(cut.error, IntegrityError)
    assert isinstance(poisoned.error, IntegrityError)
    assert generated(sound).tokens == generated(after).tokens
    again = batcher.submit(ask(tiny_model, "Where?", [term(0)]))  # in the poisoned row
    more = [batcher.submit(ask(tiny_model, "Where?", [term(0)])) for _ in range(5)]
    run(batcher)
    assert {generated(one).tokens for one in [again, *more]} == {generated(sound).tokens}


def test_a_cancelled_request_is_gone(tiny_model: LoadedModel, layout: AdapterLayout) -> None:
    batcher = batcher_of(tiny_model, layout, rows=1)
    pieces: list[str] = []
    runs = batcher.submit(ask(tiny_model, "Where?", max_new_tokens=50), pieces.append)
    waits = batcher.submit(ask(tiny_model, "Where?"))
    stays = batcher.submit(ask(tiny_model, "Where?"))
    batcher.step()
    batcher.cancel(runs)
    batcher.cancel(waits)
    told = len(pieces)
    assert run(batcher) == [stays]
    batcher.cancel(stays)  # too late, and no harm
    assert len(pieces) == told
    assert runs.generated is None
    assert waits.generated is None


def test_what_cannot_run_is_refused_when_it_comes(
    tiny_model: LoadedModel, layout: AdapterLayout, term: Callable[..., Term]
) -> None:
    batcher = batcher_of(tiny_model, layout, context=64)
    with pytest.raises(UsageError, match="the 64 there is room for"):
        batcher.submit(ask(tiny_model, "Where?", max_new_tokens=60))
    with pytest.raises(UsageError, match="4 adapters"):
        batcher.submit(ask(tiny_model, "Where?", [term(seed) for seed in range(4)]))
    with pytest.raises(UsageError, match="empty"):
        Request((), 1)
    with pytest.raises(UsageError, match="at least one token"):
        Request((1,), 0)
    with pytest.raises(UsageError, match="stop strings"):
        Request((1,), 1, stop=("",))
    assert batcher.is_idle
