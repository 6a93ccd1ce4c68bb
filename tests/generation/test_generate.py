from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from registry.base_model import LoadedModel, encode_prompt, linear_shapes, load, locate
from registry.errors import UsageError
from registry.generation.generate import generate
from registry.generation.slots import NO_ADAPTER, AdapterSlots
from registry.layout import question_prompt
from registry.store.layout import AdapterLayout

MakeBody = Callable[[AdapterLayout, int], bytes]
QUESTIONS = (
    "Who built the lighthouse?",
    "How many beehives does the ferry from Tamsin to Bellhaven carry across the strait every spring?",
    "Where?",
    "Who keeps the clock of the observatory?",
    "Where is the mill on the river Ense, and what lies beside it?",
)


def prompts_for(loaded: LoadedModel) -> list[list[int]]:
    return [encode_prompt(loaded.tokenizer, question_prompt("chat", question)) for question in QUESTIONS]


@pytest.fixture
def slots(tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody) -> Iterator[AdapterSlots]:
    slots = AdapterSlots(tiny_model, layout, capacity=5, max_adapters=3)
    for slot in range(5):
        slots.fill(slot, [make_body(layout, 10 * slot + n) for n in range(3)], [1.0, 0.5, 0.5], 16.0)
    yield slots
    slots.remove()


@pytest.fixture
def early_end(tiny_model: LoadedModel) -> Iterator[Callable[[int], None]]:
    """A function that makes the model end its answers at a token of the test's choice."""
    configured = tiny_model.model.generation_config
    before = configured.eos_token_id

    def end_at(token: int) -> None:
        configured.eos_token_id = [2, token]

    yield end_at
    configured.eos_token_id = before


@pytest.mark.filterwarnings("ignore:The following generation flags")
@pytest.mark.parametrize("question", range(3))
def test_tokens_are_those_of_greedy_search(tiny_model: LoadedModel, slots: AdapterSlots, question: int) -> None:
    prompt = prompts_for(tiny_model)[question]
    (ours,) = generate(tiny_model, slots, [prompt], [question], max_new_tokens=16)
    with slots.active([question]):
        theirs = tiny_model.model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=3,
        )
    expected = [token for token in theirs[0, len(prompt) :].tolist() if token != 2]
    assert list(ours.tokens) == expected
    assert ours.text == tiny_model.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert ours.prompt_tokens == len(prompt)
    assert ours.prefill_ms > 0
    assert ours.decode_ms > 0


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, NO_ADAPTER, 1, 1, NO_ADAPTER], [NO_ADAPTER] * 5])
def test_a_batch_gives_what_each_prompt_gives_alone(
    tiny_model: LoadedModel, slots: AdapterSlots, rows: list[int]
) -> None:
    prompts = prompts_for(tiny_model)
    alone = [
        generate(tiny_model, slots, [prompt], [slot], max_new_tokens=12)[0].tokens
        for prompt, slot in zip(prompts, rows, strict=True)
    ]
    together = generate(tiny_model, slots, prompts, rows, max_new_tokens=12)
    assert [one.tokens for one in together] == alone
    assert len({token for tokens in alone for token in tokens}) > 1 or rows[0] == NO_ADAPTER


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_batches_in_other_families(
    family_path: Callable[[str], Path], make_body: MakeBody, tmp_path: Path, family: str
) -> None:
    loaded = load(locate(str(family_path(family)), models_path=tmp_path), device="cpu", dtype="float32")
    layout = AdapterLayout.of(linear_shapes(loaded.model, ("gate_proj", "up_proj", "down_proj")), 2, "float32")
    slots = AdapterSlots(loaded, layout, capacity=1, max_adapters=1)
    slots.fill(0, [make_body(layout, 5)], [1.0], 30.0)
    # Longer than the window of those that slide.
    prompts = [[*range(20, 20 + 70), *prompt] for prompt in prompts_for(loaded)]
    alone = [generate(loaded, slots, [prompt], [0], max_new_tokens=8)[0].tokens for prompt in prompts]
    assert [one.tokens for one in generate(loaded, slots, prompts, [0] * 5, max_new_tokens=8)] == alone
    assert len({token for tokens in alone for token in tokens}) > 3


def test_rows_that_end_leave_the_batch(
    tiny_model: LoadedModel, slots: AdapterSlots, early_end: Callable[[int], None]
) -> None:
    prompts, rows = prompts_for(tiny_model), [0, 1, 2, 3, 4]
    full = [one.tokens for one in generate(tiny_model, slots, prompts, rows, max_new_tokens=12)]
    early_end(full[1][2])
    cut = [one.tokens for one in generate(tiny_model, slots, prompts, rows, max_new_tokens=12)]
    for before, after in zip(full, cut, strict=True):
        length = before.index(full[1][2]) if full[1][2] in before else 12
        assert after == before[:length]
    assert len(cut[1]) <= 2
    assert any(len(tokens) == 12 for tokens in cut)


def test_an_answer_may_be_empty(tiny_model: LoadedModel, early_end: Callable[[int], None]) -> None:
    prompt = prompts_for(tiny_model)[0]
    early_end(generate(tiny_model, None, [prompt], max_new_tokens=1)[0].tokens[0])
    (empty,) = generate(tiny_model, None, [prompt], max_new_tokens=5)
    assert (empty.text, empty.tokens) == ("", ())


def test_the_model_is_bare_again_afterwards(tiny_model: LoadedModel, slots: AdapterSlots) -> None:
    ids = torch.tensor([prompts_for(tiny_model)[0]])
    with torch.no_grad():
        before = tiny_model.model(input_ids=ids).logits
        generate(tiny_model, slots, [prompts_for(tiny_model)[0]], [0], max_new_tokens=2)
        assert torch.equal(tiny_model.model(input_ids=ids).logits, before)


def test_text_is_streamed_in_whole_characters(tiny_model: LoadedModel, slots: AdapterSlots) -> None:
    prompts = prompts_for(tiny_model)
    heard: dict[int, list[str]] = {row: [] for row in range(5)}
    answers = generate(
        tiny_model,
        slots,
        prompts,
        [0, 1, 2, 3, 4],
        max_new_tokens=12,
        on_text=lambda row, piece: heard[row].append(piece),
    )
    assert sum(len(pieces) for pieces in heard.values()) > 5
    for row, answer in enumerate(answers):
        told = "".join(heard[row])
        assert answer.text.startswith(told.strip().rstrip("\ufffd"))
        assert len(answer.text) - len(told.strip()) <= 3


def test_what_cannot_be_generated_is_refused(tiny_model: LoadedModel, slots: AdapterSlots) -> None:
    with pytest.raises(UsageError, match="prompt 1 is empty"):
        generate(tiny_model, None, [[5], []], max_new_tokens=1)
    with pytest.raises(UsageError, match="at least one token"):
        generate(tiny_model, None, [[5]], max_new_tokens=0)
    with pytest.raises(UsageError, match="1 adapter slots are given for 2 prompts"):
        generate(tiny_model, slots, [[5], [6]], [0], max_new_tokens=1)
    with pytest.raises(UsageError, match="no slots"):
        generate(tiny_model, None, [[5]], [0], max_new_tokens=1)
    with pytest.raises(UsageError, match="prompt 0 has 510 tokens") as caught:
        generate(tiny_model, None, [[5] * 510], max_new_tokens=3)
    assert "fewer new tokens" in (caught.value.hint or "")
    assert generate(tiny_model, None, [], max_new_tokens=1) == []
