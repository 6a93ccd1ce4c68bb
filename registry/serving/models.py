"""What is served: base models in memory, and versions of corpora that stay open for as long as they are asked.

Everything here may be called by several threads, and may wait for the catalog or the disk: never from the event loop.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from registry.base_model import LoadedModel
from registry.catalog.recipes import get_recipe
from registry.catalog.served import OfferedCorpus, offered_corpora
from registry.errors import NotFoundError, UsageError
from registry.pipeline.adapter_memory import AdapterMemory
from registry.pipeline.base_models import BaseModels
from registry.pipeline.opened import Registry
from registry.pipeline.query import Asker
from registry.progress import Progress
from registry.recipe import Recipe
from registry.records import Version
from registry.serving.engine import Lane
from registry.serving.settings import ServeSettings

MOST_OPEN = 16
"""So many versions stay open that nobody asks at the moment."""
IDLE_SECONDS = 600
"""A version that nobody asked for so long is closed, so that gc may collect it."""
LISTED_VERSIONS = 20
"""So many versions of a corpus are listed, the newest."""


@dataclass(eq=False)
class OpenVersion:
    """A version that is being read; ``users`` requests see it at the moment."""

    asker: Asker
    lane: Lane
    lease: ExitStack = field(repr=False)
    users: int = 0
    used_at: float = 0.0

    @property
    def version(self) -> Version:
        """The version itself."""
        return self.asker.version


class Bases:
    """The base models that are served, each in every dtype that a recipe asks for."""

    def __init__(self, registry: Registry, settings: ServeSettings, progress: Progress) -> None:
        """Choose the base models; none is loaded yet.

        Raises:
            NotFoundError: a corpus that is named is not there, or there is none at all.
            UsageError: the corpora have several base models, and none is named.
        """
        self._registry = registry
        self._models = BaseModels(registry, device=settings.device, dtype=settings.dtype, progress=progress)
        self.fingerprints = self._choose(settings.corpora)

    def serves(self, fingerprint: str) -> bool:
        """Return whether a base model is one of those that are served."""
        return fingerprint in self.fingerprints

    def require(self, fingerprint: str) -> None:
        """Check that a base model is served.

        Raises:
            NotFoundError: it is not.
        """
        if not self.serves(fingerprint):
            raise NotFoundError(
                "its base model is not loaded by this server", hint="pragreg serve with the names of its corpora"
            )

    def get(self, recipe: Recipe) -> LoadedModel:
        """Return the base model of a recipe, which is loaded the first time.

        Raises:
            NotFoundError: it is not served.
            BaseModelError: it is not to be had, or is another one now.
        """
        self.require(recipe.base_model)
        return self._models.get(recipe)

    def _choose(self, corpora: Sequence[str]) -> frozenset[str]:
        with self._registry.catalog.read() as session:
            offered = {corpus.name: _current(corpus) for corpus in offered_corpora(session, 1)}
        for name in corpora:
            if name not in offered:
                raise NotFoundError(
                    f"there is no corpus {name!r} that could be asked",
                    hint=f"there are: {', '.join(offered)}" if offered else "pragreg build SOURCE...",
                )
        if not offered:
            raise NotFoundError("there is nothing to serve: no corpus has a version", hint="pragreg build SOURCE...")
        chosen = frozenset(offered[name] for name in (corpora or offered))
        if not corpora and len(chosen) > 1:
            raise UsageError(
                f"the corpora have {len(chosen)} base models, which would all be loaded",
                hint=f"name the corpora to serve, as in: pragreg serve {next(iter(offered))}",
            )
        return chosen


class Versions:
    """The versions that are open, the least recently asked last to stay."""

    def __init__(self, registry: Registry, bases: Bases, memory: AdapterMemory) -> None:
        """Open none yet."""
        self.registry, self.bases, self._memory = registry, bases, memory
        self._open: OrderedDict[tuple[str, int], OpenVersion] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: dict[tuple[str, int], threading.Lock] = {}

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def acquire(self, reference: str) -> OpenVersion:
        """Return the version that a reference names now, open until ``release``.

        Raises:
            NotFoundError: there is no such version, it was collected, or its base model is not served.
        """
        version = self.registry.version(reference)
        key = version.corpus, version.number
        found = self._take(key)
        if found is not None:
            return found
        with self._lock:
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:  # one opens it, and others who want it wait
            found = self._take(key) or self._keep(key, version)
        self.close_idle()
        return found

    def release(self, opened: OpenVersion) -> None:
        """Let go of a version; it stays open for the next who asks."""
        with self._lock:
            opened.users -= 1
            opened.used_at = time.monotonic()

    def close_idle(self) -> None:
        """Close what nobody asks and nobody asked for long, or what is too much."""
        now = time.monotonic()
        with self._lock:
            idle = [key for key, each in self._open.items() if not each.users]
            stale = [key for key in idle if now - self._open[key].used_at > IDLE_SECONDS]
            surplus = idle[: max(0, len(idle) - MOST_OPEN)]
            closing = [self._open.pop(key) for key in {*stale, *surplus}]
        for each in closing:
            each.lease.close()

    def close(self) -> None:
        """Close all."""
        with self._lock:
            closing = list(self._open.values())
            self._open.clear()
        for each in closing:
            each.lease.close()

    def look_up(self, reference: str) -> tuple[Version, str]:
        """Return the version that a reference names now, and its base model's fingerprint; opens nothing.

        Raises:
            NotFoundError: as ``acquire``.
        """
        version = self.registry.version(reference)
        with self.registry.catalog.read() as session:
            base_model = get_recipe(session, version.recipe_digest).base_model
        self.bases.require(base_model)
        return version, base_model

    def offered(self) -> list[OfferedCorpus]:
        """Return the corpora that can be asked, with some of their versions."""
        with self.registry.catalog.read() as session:
            return offered_corpora(session, LISTED_VERSIONS)

    def _take(self, key: tuple[str, int]) -> OpenVersion | None:
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                found.users += 1
                self._open.move_to_end(key)
            return found

    def _keep(self, key: tuple[str, int], version: Version) -> OpenVersion:
        try:
            opened = self._opened(version)
            opened.users = 1
            with self._lock:
                self._open[key] = opened
            return opened
        finally:
            with self._lock:
                self._opening.pop(key, None)

    def _opened(self, version: Version) -> OpenVersion:
        with ExitStack() as stack:
            version = stack.enter_context(self.registry.leased(version))
            recipe, _ = self.registry.recipe_of(version)
            loaded = self.bases.get(recipe)
            asker = Asker(self.registry, version, loaded, self._memory)
            return OpenVersion(asker, Lane(loaded, asker.layout, recipe.scale), stack.pop_all())


def _current(corpus: OfferedCorpus) -> str:
    """Return the base model of the version that ``latest`` names, or of the newest."""
    latest = corpus.aliases.get("latest")
    versions = corpus.versions
    return next((each.base_model for each in versions if each.version.number == latest), versions[0].base_model)
