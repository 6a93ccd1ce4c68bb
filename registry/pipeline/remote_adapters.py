"""Adapters that lie only in repositories on the Hub: read by range when asked for, checked, and kept for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from registry.base_model import target_shapes
from registry.catalog.recipes import get_base_model, get_recipe
from registry.catalog.remotes.remotes import RemoteLocation
from registry.catalog.upkeep.repairs import recipes_of_adapters
from registry.digests import sha256_hex, short
from registry.errors import BaseModelError, HubError, IntegrityError
from registry.hub.arrivals import check_adapter
from registry.hub.cache import AdapterCache
from registry.hub.client import Hub
from registry.hub.names import pack_path
from registry.pipeline.base_models import files_of
from registry.progress import Silent
from registry.recipe import Recipe
from registry.records import BaseModel
from registry.store.layout import AdapterLayout, read_layout

if TYPE_CHECKING:
    from registry.pipeline.opened import Registry

CACHE_FOLDER = "cache"
AT_ONCE = 8
"""Ranges that are asked for side by side."""


class RemoteAdapters:
    """Reads adapters from repositories, and keeps them in the home's cache. Safe to share between threads."""

    def __init__(self, registry: Registry) -> None:
        """Read for this registry; nothing is asked for yet."""
        self._registry = registry
        self._cache = AdapterCache(registry.home.hub_path / CACHE_FOLDER, registry.home.cache_bytes)
        self._hub: Hub | None = None
        self._layouts: dict[str, tuple[Recipe, AdapterLayout | None]] = {}

    def read(self, locations: Mapping[str, RemoteLocation]) -> dict[str, memoryview]:
        """Return the bytes of adapters: from the cache, and the others by one request each, several at once.

        Raises:
            HubError: a repository cannot be reached; the message names it.
            IntegrityError: what came is not the adapter, or one that its recipe cannot have made.
        """
        kept = {digest: data for digest in locations if (data := self._cache.get(digest)) is not None}
        for digest, fetched in self.fetch({key: place for key, place in locations.items() if key not in kept}):
            self._cache.put(digest, fetched)
            kept[digest] = memoryview(fetched)
        return kept

    def fetch(self, locations: Mapping[str, RemoteLocation]) -> Iterator[tuple[str, bytes]]:
        """Yield adapters by digest as they come; raises as ``read``."""
        if not locations:
            return
        hub = self._connected(locations.values())
        layouts = self._layouts_of(locations)
        pool = ThreadPoolExecutor(min(AT_ONCE, len(locations)), thread_name_prefix="fetching")
        try:
            futures = [pool.submit(_range, hub, place) for place in locations.values()]
            for future in as_completed(futures):
                digest, data = future.result()
                _check(data, digest, *layouts[digest])
                yield digest, data
        except BaseException:
            self._hub = None
            hub.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _connected(self, places: Iterable[RemoteLocation]) -> Hub:
        """Return the connection to the endpoint that the environment names: only that one is told who asks.

        Raises:
            HubError: an adapter lies at another one.
        """
        hub = self._hub = self._hub or Hub()
        for place in places:
            if place.endpoint != hub.endpoint:
                raise HubError(
                    f"the adapter {short(place.adapter_digest)} lies in {place.repository} at {place.endpoint}, and "
                    f"{hub.endpoint} is asked",
                    hint=f"set HF_ENDPOINT={place.endpoint}",
                )
        return hub

    def _layouts_of(self, digests: Iterable[str]) -> dict[str, tuple[Recipe, AdapterLayout | None]]:
        """Return the recipes of adapters, each with its layout; None where its base model is not to be had."""
        with self._registry.catalog.read() as session:
            recipe_of = recipes_of_adapters(session, digests)
            new = {digest: get_recipe(session, digest) for digest in set(recipe_of.values()) - self._layouts.keys()}
            base_models = {digest: get_base_model(session, recipe.base_model) for digest, recipe in new.items()}
        for digest, recipe in new.items():
            self._layouts[digest] = recipe, self._layout(recipe, base_models[digest])
        return {adapter: self._layouts[recipe] for adapter, recipe in recipe_of.items()}

    def _layout(self, recipe: Recipe, base_model: BaseModel) -> AdapterLayout | None:
        try:
            files = files_of(self._registry, base_model, Silent())
            shapes = target_shapes(files.folder, recipe.targets, recipe.first_layer)
        except BaseModelError:
            return None
        return AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype)


def _range(hub: Hub, place: RemoteLocation) -> tuple[str, bytes]:
    asked = place.repository, place.commit_id, pack_path(place.pack.digest), place.offset, place.size_bytes
    try:
        data = hub.read_range(*asked)
        if sha256_hex(data) != place.adapter_digest:  # damaged on its way, perhaps
            data = hub.read_range(*asked)
    except HubError as error:
        raise HubError(
            f"the adapter {short(place.adapter_digest)} lies only in the repository {place.repository}: "
            f"{error.message}",
            hint=f"when it can be reached, pragreg pull {place.repository} brings all adapters here",
        ) from error
    return place.adapter_digest, data


def _check(data: bytes, digest: str, recipe: Recipe, layout: AdapterLayout | None) -> None:
    """Check an adapter as it came; without its base model the header must be one that its recipe may have made."""
    if layout is None:
        if sha256_hex(data) != digest:
            raise IntegrityError(f"the adapter {short(digest)} arrived with bytes of another digest")
        layout = read_layout(data)
        kinds = {module.rpartition(".")[2] for module in layout.modules}
        targets = {target.rpartition(".")[2] for target in recipe.targets}
        if (layout.rank, layout.dtype) != (recipe.rank, recipe.adapter_dtype) or not kinds <= targets:
            raise IntegrityError(f"the adapter {short(digest)} is refused: its recipe makes others")
    check_adapter(data, digest, layout)
