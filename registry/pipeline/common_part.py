"""What the adapters of a version have in common, without its base model in memory."""

from __future__ import annotations

from registry.catalog.members import member_adapters
from registry.catalog.task_adapters import get_task_adapter, locate_task_adapter
from registry.merging.common import FORMAT, MOST_ADAPTERS, mean_adapter, remembered, spread
from registry.pipeline.opened import Registry
from registry.recipe import Recipe
from registry.records import Version
from registry.store.layout import AdapterLayout

COMMON_FOLDER = "common"
"""The folder of the home with the common parts of versions; derived, and made again where one is missing."""


def common_part(registry: Registry, version: Version, recipe: Recipe, layout: AdapterLayout) -> bytes:
    """Return the flat vector of what the version's adapters have in common.

    That is the task adapter, where they started from one; else their mean, made once and remembered.

    Raises:
        NotFoundError: the task adapter is not in the catalog.
        IntegrityError: an adapter's bytes are lost or damaged.
    """
    if recipe.task_adapter:
        return _task_adapter(registry, recipe, layout)
    file = registry.home.path / COMMON_FOLDER / mean_name(version)
    return remembered(file, layout.body_bytes, lambda: _mean(registry, version, layout))


def mean_name(version: Version) -> str:
    """Return what identifies the mean of a version's adapters, which is also its file's name."""
    return f"{version.digest}.mean-{MOST_ADAPTERS}-{FORMAT}"


def _task_adapter(registry: Registry, recipe: Recipe, layout: AdapterLayout) -> bytes:
    with registry.catalog.read() as session:
        digest = get_task_adapter(session, recipe.task_adapter).digest
        location = locate_task_adapter(session, digest)
    return bytes(layout.body(registry.packs.read(location)))


def _mean(registry: Registry, version: Version, layout: AdapterLayout) -> bytes:
    chosen = set(spread(version.documents))
    with registry.catalog.read() as session:
        every = enumerate(member_adapters(session, version))
        digests = [adapter for number, adapter in every if number in chosen]
    bodies = [layout.body(data) for data in registry.adapters(digests).values()]
    return mean_adapter(layout, bodies).body
