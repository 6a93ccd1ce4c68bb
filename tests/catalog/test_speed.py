from __future__ import annotations

from dataclasses import replace

import pytest

from registry.catalog.adapters import add_pack
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import BuildCounts, finish_build, stage
from registry.catalog.engine import Catalog
from registry.catalog.speed import FEWEST_ADAPTERS, measured_speed
from tests.catalog.workshop import TRAINING, Workshop, augmentation_of, encoded_adapter, pack_of, placed


def encode(workshop: Workshop, first: int, count: int, *, seconds: float) -> None:
    """Record a build on the host "mill" that trained ``count`` documents, each for ``seconds``."""
    documents = [placed(number) for number in range(first, first + count)]
    with workshop.catalog.write() as session:
        build = workshop.begin(session)
        stage(session, build, documents)
        augmentations = [augmentation_of(item.document) for item in documents]
        add_augmentations(session, augmentations)
        training = replace(TRAINING, elapsed_seconds=seconds)
        encoded = [replace(encoded_adapter(item, workshop.recipe), training=training) for item in augmentations]
        add_pack(session, pack_of([item.digest for item in encoded]), encoded, build)
        finish_build(session, build, status="finished", counts=BuildCounts(), error=None)


def test_the_newest_build_of_enough_adapters_counts(any_catalog: Catalog) -> None:
    workshop = Workshop(any_catalog)
    recipe = workshop.recipe.digest

    def speed(recipe: str = recipe, device: str = "cpu", host: str = "mill") -> float | None:
        with any_catalog.read() as session:
            return measured_speed(session, recipe, device=device, host=host)

    assert speed() is None
    encode(workshop, 0, FEWEST_ADAPTERS - 1, seconds=1.0)
    assert speed() is None
    encode(workshop, 100, FEWEST_ADAPTERS, seconds=4.0)
    assert speed() == pytest.approx(TRAINING.tokens / 4)
    encode(workshop, 200, FEWEST_ADAPTERS, seconds=2.0)
    assert speed() == pytest.approx(TRAINING.tokens / 2)
    encode(workshop, 300, 1, seconds=1.0)
    assert speed() == pytest.approx(TRAINING.tokens / 2)
    assert speed(device="cuda") is None
    assert speed(host="another") is None
    assert speed(recipe="0" * 64) is None
