import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache

from registry.base_model import LoadedModel, linear_shapes, load, locate
from registry.errors import BaseModelError, IntegrityError, UsageError
from registry.generation.runners import Runner
from registry.generation.runners.library import LibraryRunner
from registry.merging.export import export_adapter
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout
from tests.generation.sums import dense

MakeBody = Callable[[AdapterLayout, int], bytes]
MakeRunner = Callable[..., LibraryRunner]
Family = Callable[[str, str], tuple[LoadedModel, AdapterLayout]]
Slot = tuple[tuple[int, ...], tuple[float, ...]]
# PEFT asks the model for something that transformers has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following generation flags"),
]
SCALE = 16.0
ACCELERATOR = next((one for one in ("cuda", "mps") if getattr(torch, one).is_available()), None)
TARGETS = {
    "phi3": ("gate_up_proj", "down_proj"),
    "gpt_neox": ("dense_h_to_4h", "dense_4h_to_h"),
    "bloom": ("dense_h_to_4h", "dense_4h_to_h"),
    "starcoder2": ("c_fc", "c_proj"),
    "qwen3_moe": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mamba": ("in_proj", "out_proj"),
}
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
IDS = [[5, 17, 203, 88, 41, 300], [9, 9, 120, 77, 54, 31], [250, 3, 14, 15, 92, 65]]


@pytest.fixture
def make_runner() -> Iterator[MakeRunner]:
    """A function to a runner, which is taken out of the model after the test."""
    made: list[LibraryRunner] = []

    def make(loaded: LoadedModel, layout: AdapterLayout | None, **sizes: int) -> LibraryRunner:
        sizes = {"rows": 5, "context": 160, "cache_bytes": 1 << 20, "most_terms": 3} | sizes
        made.append(LibraryRunner(loaded, layout, SCALE, **sizes))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.fixture
def family(family_path: Callable[[str], Path], tmp_path: Path) -> Family:
    """A function to a tiny model of a family and the layout of its adapters."""

    def get(name: str, device: str) -> tuple[LoadedModel, AdapterLayout]:
        loaded = load(locate(str(family_path(name)), models_path=tmp_path), device=device, dtype="float32")
        return loaded, AdapterLayout.of(linear_shapes(loaded.model, TARGETS.get(name, FEED_FORWARD)), 2, "float32")

    return get


@torch.no_grad()
def all_logits(model: Any, ids: Sequence[Sequence[int]]) -> Tensor:
    return model(input_ids=torch.tensor(ids)).logits


def last_logits(runner: Runner, slots: Sequence[Slot], ids: Sequence[Sequence[int]] = IDS) -> Tensor:
    """The logits after each of the prompts, one for each slot."""
    rows = range(len(slots))
    for row in rows:
        runner.inject(row, *slots[row])
    return runner.prefill(rows, ids[: len(slots)])


def greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """Tokens by transformers' own search, end tokens or not."""
    model.generation_config.eos_token_id = None
    ids = torch.tensor([list(prompt)], device=model.device)
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=3
    )
    return out[0, len(prompt) :].tolist()


class Conversations:
    """Rows that join in random order, go on in random order, and leave after as many tokens as they should have."""

    def __init__(self, runner: LibraryRunner, prompts: Sequence[list[int]], slots: Sequence[Slot], seed: int) -> None:
        self.runner, self.random = runner, random.Random(seed)
        self.waiting = list(zip(prompts, slots, strict=True))
        self.rows: dict[int, tuple[list[int], Slot, int, list[int]]] = {}
        self.ended: list[tuple[list[int], Slot, list[int]]] = []

    def run(self) -> None:
        while self.waiting or self.rows:
            self._join()
            # As a batcher does it, not all that have begun go on at once.
            rows = self.random.sample(sorted(self.rows), self.random.randint(1, len(self.rows)))
            logits = self.runner.decode(rows, [self.rows[row][3][-1] for row in rows])
            self._take(rows, logits)

    def _join(self) -> None:
        free = [row for row in range(self.runner.rows) if row not in self.rows]
        new = self.random.sample(free, min(len(free), len(self.waiting), self.random.randint(0 if self.rows else 1, 3)))
        if not new:
            return
        for row in new:
            prompt, slot = self.waiting.pop()
            self.rows[row] = (prompt, slot, self.random.randint(2, 9), [])
            if self.runner.entries:
                self.runner.inject(row, *slot)
        self._take(new, self.runner.prefill(new, [self.rows[row][0] for row in new]))

    def _take(self, rows: Sequence[int], logits: Tensor) -> None:
        for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
            prompt, slot, count, tokens = self.rows[row]
            tokens.append(token)
            if len(tokens) == count:
                self.ended.append((prompt, slot, tokens))
                del self.rows[row]


