from collections.abc import Callable

import numpy as np
import pytest

from registry.base_model import LoadedModel, linear_shapes
from registry.digests import sha256_hex
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout

RECIPE = Recipe(rank=2, alpha=32.0)

MakeAdapters = Callable[..., dict[str, bytes]]


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return RECIPE


@pytest.fixture(scope="session")
def layout(tiny_model: LoadedModel) -> AdapterLayout:
    return AdapterLayout.of(linear_shapes(tiny_model.model, RECIPE.targets), RECIPE.rank, "float32")


@pytest.fixture(scope="session")
def make_adapters(layout: AdapterLayout) -> MakeAdapters:
    """A function to ``count`` random adapters by digest that clearly change the model."""

    def make(count: int, layout: AdapterLayout = layout) -> dict[str, bytes]:
        bodies = (np.random.default_rng(seed).normal(0, 0.1, layout.elements) for seed in range(count))
        datas = (layout.serialise(body.astype(np.float32).tobytes()) for body in bodies)
        return {sha256_hex(data): data for data in datas}

    return make
