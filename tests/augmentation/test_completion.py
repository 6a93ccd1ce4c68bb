from __future__ import annotations

import pytest
import torch

from registry.augmentation.completion import Asking, Completer, Row, encode_after
from registry.augmentation.running import SPARE_COLUMNS, RunningRows
from registry.augmentation.sampling import TOP_SHARE, choose
from registry.base_model import LoadedModel

BEGINNING = "The lighthouse of Quarrel Point was built by Ottoline Marsh.\n"
TEXTS = ["Question:", "Where is the mill? The mill", "Every spring the ferry", "A"]


def rows(model: LoadedModel, **settings: float) -> list[Row]:
    beginning, encoded = encode_after(model.tokenizer, BEGINNING, TEXTS)
    return [
        Row(tuple(ids), 12, seed=number, beginning=beginning, **settings)  # type: ignore[arg-type]
        for number, ids in enumerate(encoded)
    ]


def test_a_batch_says_what_each_row_says_alone(tiny_model: LoadedModel) -> None:
    asked = rows(tiny_model)
    together = Completer(tiny_model, 8).complete(asked)
    for row, completion in zip(asked, together, strict=True):
        ids = torch.tensor([[*row.beginning, *row.ids]])
        whole = tiny_model.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=3
        )
        said = tiny_model.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert completion.text == said
        assert 0 < completion.tokens <= 12
        assert completion.elapsed_seconds > 0


def test_sampling_depends_on_the_seed_and_not_on_the_batch(tiny_model: LoadedModel) -> None:
    asked = rows(tiny_model, temperature=1.0)
    together = [one.text for one in Completer(tiny_model, 8).complete(asked)]
    reversed_pairs = Completer(tiny_model, 2).complete(asked[::-1])
    assert [one.text for one in reversed_pairs][::-1] == together
    other_seed = Row(asked[0].ids, 12, temperature=1.0, seed=99)
    [again, other] = Completer(tiny_model, 8).complete([asked[0], other_seed])
    assert again.text == together[0]
    assert other.text != again.text


def test_a_row_ends_with_its_stop(tiny_model: LoadedModel) -> None:
    asked = rows(tiny_model)
    [whole] = Completer(tiny_model, 1).complete(asked[:1])
    stop = whole.text[2]
    [cut] = Completer(tiny_model, 1).complete([Row(asked[0].ids, 12, stop=stop)])
    assert cut.text == whole.text[: whole.text.index(stop) + 1]
    assert cut.tokens < whole.tokens


@pytest.mark.parametrize("family", ["gemma2", "qwen3"])
def test_other_families_are_completed(family_path, family: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from registry.base_model import load, locate

    model = load(locate(str(family_path(family)), models_path=tmp_path), device="cpu", dtype="float32")
    asked = rows(model)
    together = [one.text for one in Completer(model, 8).complete(asked)]
    alone = [Completer(model, 1).complete([row])[0].text for row in asked]
    assert together == alone


def test_nothing_is_completed_of_nothing(tiny_model: LoadedModel) -> None:
    assert Completer(tiny_model, 4).complete([]) == []


def test_texts_are_encoded_as_they_follow(tiny_model: LoadedModel) -> None:
    beginning, encoded = encode_after(tiny_model.tokenizer, BEGINNING, TEXTS)
    for text, ids in zip(TEXTS, encoded, strict=True):
        assert tiny_model.tokenizer.decode([*beginning, *ids]) == BEGINNING + text


def test_rows_that_are_alike_differ_by_seed(tiny_model: LoadedModel) -> None:
    asked = rows(tiny_model, temperature=1.0)
    [ids, other] = asked[0].ids, asked[1].ids
    mixed = [Row(ids, 12, temperature=1.0, seed=1), Row(other, 12), Row(ids, 12, temperature=1.0, seed=2)]
    together = [one.text for one in Completer(tiny_model, 8).complete(mixed)]
    assert together == [Completer(tiny_model, 8).complete([row])[0].text for row in mixed]
    assert together[0] != together[2]


def test_rows_that_come_and_go_say_what_they_say_alone(tiny_model: LoadedModel) -> None:
    """Far more steps than the buffers have columns, lengths from 1 to 60, two ways to begin, places taken over."""
    beginning = rows(tiny_model)[0].beginning
    asked = [
        Row(
            tuple(5 + (number * 7 + place) % 400 for place in range(1 + number * 17 % 60)),
            max_new_tokens=3 + number * 11 % 45,
            temperature=number % 2 * 1.0,
            seed=number,
            beginning=beginning if number % 3 else (),
        )
        for number in range(20)
    ]
    together = Completer(tiny_model, 4).complete(asked)
    alone = [Completer(tiny_model, 1).complete([row])[0] for row in asked]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.tokens for one in together] == [one.tokens for one in alone]


