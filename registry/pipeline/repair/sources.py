"""Where a lost adapter may be had again, as bytes with its digest, in the order in which it is asked for there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

from registry.catalog.adapters import pack_digests
from registry.catalog.remotes.remotes import list_remotes, locate_remote
from registry.errors import HubError, IntegrityError
from registry.pipeline.opened import Registry
from registry.recipe import Recipe
from registry.store.headers import Bytes
from registry.store.layout import check_body, read_layout
from registry.store.packs import PackStore
from registry.store.salvage import sound_adapters


class AdapterSource(Protocol):
    """Something that may have adapters; ``name`` says for people where they came from."""

    @property
    def name(self) -> str:
        """As in "1 adapter came from NAME"."""

    def adapters(self, wanted: Collection[str]) -> Iterator[tuple[str, Bytes]]:
        """Yield those of the adapters ``wanted`` that it has, each once and with bytes that have its digest."""


class Contents:
    """A source that is made of the bytes of packs, sound or not."""

    def __init__(self, name: str, contents: Callable[[set[str]], Iterable[memoryview]]) -> None:
        """Take a function that yields the bytes of one pack after the other that may hold any of some adapters."""
        self.name = name
        self._contents = contents

    def adapters(self, wanted: Collection[str]) -> Iterator[tuple[str, Bytes]]:
        """Look through the packs until all adapters are found."""
        left = set(wanted)
        for data in self._contents(left):
            for digest, view in sound_adapters(data, wanted=left):
                left.discard(digest)
                yield digest, view
            if not left:
                return


class Repository:
    """A source on the Hub; where it cannot be reached, or gives what it should not, that is told and nothing comes."""

    def __init__(self, registry: Registry, repository: str, notify: Callable[[str], None]) -> None:
        """Take a repository that a corpus was pushed to or pulled from."""
        self.name = f"the repository {repository}"
        self._registry, self._repository, self._notify = registry, repository, notify

    def adapters(self, wanted: Collection[str]) -> Iterator[tuple[str, Bytes]]:
        """Read the adapters that it has by range."""
        with self._registry.catalog.read() as session:
            places = locate_remote(session, wanted)
        there = [digest for digest, place in places.items() if place.repository == self._repository]
        try:
            yield from self._registry.fetch(there)
        except (HubError, IntegrityError) as error:
            self._notify(f"{self.name} does not help: {error.message}")


def copies_of_adapters(
    registry: Registry, backup: Registry | None, notify: Callable[[str], None]
) -> list[AdapterSource]:
    """Return the sources that have copies of adapters, nearest first; ``notify`` is told of those that fail."""

    def unknown(wanted: set[str]) -> Iterator[memoryview]:
        with registry.catalog.read() as session:
            known = pack_digests(session)
        return _contents(registry.packs, known, wanted)

    def quarantined(_: set[str]) -> Iterator[memoryview]:
        for digest in sorted({pack.digest for pack in registry.packs.quarantined()}):
            yield from registry.packs.quarantined_contents(digest)

    sources: list[AdapterSource] = [
        Contents("a pack that the catalog did not know", unknown),
        Contents("a file in quarantine", quarantined),
    ]
    if backup is not None:
        packs = backup.packs
        sources.append(Contents("the backup", lambda wanted: _contents(packs, set(), wanted)))
    with registry.catalog.read() as session:
        repositories = dict.fromkeys(remote.repository for remote in list_remotes(session))
    return [*sources, *(Repository(registry, name, notify) for name in repositories)]


def _contents(packs: PackStore, without: set[str], wanted: set[str]) -> Iterator[memoryview]:
    for pack in list(packs.list()):
        if pack.digest in without:
            continue
        try:
            if wanted.isdisjoint(place.adapter_digest for place in packs.inspect(pack.digest).adapters):
                continue
        except IntegrityError:  # it may hold something all the same
            if not packs.exists(pack.digest):
                continue
        yield packs.contents(pack.digest)


def is_of_use(data: Bytes, recipe: Recipe) -> bool:
    """Return whether an adapter with the right digest is one that its recipe can have made, and does something."""
    try:
        layout = read_layout(data)
        check_body(layout, layout.body(data))
    except IntegrityError:
        return False
    kinds = {module.rpartition(".")[2] for module in layout.modules}
    return (layout.rank, layout.dtype) == (recipe.rank, recipe.adapter_dtype) and kinds <= set(recipe.targets)
