"""What repair reads and writes of packs, and of what adapters were made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from registry.catalog.augmentations import read_payload
from registry.catalog.chunks import chunked
from registry.catalog.dialect import BULK, insert_new
from registry.catalog.identifiers import ids_by_digest
from registry.catalog.models import (
    AdapterInputRow,
    AdapterLocationRow,
    AdapterRow,
    AugmentationRow,
    DocumentRow,
    PackRow,
    RecipeRow,
    TaskAdapterRow,
    utc_now,
)
from registry.records import AdapterLocation, Augmentation, Document, EncodingInput, Pack


@dataclass(frozen=True, slots=True)
class Member:
    """An adapter as one of the group that it was trained in, and what it was made from.

    ``augmentation_digest`` is what the augmentation's content should have. ``group_size`` is how many adapters were
    trained in the same passes, ``device`` where.
    """

    digest: str
    given: EncodingInput
    augmentation_digest: str
    recipe_digest: str
    device: str
    group_size: int


def packs_holding(session: Session, adapter_digests: Iterable[str]) -> set[str]:
    """Return the digests of the packs in which adapters or task adapters lie."""
    found: set[str] = set()
    for chunk in chunked(adapter_digests):
        adapters = (
            select(PackRow.digest)
            .join(AdapterLocationRow, AdapterLocationRow.pack_id == PackRow.id)
            .join(AdapterRow, AdapterRow.id == AdapterLocationRow.adapter_id)
            .where(AdapterRow.digest.in_(chunk))
        )
        tasks = select(PackRow.digest).join(TaskAdapterRow, TaskAdapterRow.pack_id == PackRow.id)
        found.update(session.scalars(adapters))
        found.update(session.scalars(tasks.where(TaskAdapterRow.digest.in_(chunk))))
    return found


def located(session: Session, adapter_digests: Iterable[str]) -> set[str]:
    """Return those of the adapters that lie in a pack."""
    found: set[str] = set()
    lies = select(AdapterLocationRow.pack_id).where(AdapterLocationRow.adapter_id == AdapterRow.id)
    for chunk in chunked(adapter_digests):
        found.update(session.scalars(select(AdapterRow.digest).where(AdapterRow.digest.in_(chunk), lies.exists())))
    return found


def set_table(session: Session, pack: Pack) -> None:
    """Let the table of packs say of a pack, which lies in the store, just what its header says.

    What the header holds and the catalog does not know is passed over. A pack that is new here counts as written by
    the last build that made an adapter of it, so that builds go on combining it.
    """
    digests = [place.adapter_digest for place in pack.adapters]
    adapters = ids_by_digest(session, AdapterRow, digests)
    builds = (
        session.scalar(select(func.max(AdapterRow.build_id)).where(AdapterRow.id.in_(chunk)))
        for chunk in chunked(adapters.values())
    )
    build = max((number for number in builds if number is not None), default=None)
    row = {"digest": pack.digest, "size_bytes": pack.size_bytes, "build_id": build, "created_at": utc_now()}
    insert_new(session, PackRow, [row])
    number = ids_by_digest(session, PackRow, [pack.digest])[pack.digest]
    session.execute(update(PackRow).where(PackRow.id == number).values(size_bytes=pack.size_bytes))
    session.execute(delete(AdapterLocationRow).where(AdapterLocationRow.pack_id == number), execution_options=BULK)
    rows = [
        {"adapter_id": adapters[place.adapter_digest], "pack_id": number, **_range(place)}
        for place in pack.adapters
        if place.adapter_digest in adapters
    ]
    insert_new(session, AdapterLocationRow, rows)
    held = update(TaskAdapterRow).where(TaskAdapterRow.pack_id == number)
    session.execute(held.values(pack_id=None, offset=None), execution_options=BULK)
    for place in pack.adapters:
        if place.adapter_digest not in adapters:
            task = update(TaskAdapterRow).where(TaskAdapterRow.digest == place.adapter_digest)
            session.execute(task.values(pack_id=number, offset=place.offset), execution_options=BULK)


def recipes_of_adapters(session: Session, digests: Iterable[str]) -> dict[str, str]:
    """Return the digests of the recipes that adapters and task adapters were made by, by the adapters' digests."""
    found: dict[str, str] = {}
    for chunk in chunked(digests):
        for row in (AdapterRow, TaskAdapterRow):
            query = select(row.digest, RecipeRow.digest).join(RecipeRow, RecipeRow.id == row.recipe_id)
            found |= {adapter: recipe for adapter, recipe in session.execute(query.where(row.digest.in_(chunk)))}
    return found