def check_conversations(loaded: LoadedModel, layout: AdapterLayout, runner: LibraryRunner, make_body: MakeBody) -> None:
    """Let rows come and go, some with adapters, and compare each with transformers' search in merged weights."""
    draw = random.Random(3)
    bodies = [make_body(layout, seed) for seed in range(4)]
    slots: list[Slot] = [((), ()), ((0, 2), (1.0, 0.5)), ((3,), (-0.7,)), ((1, 0, 2), (0.4, 0.3, 0.3))]
    # Some are longer than the window of those that slide, some become so.
    prompts = [[draw.randrange(10, 400) for _ in range(length)] for length in (4, 62, 90, 7, 61, 75, 3, 66)]
    for entry, body in enumerate(bodies):
        runner.put(entry, body)
    talks = Conversations(runner, prompts, slots * 2, seed=5)
    talks.run()
    assert len(talks.ended) == 8
    models = {
        slot: dense(loaded.model, layout, [(bodies[e], factor) for e, factor in zip(*slot, strict=True)], SCALE)
        for slot in slots
    }
    for prompt, slot, tokens in talks.ended:
        assert tokens == greedy(models[slot], prompt, len(tokens))
    assert len({token for _, _, tokens in talks.ended for token in tokens}) > 5


@pytest.mark.parametrize(
    "name",
    ["llama", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt_neox", "starcoder2", "qwen3_moe", "bloom", "mamba"],
)
def test_rows_that_come_and_go_get_what_transformers_alone_gives_them(
    family: Family, make_runner: MakeRunner, make_body: MakeBody, name: str
) -> None:
    loaded, layout = family(name, "cpu")
    check_conversations(loaded, layout, make_runner(loaded, layout, rows=4), make_body)


@pytest.mark.skipif(ACCELERATOR is None, reason="NOT TESTED: there is neither CUDA nor MPS here")
@pytest.mark.parametrize("name", ["gemma2", "phi3", "qwen3_moe", "mamba"])
def test_an_accelerator_gives_the_same(family: Family, make_runner: MakeRunner, make_body: MakeBody, name: str) -> None:
    loaded, layout = family(name, str(ACCELERATOR))
    check_conversations(loaded, layout, make_runner(loaded, layout, rows=4), make_body)


def test_a_gpt_without_linear_modules_answers_without_adapters(
    family_path: Callable[[str], Path], make_runner: MakeRunner, tmp_path: Path
) -> None:
    loaded = load(locate(str(family_path("gpt2")), models_path=tmp_path), device="cpu", dtype="float32")
    prompts = [[20, 30, 40], [50] * 9, [7, 8, 9, 10, 11]]
    talks = Conversations(make_runner(loaded, None, rows=2), prompts, [((), ())] * 3, seed=1)
    talks.run()
    for prompt, _, tokens in talks.ended:
        assert tokens == greedy(loaded.model, prompt, len(tokens))
    with pytest.raises(UsageError, match="made for the bare model"):
        make_runner(loaded, None).inject(0, [0], [1.0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("rank", "factors"), [(1, (1.0,)), (2, (1.0, 0.5, -0.25)), (3, (0.0, 2.0)), (5, (1.0, 1.0, 1.0))]
)
def test_a_row_computes_the_weighted_sum(
    tiny_model: LoadedModel,
    make_runner: MakeRunner,
    make_body: MakeBody,
    rank: int,
    factors: tuple[float, ...],
    dtype: Any,
) -> None:
    layout = AdapterLayout.of(linear_shapes(tiny_model.model, ("gate_proj", "down_proj")), rank, dtype)
    bodies = [make_body(layout, seed) for seed in range(len(factors))]
    expected = all_logits(dense(tiny_model.model, layout, list(zip(bodies, factors, strict=True)), SCALE), IDS)[:, -1]
    bare = all_logits(tiny_model.model, IDS)[:, -1]
    runner = make_runner(tiny_model, layout)
    for entry, body in enumerate(bodies):
        runner.put(entry, body)
    slot = (tuple(range(len(factors))), factors)
    torch.testing.assert_close(last_logits(runner, [slot] * 3), expected, atol=1e-4, rtol=0)
    assert (expected - bare).abs().max() > 0.01


@pytest.mark.parametrize("steps", [0, 1])
def test_without_adapters_the_model_is_the_bare_model_bit_by_bit(
    tiny_model: LoadedModel, layout: AdapterLayout, make_runner: MakeRunner, make_body: MakeBody, steps: int
) -> None:
    runner = make_runner(tiny_model, layout)
    runner.put(0, make_body(layout, 1))
    used = last_logits(runner, [((0,), (1.0,))] * 3)
    ours = last_logits(runner, [((), ())] * 3)
    cache = DynamicCache(config=tiny_model.model.config)
    with torch.inference_mode():
        hidden = tiny_model.model.model(input_ids=torch.tensor(IDS), cache=cache, use_cache=True).last_hidden_state
        for _ in range(steps):
            ours = runner.decode([0, 1, 2], [7, 8, 9])
            ids = torch.tensor([[7], [8], [9]])
            hidden = tiny_model.model.model(input_ids=ids, cache=cache, use_cache=True).last_hidden_state
        bare = tiny_model.model.lm_head(hidden[:, -1:].contiguous())[:, 0]
    assert torch.equal(ours, bare)
    assert not torch.equal(used, ours)


def test_the_model_stays_as_it_is_for_others(
    tiny_model: LoadedModel, layout: AdapterLayout, make_runner: MakeRunner, make_body: MakeBody
) -> None:
    before, bare = dict(tiny_model.model.named_modules()), all_logits(tiny_model.model, IDS)
    one, other = make_runner(tiny_model, layout), make_runner(tiny_model, layout)
    for runner, seed in ((one, 1), (other, 2)):
        runner.put(0, make_body(layout, seed))
    slots: list[Slot] = [((0,), (1.0,))]
    first, second = last_logits(one, slots), last_logits(other, slots)
    assert torch.equal(last_logits(one, slots), first)
    assert not torch.equal(first, second)
    assert torch.equal(all_logits(tiny_model.model, IDS), bare)
    one.close()
    assert torch.equal(last_logits(other, slots), second)
    after = dict(tiny_model.model.named_modules())
    assert after.keys() == before.keys()
    assert all(after[name] is module for name, module in before.items())


def test_a_runner_that_nobody_has_leaves_the_model(
    tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody
) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in tiny_model.model.modules())

    before = hooks()
    runner = LibraryRunner(tiny_model, layout, SCALE, rows=1, context=16, cache_bytes=0, most_terms=1)
    runner.put(0, make_body(layout, 1))
    last_logits(runner, [((0,), (1.0,))])
    assert hooks() == before + len(layout.modules) + 1
    del runner
    assert hooks() == before


def test_another_thread_sees_the_bare_model_meanwhile(
    tiny_model: LoadedModel, layout: AdapterLayout, make_runner: MakeRunner, make_body: MakeBody
) -> None:
    runner = make_runner(tiny_model, layout)
    runner.put(0, make_body(layout, 1))
    bare, seen = all_logits(tiny_model.model, IDS), []
    alone = last_logits(runner, [((0,), (1.0,))])

    def ask_in_between(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=lambda: seen.append(all_logits(tiny_model.model, IDS)))
            other.start()
            other.join()

    hook = tiny_model.model.model.layers[1].register_forward_hook(ask_in_between)
    try:
        assert torch.equal(last_logits(runner, [((0,), (1.0,))]), alone)
    finally:
        hook.remove()
    assert torch.equal(seen[0], bare)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 1], [None, 0, 1], [1, None, 0], [0, None, None]])
