"""What was fetched and checked goes into the store and the catalog: bytes, then rows, then versions at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.orm import Session

from registry.catalog.adapters import add_pack
from registry.catalog.aliases import set_alias
from registry.catalog.chunks import chunked
from registry.catalog.names import LATEST
from registry.catalog.references import resolve
from registry.catalog.remotes.receiving import (
    add_places,
    add_records,
    append_version,
    check_versions,
    create_corpus,
)
from registry.catalog.remotes.remotes import add_remote_locations, save_remote
from registry.catalog.remotes.source_names import local_uris
from registry.catalog.task_adapters import add_task_adapter
from registry.pipeline.opened import Registry
from registry.pipeline.pull.arriving import Arriving, Wanted
from registry.pipeline.pull.base_models import OwnModel, record_base_models
from registry.pipeline.pull.content import Content
from registry.pipeline.pull.offer import Offer
from registry.pipeline.pull.packs import Delivery
from registry.pipeline.pull.plan import Plan, local_versions
from registry.pipeline.pull.records import Records
from registry.progress import Progress
from registry.published import PublishedVersion, VersionDelta
from registry.recipe import Recipe
from registry.records import Document, Pack, PlacedDocument, TaskAdapter, Version
from registry.settings import user_name
from registry.store.headers import Bytes

RECORDS_AT_ONCE = 5_000
"""Records of one transaction: other writers wait for its end."""


class MovedError(Exception):
    """The corpus has other versions than those that the pull was planned by: it is to be planned again."""


@dataclass(frozen=True)
class Step:
    """A version to append: as it is described, and what makes it of the one before.

    ``parent`` is the number of a version here. Places are called as in the repository unless ``is_own``.
    """

    version: PublishedVersion
    delta: VersionDelta
    parent: int | None
    is_own: bool = False


def record_texts(
    registry: Registry, offer: Offer, recipes: Mapping[str, Recipe], own: OwnModel, records: Records, arrived: Arriving
) -> None:
    """Record base models, recipes, documents, augmentations, and what adapters were made from."""
    with registry.catalog.write() as session:
        record_base_models(session, offer.root, recipes, own)
    for chunk in chunked(records.read(arrived), RECORDS_AT_ONCE):
        with registry.catalog.write() as session:
            add_records(session, chunk)
    arrived.done(records.files)


def record_packs(registry: Registry, delivery: Delivery, arrived: Arriving, progress: Progress) -> None:
    """Move whole packs into the store, put single adapters into packs of their own, and record where they lie.

    Raises:
        StorageError: the store cannot be written.
    """
    if delivery.packs or delivery.task_adapters or delivery.single:
        progress.start("storing packs", len(delivery.packs) + len(delivery.task_adapters))
    for wanted, pack in delivery.packs:
        registry.store(partial(_take, registry, arrived, wanted, pack), _record_pack)
        progress.advance()
    for published, wanted, pack in delivery.task_adapters:
        registry.store(
            partial(_take, registry, arrived, wanted, pack),
            partial(_record_task_adapter, made=published.task_adapter),
        )
        progress.advance()
    for part in _parts(delivery.single, registry.home.pack_size_bytes):
        registry.store(partial(registry.packs.write, part), _record_pack)
    arrived.done(delivery.cut)
    progress.done()


def record_versions(
    registry: Registry,
    endpoint: str,
    offer: Offer,
    plan: Plan,
    content: Content | None,
    steps: Sequence[Step],
    *,
    is_lazy: bool | None,
) -> tuple[Version, ...]:
    """Append versions, in one transaction with what is known of the repository from now on; return them.

    Where some come, ``latest`` names the one that was pulled or, after a rebase, the last. Where none do, it follows
    that of the repository only if that moved since it was seen.

    Raises:
        MovedError: the corpus changed since the ``plan``.
        IntegrityError: the versions are not what they say.
    """
    with registry.catalog.write() as session:
        create_corpus(session, offer.corpus, offer.root.language)
        if local_versions(session, offer.corpus) != plan.local:
            raise MovedError
        remote = _save_remote(session, endpoint, offer, is_lazy)
        if content is not None and steps:
            last = offer.versions[-1].number
            # The adapters of later versions need not be known.
            here = (row for row in content.changed_rows() if row.from_version <= last)
            add_remote_locations(session, remote, here)
        elif content is not None:
            add_places(session, offer.corpus, _placed(session, offer, remote, content))
        made = [_append(session, offer, remote, step) for step in steps]
        if made:
            check_versions(session, offer.corpus, [version.number for version in made])
        latest = resolve(session, plan.reference_here(offer))
        if made and plan.is_rebase:
            latest = made[-1]
        if made or (offer.seen is not None and offer.is_head and offer.seen.latest != offer.root.latest):
            set_alias(session, latest, LATEST, who=user_name())
    return tuple(made)


def _save_remote(session: Session, endpoint: str, offer: Offer, is_lazy: bool | None) -> int:
    """Record that a repository was pulled from; what was seen of it later than this commit stays known."""
    commit, text = offer.commit, offer.text
    if offer.known is not None and not offer.is_newest:
        commit, text = offer.known.commit_id, offer.known.root
    return save_remote(
        session,
        corpus=offer.corpus,
        endpoint=endpoint,
        repository=offer.repository,
        commit_id=commit,
        root=text,
        is_lazy=is_lazy,
        pulled_at=datetime.now(UTC),
    )


def _append(session: Session, offer: Offer, remote: int, step: Step) -> Version:
    return append_version(
        session,
        offer.corpus,
        step.version,
        parent=step.parent,
        delta=step.delta,
        repository=None if step.is_own else offer.repository,
        remote_id=None if step.is_own else remote,
        is_checked=True,
    )


def _placed(session: Session, offer: Offer, remote: int, content: Content) -> Iterator[PlacedDocument]:
    """Yield where the documents of the version that is pulled stand, as these places are called here."""
    rows = content.target.values()
    names = {place.source_uri for row in rows for place in row.places}
    uris = local_uris(session, offer.repository, remote, names)
    for row in rows:
        document = Document(row.document_digest, "", "")
        yield from (PlacedDocument(document, replace(it, source_uri=uris[it.source_uri])) for it in row.places)


def _take(registry: Registry, arrived: Arriving, wanted: Wanted, pack: Pack) -> Pack:
    """Move a pack's file into the store; it is fetched once more where whoever cleans up took it away again."""
    path = arrived.path_of(wanted)
    if not path.exists() and not registry.packs.exists(pack.digest):
        arrived.bring("fetching packs", [wanted])
    with suppress(FileNotFoundError):  # it is in the store already: another pull of the same was faster
        registry.packs.take(pack.digest, path)
    return pack


def _record_pack(session: Session, pack: Pack) -> None:
    add_pack(session, pack, (), None)


def _record_task_adapter(session: Session, pack: Pack, *, made: TaskAdapter) -> None:
    add_task_adapter(session, made, pack)


def _parts(adapters: Iterable[tuple[str, Bytes]], limit_bytes: int) -> Iterator[list[tuple[str, Bytes]]]:
    part: list[tuple[str, Bytes]] = []
    size_bytes = 0
    for digest, data in sorted(adapters, key=lambda item: item[0]):
        if part and size_bytes + len(data) > limit_bytes:
            yield part
            part, size_bytes = [], 0
        part.append((digest, data))
        size_bytes += len(data)
    if part:
        yield part
