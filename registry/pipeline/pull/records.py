"""Texts, augmentations and the history of adapters, as a repository's files of records tell them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from registry.catalog.chunks import chunked
from registry.catalog.remotes.lacking import lacking_records
from registry.catalog.upkeep.repairs import recipes_of_adapters
from registry.digests import short
from registry.errors import IntegrityError
from registry.hub.manifest.records import read_records
from registry.hub.names import records_path
from registry.pipeline.opened import Registry
from registry.pipeline.pull.arriving import Arriving, Wanted
from registry.pipeline.pull.base_models import Layouts
from registry.published import FileRef, Member, MemberRecord
from registry.store.layout import AdapterLayout

Pair: TypeAlias = tuple[str, str]
"""The digests of a document and of its adapter."""

LOOKED_UP = 10_000
"""Pairs that are looked up in one transaction."""
MOST_HELD = 20_000
"""Records that are held in memory between their check and their recording, some KB each; others are read twice."""


@dataclass
class Records:
    """Files of records that are here and checked, and of each the pairs that the catalog lacks.

    ``recipe_of`` names the recipes of adapters, those of the catalog too. ``held`` are records of files that need not
    be read again.
    """

    wanted: dict[FileRef, dict[Pair, Member]] = field(default_factory=dict)
    recipe_of: dict[str, str] = field(default_factory=dict)
    held: dict[FileRef, list[MemberRecord]] = field(default_factory=dict)

    @property
    def files(self) -> list[Wanted]:
        """The files, to be fetched."""
        return [Wanted(file, records_path(file.digest)) for file in self.wanted]

    def read(self, arrived: Arriving) -> Iterator[MemberRecord]:
        """Yield the records that the catalog lacks."""
        for item in self.files:
            yield from self.held.pop(item.file) if item.file in self.held else self._again(item, arrived)

    def _again(self, item: Wanted, arrived: Arriving) -> Iterator[MemberRecord]:
        pairs = self.wanted[item.file]
        for record in read_records(arrived.path_of(item), item.file):
            if (record.document_digest, record.adapter_digest) in pairs:
                yield record


def bring_records(registry: Registry, rows: Iterable[Member], has_text: bool, arrived: Arriving) -> Records:
    """Bring the records of those ``rows`` that the catalog has not all of; they are yet to be checked.

    With ``has_text`` those are brought, too, whose texts are withheld here.

    Raises:
        IntegrityError: a file has another digest than it should have.
        HubError: the Hub cannot be reached, or refuses.
    """
    found = Records()
    by_pair = {(row.document_digest, row.adapter_digest): row for row in rows}
    for chunk in chunked(by_pair, LOOKED_UP):
        with registry.catalog.read() as session:
            lacking = lacking_records(session, chunk, has_text=has_text)
            found.recipe_of |= recipes_of_adapters(session, (adapter for _, adapter in chunk))
        for pair in sorted(lacking):
            found.wanted.setdefault(by_pair[pair].records, {})[pair] = by_pair[pair]
    arrived.bring("fetching texts", found.files)
    return found


def check_records(found: Records, layouts: Layouts, arrived: Arriving) -> None:
    """Check the records that were brought against their rows, and say by which recipe each adapter is.

    Raises:
        IntegrityError: a file is malformed, lacks a record, or says something else than the row.
        Interrupted: the pull has ended meanwhile.
    """
    for file, pairs in found.wanted.items():
        _check(found, file, pairs, layouts, arrived)


def _check(found: Records, file: FileRef, pairs: Mapping[Pair, Member], layouts: Layouts, arrived: Arriving) -> None:
    left = set(pairs)
    path = arrived.path_of(Wanted(file, records_path(file.digest)))
    is_held = sum(map(len, found.held.values())) + len(pairs) <= MOST_HELD
    held: list[MemberRecord] = []
    for record in read_records(path, file):
        arrived.check_going()
        pair = record.document_digest, record.adapter_digest
        if pair not in left:
            continue
        left.discard(pair)
        _check_record(record, pairs[pair], layouts)
        # What is catalogued already keeps its own history.
        found.recipe_of.setdefault(record.adapter_digest, record.recipe_digest)
        if is_held:
            held.append(record)
    if left:
        document, adapter = min(left)
        raise IntegrityError(
            f"the records {short(file.digest)} lack the adapter {short(adapter)} of the document {short(document)}, "
            "which the manifest says are there"
        )
    if is_held:
        found.held[file] = held


def _check_record(record: MemberRecord, row: Member, layouts: Layouts) -> None:
    name = f"the record of the adapter {short(record.adapter_digest)}"
    if not layouts.knows(record.recipe_digest):
        raise IntegrityError(f"{name} names the recipe {short(record.recipe_digest)}, which the root has not")
    if record.size_bytes != row.size_bytes:
        raise IntegrityError(f"{name} says that it has {record.size_bytes} bytes, and the manifest {row.size_bytes}")
    layout = layouts.of_recipe(record.recipe_digest)
    if layout is not None:
        check_sizes(name, record.size_bytes, record.parameters, layout)


def check_sizes(name: str, size_bytes: int, parameters: int, layout: AdapterLayout) -> None:
    """Check that what is said of an adapter's size is what its recipe makes.

    Raises:
        IntegrityError: it is not.
    """
    if (size_bytes, parameters) != (layout.size_bytes, layout.elements):
        raise IntegrityError(
            f"{name} says {size_bytes} bytes and {parameters} parameters; its recipe makes {layout.size_bytes} bytes "
            f"and {layout.elements} parameters"
        )