def test_rows_keep_to_their_own_when_a_longer_one_joins_after_a_move(tiny_model: LoadedModel) -> None:
    """Columns are moved to the left when the buffers' right edge is reached, and back for a prompt that needs them."""

    def expected(ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = tiny_model.model(torch.tensor([ids])).logits[0, -1]
        return logits

    def prompt(length: int) -> list[int]:
        return [5 + (length * 13 + place * 7) % 400 for place in range(length)]

    running = RunningRows(tiny_model, 2)
    running.join([prompt(100)], [1])
    running.step([7])
    running.drop([0])
    for number in range(SPARE_COLUMNS + 32):
        short = prompt(3 + number % 5)
        running.join([short], [3])
        running.step([short[-1]])
        if number % 16 == 0:
            running.join([prompt(100)], [1])
            logits = running.step([9, prompt(100)[-1]])
            torch.testing.assert_close(logits, torch.stack([expected([*short, 9]), expected(prompt(100))]))
            assert running.drop([1]) == [0]
        assert running.drop([0]) == []


def test_long_rows_are_few_at_a_time(tiny_model: LoadedModel) -> None:
    running = RunningRows(tiny_model, 64)
    assert running.room(100) == 64
    assert running.room(10**12) == 1
    running.join([[5, 6, 7]], [2])
    assert (running.count, running.room(100), running.room(10**12)) == (1, 63, 0)


def test_work_ends_as_soon_as_it_can_and_begins_when_there_is_room(tiny_model: LoadedModel) -> None:
    ids = rows(tiny_model)[0].ids
    begun: list[str] = []

    def asking(name: str, lengths: list[int]) -> Asking[tuple[str, list[int]]]:
        begun.append(name)
        tokens = []
        for length in lengths:
            [completion] = yield [Row(ids, length, temperature=1.0, seed=length)]
            tokens.append(completion.tokens)
        assert (yield []) == []
        return name, tokens

    work = [asking("long", [9, 9]), asking("short", [3]), asking("last", [5, 2])]
    ended = []
    for name, tokens in Completer(tiny_model, 2).run(work):
        if not ended:
            assert (name, begun) == ("short", ["long", "short"])
        ended.append((name, tokens))
    assert begun == ["long", "short", "last"]
    assert sorted(ended) == [("last", [5, 2]), ("long", [9, 9]), ("short", [3])]


def test_tokens_are_drawn_from_the_likeliest() -> None:
    shares = torch.tensor([0.05, 0.5, 0.15, 0.3])
    logits = shares.log().repeat(1000, 1)
    draws = [(number + 0.5) / 1000 for number in range(1000)]
    counts = torch.bincount(torch.tensor(choose(logits, [1.0] * 1000, draws)), minlength=4)
    kept = torch.tensor([0.0, 0.5, 0.15, 0.3])  # 0.5 and 0.3 are less than TOP_SHARE together, so 0.15 is taken too
    assert 0.8 < TOP_SHARE < 0.95
    assert counts.tolist() == pytest.approx((1000 * kept / kept.sum()).tolist(), abs=1)
    assert set(choose(logits, [0.0] * 1000, draws)) == {1}
    flatter = torch.bincount(torch.tensor(choose(logits, [2.0] * 1000, draws)), minlength=4)
    assert flatter[1] < counts[1]
