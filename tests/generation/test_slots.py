import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor

from registry.base_model import LoadedModel, linear_shapes, load, locate
from registry.errors import BaseModelError, IntegrityError, UsageError
from registry.generation.slots import NO_ADAPTER, AdapterSlots
from registry.merging.export import export_adapter
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout

MakeBody = Callable[[AdapterLayout, int], bytes]
# PEFT asks the model for something that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
IDS = torch.tensor([[5, 17, 203, 88, 41, 300], [9, 9, 120, 77, 54, 31], [250, 3, 14, 15, 92, 65]])


@pytest.fixture
def slots(tiny_model: LoadedModel, layout: AdapterLayout) -> Iterator[AdapterSlots]:
    slots = AdapterSlots(tiny_model, layout, capacity=3, max_adapters=3)
    yield slots
    slots.remove()


@torch.no_grad()
def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    return model(input_ids=ids).logits


def dense(model: Any, layout: AdapterLayout, bodies: Sequence[bytes], weights: Sequence[float], scale: float) -> Any:
    """A copy of the model with the sum of the adapters in its weights."""
    merged = copy.deepcopy(model)
    for body, weight in zip(bodies, weights, strict=True):
        vector = torch.frombuffer(bytearray(body), dtype=getattr(torch, layout.dtype)).float()
        for module, (a, b) in layout.modules.items():
            own_a = vector[a.offset_elements : a.offset_elements + a.elements].view(a.shape)
            own_b = vector[b.offset_elements : b.offset_elements + b.elements].view(b.shape)
            merged.get_submodule(module).weight.data += weight * scale * (own_b @ own_a)
    return merged


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("rank", "weights"), [(1, (1.0,)), (2, (1.0, 0.5, -0.25)), (3, (0.0, 2.0)), (5, (1.0, 1.0, 1.0))]
)
def test_a_slot_computes_the_weighted_sum(
    tiny_model: LoadedModel, make_body: MakeBody, rank: int, weights: tuple[float, ...], dtype: Any
) -> None:
    layout = AdapterLayout.of(linear_shapes(tiny_model.model, ("gate_proj", "down_proj")), rank, dtype)
    bodies = [make_body(layout, seed) for seed in range(len(weights))]
    expected = logits(dense(tiny_model.model, layout, bodies, weights, 16.0))
    bare = logits(tiny_model.model)
    slots = AdapterSlots(tiny_model, layout, capacity=2, max_adapters=3)
    try:
        slots.fill(1, bodies, weights, 16.0)
        with slots.active([1, 1, 1]):
            torch.testing.assert_close(logits(tiny_model.model), expected, atol=1e-4, rtol=0)
    finally:
        slots.remove()
    assert (expected - bare).abs().max() > 0.01


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_every_family_of_models_takes_slots(
    family_path: Callable[[str], Path], make_body: MakeBody, tmp_path: Path, family: str
) -> None:
    loaded = load(locate(str(family_path(family)), models_path=tmp_path), device="cpu", dtype="float32")
    layout = AdapterLayout.of(linear_shapes(loaded.model, ("gate_proj", "up_proj", "down_proj"), 1), 2, "float32")
    bodies = [make_body(layout, seed) for seed in range(2)]
    expected = logits(dense(loaded.model, layout, bodies, (0.7, 0.3), 8.0))
    slots = AdapterSlots(loaded, layout, capacity=1, max_adapters=2)
    slots.fill(0, bodies, (0.7, 0.3), 8.0)
    with slots.active([0, 0, 0]):
        torch.testing.assert_close(logits(loaded.model), expected, atol=1e-4, rtol=0)


def test_without_an_adapter_the_model_is_the_bare_model_bit_by_bit(
    tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody
) -> None:
    bare = logits(tiny_model.model)
    slots = AdapterSlots(tiny_model, layout, capacity=1, max_adapters=3)
    try:
        slots.fill(0, [make_body(layout, 1)], [1.0], 16.0)
        assert torch.equal(logits(tiny_model.model), bare)
        with slots.active([NO_ADAPTER] * 3):
            assert torch.equal(logits(tiny_model.model), bare)
        with slots.active([0, 0, 0]):
            assert not torch.equal(logits(tiny_model.model), bare)
        assert torch.equal(logits(tiny_model.model), bare)
    finally:
        slots.remove()
    assert torch.equal(logits(tiny_model.model), bare)


