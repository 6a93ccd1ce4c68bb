"""An adapter is the same however it is trained: by PEFT, alone, or beside others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from registry.base_model import LoadedModel
from registry.encoding import train
from registry.encoding.decoder import Decoder
from registry.encoding.kernels.portable import PortableKernels
from registry.encoding.stack import initial_parameters
from registry.encoding.train import encode_group
from registry.recipe import Recipe, preset
from registry.records import EncodedAdapter, EncodingInput
from tests.encoding.conftest import layout_of, train_with_peft, vector_of

PEFT_BOUND = 1e-3
ALONE_BOUND = 1e-4
LIBRARY_BOUND = 5e-4
BFLOAT16_BOUND = 0.35
"""bf16 rounds every activation to 8 bits of fraction; the direction of training stays, its details do not."""


def relative_distance(one: torch.Tensor, other: torch.Tensor, start: torch.Tensor) -> float:
    """Norm of the difference over the norm of what training changed: far stricter than over the adapter's norm."""
    return float((one - other).norm() / (other - start).norm())


def encode(loaded: LoadedModel, recipe: Recipe, inputs: list[EncodingInput]) -> list[EncodedAdapter]:
    return encode_group(loaded, recipe, layout_of(loaded, recipe), inputs)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"loss": "all", "schedule": "constant", "shuffle": False},
        {"first_layer": 1},
        {"examples": ("qa-passage", "text"), "rank": 3, "examples_per_step": 1},
        {"examples": ("qa-passage", "qa"), "loss": "all", "examples_per_step": 8},
        {"targets": ("q_proj", "v_proj", "o_proj", "down_proj"), "first_layer": 1},
        {"freeze_a": True, "weight_decay": 0.0},
        {"examples": ("qa", "text"), "distillation": 0.7, "first_layer": 1},
        {"examples": ("qa-both", "reversed", "statements"), "distillation": 1.0},
    ],
    ids=[
        "default",
        "all-tokens",
        "upper-layers",
        "with-passage",
        "shared-passage",
        "attention",
        "only-b",
        "distilled",
        "distilled-alone",
    ],
)
def test_each_adapter_equals_the_one_that_peft_trains(
    tiny_model: LoadedModel, recipe: Recipe, inputs: list[EncodingInput], change: dict[str, object]
) -> None:
    recipe = replace(recipe, **change)  # type: ignore[arg-type]
    layout = layout_of(tiny_model, recipe)
    start = initial_parameters(layout, recipe.init_seed)
    for given, adapter in zip(inputs, encode(tiny_model, recipe, inputs), strict=True):
        expected = train_with_peft(tiny_model, recipe, layout, given)
        assert (expected - start).norm() > 0.01
        assert relative_distance(vector_of(layout, adapter.data), expected, start) < PEFT_BOUND


def test_the_paper_preset_equals_peft(tiny_model: LoadedModel, inputs: list[EncodingInput]) -> None:
    recipe = replace(preset("paper"), pairs=3, rewrites=1)
    layout = layout_of(tiny_model, recipe)
    start = initial_parameters(layout, recipe.init_seed)
    for given, adapter in zip(inputs, encode(tiny_model, recipe, inputs), strict=True):
        expected = train_with_peft(tiny_model, recipe, layout, given)
        assert relative_distance(vector_of(layout, adapter.data), expected, start) < PEFT_BOUND


@pytest.mark.parametrize("change", [{}, {"distillation": 0.5}, {"freeze_a": True, "weight_decay": 0.0}])
def test_from_a_task_adapter_it_equals_peft_s_too(
    tiny_model: LoadedModel, recipe: Recipe, inputs: list[EncodingInput], change: dict[str, object]
) -> None:
    recipe = replace(recipe, **change)  # type: ignore[arg-type]
    layout = layout_of(tiny_model, recipe)
    task = vector_of(layout, encode(tiny_model, recipe, inputs[:1])[0].data)
    adapters = encode_group(tiny_model, recipe, layout, inputs, start=task.numpy().tobytes())
    for given, adapter in zip(inputs, adapters, strict=True):
        expected = train_with_peft(tiny_model, recipe, layout, given, start=task)
        assert relative_distance(vector_of(layout, adapter.data), expected, task) < PEFT_BOUND


def test_only_b_leaves_the_shared_a(tiny_model: LoadedModel, recipe: Recipe, inputs: list[EncodingInput]) -> None:
    recipe = replace(recipe, freeze_a=True, weight_decay=0.0)
    layout = layout_of(tiny_model, recipe)
    start = initial_parameters(layout, recipe.init_seed)
    for adapter in encode(tiny_model, recipe, inputs):
        vector = vector_of(layout, adapter.data)
        for tensor in layout.tensors:
            part = slice(tensor.offset_elements, tensor.offset_elements + tensor.elements)
            assert torch.equal(vector[part], start[part]) == (tensor.which == "A")


