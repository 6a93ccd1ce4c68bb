"""Adapters: what they were made from, how, and in which pack they lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, SQLColumnExpression, delete, or_, select, update
from sqlalchemy.orm import Session, aliased

from registry.catalog import dialect
from registry.catalog.chunks import chunked
from registry.catalog.dialect import BULK, insert_new, lock_packs
from registry.catalog.identifiers import complete_digest, ids_by_digest, require_ids
from registry.catalog.models import (
    AdapterInputRow,
    AdapterLocationRow,
    AdapterRow,
    AugmentationRow,
    BuildRow,
    CorpusRow,
    DocumentRow,
    PackRow,
    RecipeRow,
    RemoteLocationRow,
    TaskAdapterRow,
    TrainedColumns,
    utc_now,
)
from registry.errors import IntegrityError, NotFoundError
from registry.records import AdapterLocation, EncodedAdapter, Pack, Training

_PLACES = """
SELECT adapters.digest, packs.digest, adapter_locations."offset", adapter_locations.size_bytes
FROM adapters
JOIN adapter_locations ON adapter_locations.adapter_id = adapters.id
JOIN packs ON packs.id = adapter_locations.pack_id
WHERE adapters.digest IN ({digests})
ORDER BY packs.id
"""

# The columns are called like the fields.
_TRAINING = [field.name for field in fields(Training)]


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """All that the catalog knows of an adapter: what it was first made from, and how."""

    digest: str
    document_digest: str
    title: str
    augmentation_digest: str
    recipe_digest: str
    kind: str
    producer: str
    size_bytes: int
    parameters: int
    training: Training
    build_id: int | None
    created_at: datetime


def find_adapters(
    session: Session, recipe_digest: str, pairs: Iterable[tuple[str, str]], *, lost_packs: Iterable[str] = ()
) -> dict[tuple[str, str], str]:
    """Return the adapters that ``pairs`` (document digest, augmentation digest) gave under a recipe.

    By pair; pairs without an adapter are left out, and those whose adapter lies neither in a pack (but ``lost_packs``)
    nor in a repository.
    """
    found: dict[tuple[str, str], str] = {}
    lies = has_place(AdapterRow.id, ids_by_digest(session, PackRow, lost_packs).values())
    recipe = ids_by_digest(session, RecipeRow, [recipe_digest]).get(recipe_digest)
    for chunk in chunked(pairs):
        wanted = set(chunk)
        numbers = ids_by_digest(session, AugmentationRow, {augmentation for _, augmentation in wanted})
        rows = session.execute(
            select(DocumentRow.digest, AugmentationRow.digest, AdapterRow.digest)
            .join(AugmentationRow, AugmentationRow.document_id == DocumentRow.id)
            .join(AdapterInputRow, AdapterInputRow.augmentation_id == AugmentationRow.id)
            .join(AdapterRow, AdapterRow.id == AdapterInputRow.adapter_id)
            .where(AdapterInputRow.augmentation_id.in_(numbers.values()), AdapterInputRow.recipe_id == recipe)
            .where(lies)
        )
        for document, augmentation, adapter in rows:
            if (document, augmentation) in wanted:
                found[document, augmentation] = adapter
    return found


def has_place(adapter: SQLColumnExpression[int], lost_packs: Collection[int] = ()) -> ColumnElement[bool]:
    """Return the condition that an adapter lies in a pack (but those of ``lost_packs``, row ids) or in a repository."""
    here = select(AdapterLocationRow.pack_id).where(AdapterLocationRow.adapter_id == adapter)
    if lost_packs:
        here = here.where(AdapterLocationRow.pack_id.not_in(lost_packs))
    return or_(here.exists(), in_repository(adapter))


def in_repository(adapter: SQLColumnExpression[int]) -> ColumnElement[bool]:
    """Return the condition that an adapter lies in a repository."""
    return select(RemoteLocationRow.remote_id).where(RemoteLocationRow.adapter_id == adapter).exists()


def add_pack(session: Session, pack: Pack, adapters: Iterable[EncodedAdapter], build_id: int | None) -> None:
    """Record a pack that lies in the store, its adapters (``data`` may be empty) and where each lies.

    Adapters that are known already keep their first history; the pack becomes one more place where they lie. Where
    the adapter that their document gave before lies nowhere any more, they are what it gives from now on.

    Raises:
        NotFoundError: a document, augmentation or recipe is not in the catalog.
        IntegrityError: an adapter is not in the pack.
    """
    sizes = {item.adapter_digest: item.size_bytes for item in pack.adapters}
    for chunk in chunked(adapters):
        _add_adapters(session, chunk, sizes, pack.digest, build_id)
    _add_pack_row(session, pack, build_id)


def forget_covered(session: Session, digests: Iterable[str]) -> list[str]:
    """Forget those packs of ``digests`` whose adapters all lie in packs besides them, and return their digests.

    Packs that are not in the catalog any more are left out, as are those that hold a task adapter.
    """
    lock_packs(session)
    given = ids_by_digest(session, PackRow, digests)
    needed = {number for _, number in session.execute(_only_in(given.values()))}
    needed |= set(session.scalars(select(TaskAdapterRow.pack_id).where(TaskAdapterRow.pack_id.in_(given.values()))))
    covered = {digest: number for digest, number in given.items() if number not in needed}
    delete_packs(session, covered.values())
    return sorted(covered)


def _only_in(packs: Collection[int]) -> Select[str, int]:
    """Select the adapters that lie in none but these packs, each with the packs of them that it lies in."""
    other = aliased(AdapterLocationRow)
    elsewhere = select(other.adapter_id).where(other.adapter_id == AdapterRow.id, other.pack_id.not_in(packs))
    return (
        select(AdapterRow.digest, AdapterLocationRow.pack_id)
        .join(AdapterLocationRow, AdapterLocationRow.adapter_id == AdapterRow.id)
        .where(AdapterLocationRow.pack_id.in_(packs), ~elsewhere.exists())
    )


def delete_packs(session: Session, packs: Iterable[int]) -> None:
    """Delete the rows of packs (by row id) and of what lies in them."""
    for chunk in chunked(packs):
        inside = delete(AdapterLocationRow).where(AdapterLocationRow.pack_id.in_(chunk))
        session.execute(inside, execution_options=BULK)
        session.execute(delete(PackRow).where(PackRow.id.in_(chunk)), execution_options=BULK)


def find_locations(session: Session, adapter_digests: Iterable[str]) -> dict[str, AdapterLocation]:
    """Return where adapters lie in packs, by digest; those that lie in none are left out."""
    found: dict[str, AdapterLocation] = {}
    for chunk in chunked(set(adapter_digests)):
        query = _PLACES.format(digests=", ".join([dialect.mark(session)] * len(chunk)))
        for digest, pack, offset, size in dialect.driver_rows(session, query, chunk):
            found.setdefault(digest, AdapterLocation(digest, pack, offset, size))
    return found


def locate(session: Session, adapter_digests: Iterable[str]) -> dict[str, AdapterLocation]:
    """Return where adapters lie, by digest.

    Raises:
        NotFoundError: some are unknown or lie in no pack (the message names one).
    """
    wanted = set(adapter_digests)
    found = find_locations(session, wanted)
    if len(found) < len(wanted):
        missing = sorted(wanted - found.keys())
        more = f" (nor do {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise NotFoundError(f"adapter {missing[0]} lies in no pack{more}", hint="pragreg build makes it again")
    return found


def packs_of_build(session: Session, build_id: int) -> list[Pack]:
    """Return the packs that a build wrote, in order of creation."""
    query = select(PackRow.id, PackRow.digest, PackRow.size_bytes)
    return _packs(session, query.where(PackRow.build_id == build_id))


def packs_of_corpus(session: Session, corpus: str, *, below_bytes: int) -> list[Pack]:
    """Return the packs smaller than ``below_bytes`` that builds of a corpus wrote, whichever way those ended."""
    builds = select(BuildRow.id).join(CorpusRow, CorpusRow.id == BuildRow.corpus_id).where(CorpusRow.name == corpus)
    small = select(PackRow.id, PackRow.digest, PackRow.size_bytes).where(PackRow.size_bytes < below_bytes)
    return _packs(session, small.where(PackRow.build_id.in_(builds)))


def _packs(session: Session, query: Select[int, str, int]) -> list[Pack]:
    packs: list[Pack] = []
    for number, digest, size in session.execute(query.order_by(PackRow.id)).all():
        inside = session.execute(
            _locations().where(AdapterLocationRow.pack_id == number).order_by(AdapterLocationRow.offset)
        )
        packs.append(Pack(digest, size, tuple(AdapterLocation(*row) for row in inside)))
    return packs


def pack_digests(session: Session) -> set[str]:
    """Return the digests of all packs."""
    return set(session.scalars(select(PackRow.digest)))


def forget_packs(session: Session, digests: Iterable[str]) -> None:
    """Forget packs whose bytes are gone; their adapters stay known, but lie in those packs no more.

    So do task adapters: which questions they were trained on is needed as long as what started from them.
    """
    lock_packs(session)
    forgotten = ids_by_digest(session, PackRow, digests).values()
    for number in forgotten:
        held = update(TaskAdapterRow).where(TaskAdapterRow.pack_id == number)
        session.execute(held.values(pack_id=None, offset=None), execution_options=BULK)
    delete_packs(session, forgotten)


def resolve_adapter(session: Session, prefix: str) -> AdapterRecord:
    """Return the adapter whose digest begins with ``prefix``.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    digest = complete_digest(session, AdapterRow.digest, prefix, "adapter")
    row, document, title, augmentation, recipe = session.execute(
        select(AdapterRow, DocumentRow.digest, DocumentRow.title, AugmentationRow.digest, RecipeRow.digest)
        .join(DocumentRow, DocumentRow.id == AdapterRow.document_id)
        .join(AugmentationRow, AugmentationRow.id == AdapterRow.augmentation_id)
        .join(RecipeRow, RecipeRow.id == AdapterRow.recipe_id)
        .where(AdapterRow.digest == digest)
    ).one()
    return AdapterRecord(
        digest=row.digest,
        document_digest=document,
        title=title,
        augmentation_digest=augmentation,
        recipe_digest=recipe,
        kind=row.kind,
        producer=row.producer,
        size_bytes=row.size_bytes,
        parameters=row.parameters,
        training=training_of(row),
        build_id=row.build_id,
        created_at=row.created_at,
    )