@pytest.mark.parametrize(
    "rows", [[0, 1, 2], [2, 0, 1], [1, 1, 1], [NO_ADAPTER, 0, 1], [1, NO_ADAPTER, 0], [0, NO_ADAPTER, NO_ADAPTER]]
)
def test_every_row_has_its_own_slot(
    slots: AdapterSlots, tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody, rows: list[int]
) -> None:
    for slot in range(3):
        slots.fill(slot, [make_body(layout, 10 * slot + n) for n in range(slot + 1)], [1.0] * (slot + 1), 16.0)
    with slots.active(rows):
        together = logits(tiny_model.model)
    for index, slot in enumerate(rows):
        with slots.active([slot]):
            alone = logits(tiny_model.model, IDS[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_a_slot_forgets_what_it_held(
    slots: AdapterSlots, tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody
) -> None:
    bodies = [make_body(layout, seed) for seed in range(3)]
    slots.fill(1, bodies[:1], [0.5], 16.0)
    with slots.active([1, 1, 1]):
        fresh = logits(tiny_model.model)
    slots.fill(1, bodies, [1.0, 1.0, 1.0], 16.0)
    slots.fill(1, bodies[:1], [0.5], 16.0)
    with slots.active([1, 1, 1]):
        assert torch.equal(logits(tiny_model.model), fresh)
    bare = logits(tiny_model.model)
    slots.clear(1)
    with slots.active([1, 1, 1]):
        assert torch.equal(logits(tiny_model.model), bare)


def test_a_merge_is_injected_into_any_slot_until_the_next_merge(
    slots: AdapterSlots, tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody
) -> None:
    three = [make_body(layout, seed) for seed in range(3)]
    slots.fill(0, three, [1.0, 0.5, 0.25], 16.0)
    merged = slots.merge(three, [1.0, 0.5, 0.25], 16.0)
    slots.inject(2, merged)
    slots.inject(1, merged)
    slots.inject(2, slots.merge(three[:1], [1.0], 16.0))
    with slots.active([0, 1, 2]):
        rows = logits(tiny_model.model, IDS[:1].expand(3, -1))
    assert torch.equal(rows[0], rows[1])
    assert (rows[0] - rows[2]).abs().max() > 0.01


def test_slots_take_read_only_memory(
    slots: AdapterSlots, tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody
) -> None:
    body = make_body(layout, 3)
    slots.fill(0, [body], [1.0], 16.0)
    # Off the boundary of a number, as an adapter may lie in a mapped pack.
    slots.fill(1, [memoryview(b"xyz" + body)[3:]], [1.0], 16.0)
    with slots.active([0, 1]):
        both = logits(tiny_model.model, IDS[:1].expand(2, -1))
    assert torch.equal(both[0], both[1])


def test_bfloat16_slots_are_as_exact_as_merged_bfloat16_weights(
    tiny_model_path: Path, tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody, tmp_path: Path
) -> None:
    half = load(locate(str(tiny_model_path), models_path=tmp_path), device="cpu", dtype="bfloat16")
    bodies = [make_body(layout, seed) for seed in range(3)]
    weights = (1.0, 1.0, 1.0)
    exact = logits(dense(tiny_model.model, layout, bodies, weights, 16.0))
    error_merged = (logits(dense(half.model, layout, bodies, weights, 16.0)).float() - exact).norm() / exact.norm()
    slots = AdapterSlots(half, layout, capacity=1, max_adapters=3)
    slots.fill(0, bodies, weights, 16.0)
    with slots.active([0, 0, 0]):
        error = (logits(half.model).float() - exact).norm() / exact.norm()
    assert error < 1.5 * error_merged < 0.05


def test_removing_puts_the_models_own_modules_back(
    tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody
) -> None:
    before, bare = dict(tiny_model.model.named_modules()), logits(tiny_model.model)
    slots = AdapterSlots(tiny_model, layout, capacity=1, max_adapters=1)
    slots.fill(0, [make_body(layout, 1)], [1.0], 16.0)
    slots.choose([0, 0, 0])
    adapted = logits(tiny_model.model)
    slots.remove()
    after = dict(tiny_model.model.named_modules())
    assert after.keys() == before.keys()
    assert all(after[name] is module for name, module in before.items())
    assert torch.equal(logits(tiny_model.model), bare)
    slots.insert()
    assert torch.equal(logits(tiny_model.model), adapted)
    slots.remove()


def test_what_does_not_fit_is_refused(
    slots: AdapterSlots, tiny_model: LoadedModel, layout: AdapterLayout, make_body: MakeBody
) -> None:
    body = make_body(layout, 1)
    with pytest.raises(UsageError, match="no adapter slot 3"):
        slots.fill(3, [body], [1.0], 1.0)
    with pytest.raises(UsageError, match="4 adapters with 4 weights"):
        slots.fill(0, [body] * 4, [1.0] * 4, 1.0)
    with pytest.raises(UsageError, match="2 adapters with 1 weights"):
        slots.fill(0, [body] * 2, [1.0], 1.0)
    with pytest.raises(IntegrityError, match="bytes was given"):
        slots.fill(0, [body[:-4]], [1.0], 1.0)
    with pytest.raises(UsageError, match="slots 0 to 2"), slots.active([3]):
        pass
    with pytest.raises(UsageError, match="at least one"):
        AdapterSlots(tiny_model, layout, capacity=0, max_adapters=1)


def test_a_foreign_layout_is_refused(tiny_model: LoadedModel) -> None:
    before = dict(tiny_model.model.named_modules()).keys()
    for shapes, message in [
        ({"model.layers.9.mlp.up_proj": (64, 32)}, r"no module model\.layers\.9"),
        ({"model.layers.0.mlp.up_proj": (64, 32), "model.layers.1.mlp.up_proj": (32, 64)}, "not a linear module of"),
        ({"model.layers.0.mlp.act_fn": (64, 32)}, "not a linear module"),
    ]:
        with pytest.raises(BaseModelError, match=message):
            AdapterSlots(tiny_model, AdapterLayout.of(shapes, 2, "float32"), capacity=1, max_adapters=1)
    assert dict(tiny_model.model.named_modules()).keys() == before


def equals_peft(loaded: LoadedModel, recipe: Recipe, bodies: Sequence[bytes], ids: Tensor, folder: Path) -> None:
    """Compare the slots' logits with those of PEFT's own merge of the exported adapters."""
    layout = AdapterLayout.of(linear_shapes(loaded.model, recipe.targets), recipe.rank, "float32")
    weights = [1.0, 0.6, -0.3]
    slots = AdapterSlots(loaded, layout, capacity=1, max_adapters=3)
    slots.fill(0, bodies, weights, recipe.scale)
    with slots.active([0] * len(ids)):
        ours = logits(loaded.model, ids)
    slots.remove()
    for name, body in zip("abc", bodies, strict=True):
        export_adapter(layout.serialise(body), folder / name, recipe=recipe, base_model=loaded.base_model)
    model = PeftModel.from_pretrained(loaded.model, str(folder / "a"), adapter_name="a")
    try:
        for name in "bc":
            model.load_adapter(str(folder / name), adapter_name=name)
        model.base_model.add_weighted_adapter(list("abc"), weights, "merged", combination_type="cat")
        model.set_adapter("merged")
        theirs = logits(model, ids)
    finally:
        model.unload()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours - logits(loaded.model, ids)).abs().max() > 0.05


def test_a_merge_of_three_equals_pefts(
    tiny_model: LoadedModel, layout: AdapterLayout, recipe: Recipe, make_body: MakeBody, tmp_path: Path
) -> None:
    equals_peft(tiny_model, recipe, [make_body(layout, seed) for seed in range(3)], IDS, tmp_path)


@pytest.mark.smollm2
@pytest.mark.slow
def test_a_merge_of_three_equals_pefts_on_the_default_model(
    smollm2: LoadedModel, recipe: Recipe, make_body: MakeBody, tmp_path: Path
) -> None:
    layout = AdapterLayout.of(linear_shapes(smollm2.model, recipe.targets), recipe.rank, "float32")
    # As strong as trained ones: a B of 0.05 everywhere would drown the model.
    bodies = [(np.frombuffer(make_body(layout, s), np.float32) * np.float32(0.2)).tobytes() for s in range(3)]
    ids = torch.tensor([smollm2.tokenizer("Who built the lighthouse of Quarrel Point?")["input_ids"]])
    equals_peft(smollm2, recipe, bodies, ids, tmp_path)