@pytest.mark.parametrize("first_layer", [0, 2])
def test_company_changes_only_the_last_bits(
    tiny_model: LoadedModel, recipe: Recipe, inputs: list[EncodingInput], first_layer: int
) -> None:
    recipe = replace(recipe, first_layer=first_layer)
    layout = layout_of(tiny_model, recipe)
    start = initial_parameters(layout, recipe.init_seed)
    together = encode(tiny_model, recipe, inputs)
    reversed_order = encode(tiny_model, recipe, inputs[::-1])[::-1]
    for given, one, other in zip(inputs, together, reversed_order, strict=True):
        alone = vector_of(layout, encode(tiny_model, recipe, [given])[0].data)
        assert relative_distance(vector_of(layout, one.data), alone, start) < ALONE_BOUND
        assert relative_distance(vector_of(layout, other.data), alone, start) < ALONE_BOUND


def test_the_same_group_gives_the_same_bytes(
    tiny_model: LoadedModel, recipe: Recipe, inputs: list[EncodingInput]
) -> None:
    first, second = encode(tiny_model, recipe, inputs), encode(tiny_model, recipe, inputs)
    assert [adapter.digest for adapter in first] == [adapter.digest for adapter in second]
    assert len({adapter.digest for adapter in first}) == len(inputs)


@pytest.mark.parametrize("device_kernels", ["processor", "portable"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_blocks_by_hand_equal_the_library_s(
    family: str,
    device_kernels: str,
    load_family: object,
    recipe: Recipe,
    inputs: list[EncodingInput],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: LoadedModel = load_family(family)  # type: ignore[operator]
    recipe = replace(recipe, targets=("q_proj", "k_proj", "up_proj", "down_proj"), first_layer=1)
    layout = layout_of(loaded, recipe)
    start = initial_parameters(layout, recipe.init_seed)
    if device_kernels == "portable":
        monkeypatch.setattr(train, "kernels_for", PortableKernels)
    by_hand = encode(loaded, recipe, inputs)
    monkeypatch.setattr(train, "is_supported", lambda model: False)
    by_library = encode(loaded, recipe, inputs)
    for one, other in zip(by_hand, by_library, strict=True):
        assert relative_distance(vector_of(layout, one.data), vector_of(layout, other.data), start) < LIBRARY_BOUND


@pytest.mark.parametrize("first_layer", [0, 1])
def test_blocks_run_again_for_the_backward_pass_give_the_same_bytes(
    tiny_model: LoadedModel,
    recipe: Recipe,
    inputs: list[EncodingInput],
    first_layer: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(recipe, first_layer=first_layer)
    plain = encode(tiny_model, recipe, inputs)
    most, _ = train.tokens_of_a_pass(tiny_model)
    monkeypatch.setattr(train, "tokens_of_a_pass", lambda loaded, wanted: (most, True))
    again = encode(tiny_model, recipe, inputs)
    assert [adapter.digest for adapter in plain] == [adapter.digest for adapter in again]


def test_a_pass_is_as_large_as_memory_allows(tiny_model: LoadedModel) -> None:
    kept = Decoder.kept_bytes(tiny_model.model)
    assert train.fitting_tokens(32768, 1e12, kept, tiny_model) == (32768, False)
    assert train.fitting_tokens(32768, 5000 * kept, kept, tiny_model) == (5000, False)
    tokens, again = train.fitting_tokens(32768, 1000 * kept, kept, tiny_model)
    assert again
    assert 1000 < tokens < 32768


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"])
def test_other_families_equal_peft(
    family: str, load_family: object, recipe: Recipe, inputs: list[EncodingInput]
) -> None:
    loaded: LoadedModel = load_family(family)  # type: ignore[operator]
    recipe = replace(recipe, first_layer=1)
    layout = layout_of(loaded, recipe)
    start = initial_parameters(layout, recipe.init_seed)
    for given, adapter in zip(inputs[:2], encode(loaded, recipe, inputs[:2]), strict=True):
        expected = train_with_peft(loaded, recipe, layout, given)
        assert relative_distance(vector_of(layout, adapter.data), expected, start) < PEFT_BOUND


def test_bfloat16_learns_what_float32_learns(
    tiny_model_bfloat16: LoadedModel, tiny_model: LoadedModel, recipe: Recipe, inputs: list[EncodingInput]
) -> None:
    half = encode(tiny_model_bfloat16, replace(recipe, dtype="bfloat16"), inputs)
    full = encode(tiny_model, recipe, inputs)
    layout = layout_of(tiny_model, recipe)
    start = initial_parameters(layout, recipe.init_seed)
    for one, other in zip(half, full, strict=True):
        distance = relative_distance(vector_of(layout, one.data), vector_of(layout, other.data), start)
        assert distance < BFLOAT16_BOUND
        gain = other.training.first_loss - other.training.last_loss
        assert one.training.last_loss - other.training.last_loss < 0.2 * abs(gain) + 0.05


def test_stored_in_bfloat16_an_adapter_is_the_rounded_one(
    tiny_model: LoadedModel, recipe: Recipe, inputs: list[EncodingInput]
) -> None:
    small = replace(recipe, adapter_dtype="bfloat16")
    for one, other in zip(encode(tiny_model, small, inputs), encode(tiny_model, recipe, inputs), strict=True):
        full = vector_of(layout_of(tiny_model, recipe), other.data)
        assert torch.equal(vector_of(layout_of(tiny_model, small), one.data), full.bfloat16().float())
        assert len(one.data) < 0.7 * len(other.data)