def training_columns(training: Training) -> dict[str, Any]:
    """Return what ``TrainedColumns`` hold of a training."""
    return {name: getattr(training, name) for name in _TRAINING}


def training_of(row: TrainedColumns) -> Training:
    """Return the training that ``TrainedColumns`` hold."""
    return Training(**{name: getattr(row, name) for name in _TRAINING})


def _add_adapters(
    session: Session, adapters: Sequence[EncodedAdapter], sizes: dict[str, int], pack: str, build_id: int | None
) -> None:
    documents = require_ids(session, DocumentRow, (item.document_digest for item in adapters), "document")
    augmentations = require_ids(
        session, AugmentationRow, (item.augmentation_digest for item in adapters), "augmentation"
    )
    recipes = require_ids(session, RecipeRow, (item.recipe_digest for item in adapters), "recipe")
    now = utc_now()
    rows = []
    for item in adapters:
        if item.digest not in sizes:
            raise IntegrityError(f"adapter {item.digest} is not in pack {pack}")
        rows.append(
            {
                "digest": item.digest,
                "document_id": documents[item.document_digest],
                "augmentation_id": augmentations[item.augmentation_digest],
                "recipe_id": recipes[item.recipe_digest],
                "build_id": build_id,
                "kind": "lora",
                "producer": "trained",
                "size_bytes": sizes[item.digest],
                "parameters": item.parameters,
                **training_columns(item.training),
                "created_at": now,
            }
        )
    insert_new(session, AdapterRow, rows)
    numbers = ids_by_digest(session, AdapterRow, (item.digest for item in adapters))
    inputs = [
        {
            "augmentation_id": augmentations[item.augmentation_digest],
            "recipe_id": recipes[item.recipe_digest],
            "adapter_id": numbers[item.digest],
        }
        for item in adapters
    ]
    add_inputs(session, inputs)