def test_every_row_has_its_own_adapters(
    tiny_model: LoadedModel,
    layout: AdapterLayout,
    make_runner: MakeRunner,
    make_body: MakeBody,
    order: list[int | None],
) -> None:
    runner = make_runner(tiny_model, layout)
    for entry in range(6):
        runner.put(entry, make_body(layout, entry))
    sums: list[Slot] = [((0,), (1.0,)), ((1, 2), (1.0, 1.0)), ((3, 4, 5), (1.0, 1.0, 1.0))]
    slots: list[Slot] = [((), ()) if number is None else sums[number] for number in order]
    together = last_logits(runner, slots).clone()
    for row, slot in enumerate(slots):
        alone = last_logits(runner, [slot], IDS[row:])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_rows_and_entries_forget_what_they_held(
    tiny_model: LoadedModel, layout: AdapterLayout, make_runner: MakeRunner, make_body: MakeBody
) -> None:
    runner, bodies = make_runner(tiny_model, layout), [make_body(layout, seed) for seed in range(4)]
    for entry, body in enumerate(bodies[:3]):
        runner.put(entry, body)
    one: Slot = ((0,), (0.5,))
    fresh = last_logits(runner, [one]).clone()
    last_logits(runner, [((0, 1, 2), (1.0, 1.0, 1.0))])
    assert torch.equal(last_logits(runner, [one]), fresh)
    runner.put(0, bodies[3])
    changed = last_logits(runner, [one])
    runner.put(1, bodies[3])
    assert torch.equal(last_logits(runner, [((1,), (0.5,))]), changed)
    assert not torch.equal(changed, fresh)


