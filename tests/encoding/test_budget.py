"""How many documents are trained at once follows from what a pass takes and from the memory there is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.base_model import ModelFiles
from registry.encoding.budget import (
    ModelSize,
    Needs,
    Workload,
    filling,
    free_bytes,
    machine_bytes,
    model_size,
    needs,
    workload,
)
from registry.encoding.examples import Example
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout

SIZE = ModelSize(
    parameters=135_000_000, file_bytes=540_000_000, layers=30, hidden=576, intermediate=1536, heads=9, vocabulary=49_152
)
LOAD = Workload(step=200.0, longest=300, beside=220.0, document=3000)
LAYOUT = AdapterLayout.of({"model.layers.0.mlp.up_proj": (1536, 576)}, 4, "float32")


def example(length: int) -> Example:
    return Example(ids=tuple(range(length)), loss_start=1)


def test_a_workload_is_told_by_steps_and_lengths() -> None:
    recipe = Recipe(examples_per_step=2)
    load = workload(recipe, [[example(10), example(30)], [example(20)]])
    assert load.step == pytest.approx((40 + 20) / 2)
    assert (load.longest, load.document) == (30, 40)
    assert load.beside == pytest.approx((100 + 900 + 400) / 60)


@pytest.mark.parametrize(("passes", "documents"), [(20, 16), (8, 8), (7.99, 4), (0.4, 1), (5000, 512)])
def test_the_size_is_the_largest_power_of_two_whose_step_is_one_pass(passes: float, documents: int) -> None:
    """``passes`` steps of one document make a pass."""
    assert filling(replace(LOAD, step=4096 / passes), 4096) == documents


def test_what_fits_is_a_power_of_two_or_nothing() -> None:
    need = Needs(fixed=1000, document=100)
    assert need.of(8) == 1800
    assert [need.fitting(memory) for memory in (1800, 1799, 1100, 1099, 10)] == [8, 4, 1, 0, 0]


def test_more_of_anything_needs_more_memory() -> None:
    recipe = Recipe(first_layer=0, dtype="float32")
    least = needs(SIZE, recipe, LAYOUT, LOAD, "cpu", 4096)
    assert needs(replace(SIZE, layers=60), recipe, LAYOUT, LOAD, "cpu", 4096).fixed > least.fixed
    assert needs(SIZE, recipe, LAYOUT, replace(LOAD, beside=900.0), "cpu", 4096).fixed > least.fixed
    assert needs(SIZE, replace(recipe, first_layer=15), LAYOUT, LOAD, "cpu", 4096).fixed < least.fixed
    assert needs(SIZE, recipe, LAYOUT, LOAD, "cpu", 2048).fixed < least.fixed
    wide = AdapterLayout.of({"model.layers.0.mlp.up_proj": (1536, 576)}, 8, "float32")
    assert needs(SIZE, recipe, wide, LOAD, "cpu", 4096).document == 2 * least.document


def test_a_file_in_other_numbers_is_in_memory_beside_the_model_while_it_is_loaded() -> None:
    recipe = Recipe(first_layer=0, dtype="bfloat16")
    same = needs(replace(SIZE, file_bytes=270_000_000), recipe, LAYOUT, LOAD, "cpu", 4096)
    assert needs(SIZE, recipe, LAYOUT, LOAD, "cpu", 4096).fixed == same.fixed + 540_000_000


def test_sizes_come_from_the_models_files(tiny_files: ModelFiles) -> None:
    size = model_size(tiny_files, 30_000)
    assert (size.layers, size.hidden, size.intermediate, size.heads) == (3, 32, 64, 4)
    assert size.file_bytes > 4 * 30_000


def test_a_machine_has_memory() -> None:
    assert free_bytes("cpu") > 0
    assert machine_bytes("cpu") > 0