def add_inputs(session: Session, inputs: Sequence[Mapping[str, int]]) -> None:
    """Record which adapters inputs gave (rows of their table); the first ones stand, unless they lie nowhere."""
    for chunk in chunked(inputs):
        _forget_lost_inputs(session, chunk)
        insert_new(session, AdapterInputRow, chunk)


def _forget_lost_inputs(session: Session, inputs: Sequence[Mapping[str, int]]) -> None:
    """Forget what these inputs gave where that lies nowhere: trained again, they need not give the same bytes."""
    lies = has_place(AdapterInputRow.adapter_id)
    for recipe in {item["recipe_id"] for item in inputs}:
        augmentations = [item["augmentation_id"] for item in inputs if item["recipe_id"] == recipe]
        given = (AdapterInputRow.recipe_id == recipe, AdapterInputRow.augmentation_id.in_(augmentations))
        session.execute(delete(AdapterInputRow).where(*given, ~lies), execution_options=BULK)


def _add_pack_row(session: Session, pack: Pack, build_id: int | None) -> None:
    row = {"digest": pack.digest, "size_bytes": pack.size_bytes, "build_id": build_id, "created_at": utc_now()}
    insert_new(session, PackRow, [row])
    number = ids_by_digest(session, PackRow, [pack.digest])[pack.digest]
    for chunk in chunked(pack.adapters):
        adapters = require_ids(session, AdapterRow, (item.adapter_digest for item in chunk), "adapter")
        locations = [
            {
                "adapter_id": adapters[item.adapter_digest],
                "pack_id": number,
                "offset": item.offset,
                "size_bytes": item.size_bytes,
            }
            for item in chunk
        ]
        insert_new(session, AdapterLocationRow, locations)


def _locations() -> Select[str, str, int, int]:
    return (
        select(AdapterRow.digest, PackRow.digest, AdapterLocationRow.offset, AdapterLocationRow.size_bytes)
        .join(AdapterLocationRow, AdapterLocationRow.adapter_id == AdapterRow.id)
        .join(PackRow, PackRow.id == AdapterLocationRow.pack_id)
    )
