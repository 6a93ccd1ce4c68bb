from __future__ import annotations

from dataclasses import replace

from registry.base_model import Matrices
from registry.encoding.operations import operations, operations_needed
from registry.recipe import Recipe

BLOCK = ((4, 4), (8, 4), (4, 8))
MATRICES = Matrices(blocks=(BLOCK,) * 3, head=(100, 4))
RECIPE = Recipe(first_layer=0, epochs=5)


def test_every_parameter_multiplies_every_token_forth_and_back() -> None:
    assert MATRICES.parameters == 3 * (16 + 32 + 32) + 400
    assert operations(MATRICES, 1000) == 4 * 640 * 1000


def test_the_head_is_needed_where_the_loss_counts() -> None:
    assert operations_needed(MATRICES, RECIPE, 1000, 1000) == operations(MATRICES, 1000)
    assert operations_needed(MATRICES, RECIPE, 1000, 30) == 4 * 240 * 1000 + 4 * 400 * 30


def test_blocks_below_the_first_adapter_run_once_and_only_forth() -> None:
    half = replace(RECIPE, first_layer=2)
    assert operations_needed(MATRICES, half, 1000, 30) == 4 * 80 * 1000 + 2 * 160 * 1000 // 5 + 4 * 400 * 30