def test_keys_and_values_that_are_no_numbers_end_with_their_row(
    tiny_model: LoadedModel, layout: AdapterLayout, make_runner: MakeRunner
) -> None:
    runner = make_runner(tiny_model, layout, rows=2)
    runner.put(0, np.full(layout.elements, 1e30, np.float32).tobytes())
    runner.inject(0, [0], [1.0])
    assert runner.prefill([0], [[9] * 30]).isnan().any()
    runner.inject(0, [], [])
    prompts = [[5, 6, 7], [8] * 20]
    runner.prefill([0, 1], prompts)
    ours = runner.decode([0, 1], [11, 12])
    expected = [
        all_logits(tiny_model.model, [[*prompt, last]])[0, -1] for prompt, last in zip(prompts, (11, 12), strict=True)
    ]
    torch.testing.assert_close(ours, torch.stack(expected), atol=1e-4, rtol=0)


def test_entries_take_read_only_memory(
    tiny_model: LoadedModel, layout: AdapterLayout, make_runner: MakeRunner, make_body: MakeBody
) -> None:
    runner, body = make_runner(tiny_model, layout), make_body(layout, 3)
    runner.put(0, body)
    # Off the boundary of a number, as an adapter may lie in a mapped pack.
    runner.put(1, memoryview(b"xyz" + body)[3:])
    both = last_logits(runner, [((0,), (1.0,)), ((1,), (1.0,))], [IDS[0]] * 2)
    assert torch.equal(both[0], both[1])


@pytest.mark.parametrize("length", [6, 40])
def test_in_bfloat16_it_is_as_exact_as_merged_bfloat16_weights(
    tiny_model_path: Path,
    tiny_model: LoadedModel,
    layout: AdapterLayout,
    make_runner: MakeRunner,
    make_body: MakeBody,
    tmp_path: Path,
    length: int,
) -> None:
    half = load(locate(str(tiny_model_path), models_path=tmp_path), device="cpu", dtype="bfloat16")
    bodies, factors = [make_body(layout, seed) for seed in range(3)], (1.0, 0.7, -0.4)
    ids = [[*range(20, 20 + length - 6), *prompt] for prompt in IDS]
    exact = all_logits(dense(tiny_model.model, layout, list(zip(bodies, factors, strict=True)), SCALE), ids)[:, -1]
    merged = all_logits(dense(half.model, layout, list(zip(bodies, factors, strict=True)), SCALE), ids)[:, -1].float()
    runner = make_runner(half, layout)
    for entry, body in enumerate(bodies):
        runner.put(entry, body)
    error = (last_logits(runner, [((0, 1, 2), factors)] * 3, ids) - exact).norm() / exact.norm()
    assert error < 1.5 * (merged - exact).norm() / exact.norm() < 0.05


def test_what_does_not_fit_is_refused(
    tiny_model: LoadedModel, layout: AdapterLayout, make_runner: MakeRunner, make_body: MakeBody
) -> None:
    runner, body = make_runner(tiny_model, layout, rows=2, context=8, cache_bytes=0), make_body(layout, 1)
    assert (runner.rows, runner.context, runner.entries, runner.most_terms) == (2, 8, 3, 3)
    refused: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: runner.put(3, body), UsageError, "no adapter entry 3"),
        (lambda: runner.put(0, body[:-4]), IntegrityError, "bytes was given"),
        (lambda: runner.inject(0, [0] * 4, [1.0] * 4), UsageError, "4 adapters with 4 factors"),
        (lambda: runner.inject(0, [0] * 2, [1.0]), UsageError, "2 adapters with 1 factors"),
        (lambda: runner.inject(0, [3], [1.0]), UsageError, "entries 0 to 2"),
        (lambda: runner.inject(2, [0], [1.0]), UsageError, "from 0 to 1"),
        (lambda: runner.prefill([0, 0], [[5], [6]]), UsageError, "each once"),
        (lambda: runner.prefill([0], [[]]), UsageError, "0] tokens"),
        (lambda: runner.prefill([0], [[5] * 9]), UsageError, "9] tokens"),
        (lambda: runner.decode([1], [5]), UsageError, "0] tokens cannot go on"),
        (lambda: make_runner(tiny_model, layout, rows=0), UsageError, "at least one token"),
        (lambda: make_runner(tiny_model, layout, most_terms=0), UsageError, "at least one adapter"),
    ]
    for act, error, message in refused:
        with pytest.raises(error, match=message):
            act()
    full = runner.prefill([0], [[5, 6, 7, 8, 9, 10, 11, 12]]).clone()
    with pytest.raises(UsageError, match="8] tokens cannot go on"):
        runner.decode([0], [5])
    assert torch.equal(runner.prefill([0], [[5, 6, 7, 8, 9, 10, 11, 12]]), full)