def training_groups(session: Session, adapter_digests: Iterable[str]) -> list[list[Member]]:
    """Return the groups in which adapters were trained, whole and in their order.

    The adapters of a group were recorded together: they share build and moment, and follow each other.
    """
    wanted = set(adapter_digests)
    moments = set()
    for chunk in chunked(wanted):
        query = select(AdapterRow.build_id, AdapterRow.created_at).where(AdapterRow.digest.in_(chunk))
        moments |= {(build, moment) for build, moment in session.execute(query)}
    groups: list[list[Member]] = []
    for build, moment in sorted(moments, key=lambda item: (item[1], item[0] or 0)):
        together = (
            select(
                AdapterRow.digest, AdapterRow.device, AdapterRow.group_size, RecipeRow.digest,
                DocumentRow.digest, DocumentRow.title, DocumentRow.text,
                AugmentationRow.digest, AugmentationRow.generator, AugmentationRow.prompts_version,
                AugmentationRow.payload,
            )
            .join(RecipeRow, RecipeRow.id == AdapterRow.recipe_id)
            .join(DocumentRow, DocumentRow.id == AdapterRow.document_id)
            .join(AugmentationRow, AugmentationRow.id == AdapterRow.augmentation_id)
            .where(AdapterRow.created_at == moment, AdapterRow.build_id.is_not_distinct_from(build))
            .order_by(AdapterRow.id)
        )  # fmt: skip
        members = [_member(*row) for row in session.execute(together)]
        groups += (group for group in _cut(members) if any(member.digest in wanted for member in group))
    return groups


def give_instead(session: Session, old: str, new: str) -> None:
    """Let whatever gave the adapter ``old`` give ``new`` in the builds to come; versions stay as they are."""
    numbers = ids_by_digest(session, AdapterRow, [old, new])
    given = update(AdapterInputRow).where(AdapterInputRow.adapter_id == numbers[old])
    session.execute(given.values(adapter_id=numbers[new]), execution_options=BULK)


def _range(place: AdapterLocation) -> dict[str, int]:
    return {"offset": place.offset, "size_bytes": place.size_bytes}


def _member(
    digest: str, device: str, group_size: int, recipe: str, document: str, title: str, text: str,
    digest_of_augmentation: str, generator: str, prompts_version: str, payload: dict[str, object],
) -> Member:  # fmt: skip
    try:
        rewrites, pairs = read_payload(payload)
    except (KeyError, TypeError):  # altered: what is made of nothing does not have its digest either
        rewrites, pairs = (), ()
    augmentation = Augmentation(document, "", generator, prompts_version, rewrites, pairs)
    given = EncodingInput(Document(document, title, text), augmentation)
    return Member(digest, given, digest_of_augmentation, recipe, device, group_size)


def _cut(members: Sequence[Member]) -> list[list[Member]]:
    """Cut what was recorded together where memory had it trained in parts: each says how many its own part has."""
    groups: list[list[Member]] = []
    for _, alike in groupby(members, key=lambda member: (member.group_size, member.recipe_digest)):
        same = list(alike)
        size = same[0].group_size
        groups += (same[start : start + size] for start in range(0, len(same), size))
    return groups
