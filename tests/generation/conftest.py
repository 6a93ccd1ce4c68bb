from collections.abc import Callable

import numpy as np
import pytest

from registry.base_model import LoadedModel, linear_shapes
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout

RECIPE = Recipe(rank=2, alpha=32.0)

MakeBody = Callable[[AdapterLayout, int], bytes]


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return RECIPE


@pytest.fixture(scope="session")
def layout(tiny_model: LoadedModel) -> AdapterLayout:
    return AdapterLayout.of(linear_shapes(tiny_model.model, RECIPE.targets), RECIPE.rank, "float32")


@pytest.fixture(scope="session")
def make_body() -> MakeBody:
    """A function to the flat vector of a random adapter that clearly changes the model."""

    def make(layout: AdapterLayout, seed: int) -> bytes:
        numbers = np.random.default_rng(seed).normal(0, 0.05, layout.elements).astype(np.float32)
        if layout.dtype == "float32":
            return numbers.tobytes()
        return (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()

    return make