def test_a_foreign_layout_is_refused(tiny_model: LoadedModel, make_runner: MakeRunner) -> None:
    bare = all_logits(tiny_model.model, IDS)
    for shapes, message in [
        ({"model.layers.9.mlp.up_proj": (64, 32)}, r"no module model\.layers\.9"),
        ({"model.layers.0.mlp.up_proj": (64, 32), "model.layers.1.mlp.up_proj": (32, 64)}, "not a linear module of"),
        ({"model.layers.0.mlp.act_fn": (64, 32)}, "not a linear module"),
    ]:
        with pytest.raises(BaseModelError, match=message):
            make_runner(tiny_model, AdapterLayout.of(shapes, 2, "float32"))
    assert torch.equal(all_logits(tiny_model.model, IDS), bare)


def test_a_model_that_would_forget_what_came_before_is_refused(
    family_path: Callable[[str], Path], make_runner: MakeRunner, tmp_path: Path
) -> None:
    loaded = load(locate(str(family_path("rwkv")), models_path=tmp_path), device="cpu", dtype="float32")
    with pytest.raises(BaseModelError, match="RwkvForCausalLM does not take"):
        make_runner(loaded, None)


def equals_peft(loaded: LoadedModel, runner: Runner, recipe: Recipe, bodies: Sequence[bytes], folder: Path) -> None:
    """Compare a row's logits with those of PEFT's own merge of the exported adapters."""
    layout = AdapterLayout.of(linear_shapes(loaded.model, recipe.targets), recipe.rank, "float32")
    factors, ids = (1.0, 0.6, -0.3), IDS[:1]
    for entry, body in enumerate(bodies):
        runner.put(entry, body)
    ours = last_logits(runner, [((0, 1, 2), factors)], ids)
    for name, body in zip("abc", bodies, strict=True):
        export_adapter(layout.serialise(body), folder / name, recipe=recipe, base_model=loaded.base_model)
    model = PeftModel.from_pretrained(loaded.model, str(folder / "a"), adapter_name="a")
    try:
        for name in "bc":
            model.load_adapter(str(folder / name), adapter_name=name)
        model.base_model.add_weighted_adapter(list("abc"), list(factors), "merged", combination_type="cat")
        model.set_adapter("merged")
        theirs = all_logits(model, ids)[:, -1]
    finally:
        model.unload()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours - all_logits(loaded.model, ids)[:, -1]).abs().max() > 0.05


def test_a_sum_of_three_equals_pefts(
    tiny_model: LoadedModel,
    layout: AdapterLayout,
    make_runner: MakeRunner,
    recipe: Recipe,
    make_body: MakeBody,
    tmp_path: Path,
) -> None:
    assert recipe.scale == SCALE
    bodies = [make_body(layout, seed) for seed in range(3)]
    equals_peft(tiny_model, make_runner(tiny_model, layout), recipe, bodies, tmp_path)


@pytest.mark.smollm2
@pytest.mark.slow
def test_a_sum_of_three_equals_pefts_on_the_default_model(
    smollm2: LoadedModel, make_runner: MakeRunner, recipe: Recipe, make_body: MakeBody, tmp_path: Path
) -> None:
    layout = AdapterLayout.of(linear_shapes(smollm2.model, recipe.targets), recipe.rank, "float32")
    # As strong as trained ones: a B of 0.05 everywhere would drown the model.
    bodies = [(np.frombuffer(make_body(layout, s), np.float32) * np.float32(0.2)).tobytes() for s in range(3)]
    runner = make_runner(smollm2, layout, cache_bytes=64 << 20)
    equals_peft(smollm2, runner, recipe, bodies, tmp_path)
