"""Making a version of what a repository says, or of our own difference on another one: see ``VersionDelta``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from registry.catalog.adapters import add_inputs, has_place
from registry.catalog.chunks import chunked
from registry.catalog.dialect import BULK, insert_new, refresh_statistics
from registry.catalog.identifiers import ids_by_digest, require_ids
from registry.catalog.lineage import mark_shared
from registry.catalog.members import member_digests as members_of
from registry.catalog.models import AdapterRow, DocumentRow, MembershipRow, VersionRow, utc_now
from registry.catalog.recipes import recipe_id
from registry.catalog.references import corpus_id, latest_version, lock_corpus, resolve
from registry.catalog.remotes.place_changes import change_places
from registry.catalog.upkeep.version_checks import counted_members, member_digests, version_states
from registry.catalog.versions import version_digest
from registry.digests import short
from registry.errors import IntegrityError, NotFoundError
from registry.published import PublishedVersion, Standing, VersionDelta
from registry.records import Place, Version


class _Target(NamedTuple):
    """The version that is made: the row id of its corpus, its number there, the row id of its recipe."""

    corpus: int
    number: int
    recipe: int


class _Adapter(NamedTuple):
    number: int
    document: int
    augmentation: int
    recipe: int
    size_bytes: int
    lies: bool


def append_version(
    session: Session,
    corpus: str,
    version: PublishedVersion,
    *,
    parent: int | None,
    delta: VersionDelta,
    repository: str | None = None,
    remote_id: int | None = None,
    is_checked: bool = False,
) -> Version:
    """Make what ``delta`` makes of the corpus' newest version the next one, with the digest and message of ``version``.

    Its number is the next one here, ``parent`` the number of a version here. With ``repository`` the places of the
    delta are called as there (see ``source_names``; ``remote_id`` is the remote's number where there is one), without
    as here. No alias moves. Documents and the recipe must be in the catalog, and the adapters of a complete version
    must lie in a pack or in a repository. A version that is not complete counts as collected.

    What documents share a line is found here, and of two that claim one place the first stands there.

    ``is_checked`` says that the caller checks the digest, as by one call of ``check_versions`` for many versions.

    Raises:
        NotFoundError: the corpus, the recipe, a document or an adapter is not in the catalog.
        IntegrityError: the delta does not fit the newest version, or what comes of it is not what ``version`` says.
    """
    lock_corpus(session, corpus_id(session, corpus))
    newest = latest_version(session, corpus)
    number = 1 if newest is None else newest.number + 1
    target = _Target(corpus_id(session, corpus), number, recipe_id(session, version.recipe_digest))
    documents = require_ids(
        session, DocumentRow, {*delta.closed, *delta.moved, *(one.document_digest for one in delta.opened)}, "document"
    )
    adapters = _adapters(session, (standing.adapter_digest for standing in delta.opened))
    _check_fit(session, target, delta, documents)
    if version.is_complete:
        _check_places(delta.opened, adapters)
    _insert_version(session, target, version, parent)
    freed = _close(session, target, [documents[digest] for digest in sorted(delta.closed)])
    _open(session, target, delta.opened, documents, adapters)
    mark_shared(session, target.corpus, number)
    places: dict[int, tuple[Place, ...]] = {documents[digest]: () for digest in delta.closed}
    places |= {documents[digest]: where for digest, where in sorted(delta.moved.items())}
    places |= {documents[standing.document_digest]: standing.places for standing in delta.opened}
    change_places(session, target.corpus, number, places, repository=repository, remote_id=remote_id)
    refresh_statistics(session, MembershipRow)
    count = (newest.documents if newest else 0) - len(delta.closed) + len(delta.opened)
    size_bytes = _size_before(session, target) - freed
    size_bytes += sum(adapters[standing.adapter_digest].size_bytes for standing in delta.opened)
    _compare(f"v{number} of {corpus}", version, count, size_bytes)
    made = resolve(session, f"{corpus}@v{number}")
    if not is_checked and version_digest(version.recipe_digest, members_of(session, made)) != version.digest:
        raise _not_it(made.reference, "its members have another digest")
    return made


def check_versions(session: Session, corpus: str, numbers: Sequence[int]) -> None:
    """Check that versions have the digests, numbers of documents and sizes that their rows say, all in one walk.

    Raises:
        NotFoundError: there is no such corpus.
        IntegrityError: one has not; the message names it.
    """
    number = corpus_id(session, corpus)
    states = [state for state in version_states(session) if state.corpus_id == number]
    counted = counted_members(session, states)
    wanted = [state for state in states if state.version.number in set(numbers)]
    digests = member_digests(session, wanted) if wanted else {}
    for state in wanted:
        version, members = state.version, counted[number, state.version.number]
        if digests[version.number] != version.digest:
            raise _not_it(version.reference, "its members have another digest")
        if (members.documents, members.size_bytes) != (version.documents, state.size_bytes):
            raise _not_it(version.reference, "it has another number of documents, or other sizes")


def _adapters(session: Session, digests: Iterable[str]) -> dict[str, _Adapter]:
    wanted = set(digests)
    query = select(
        AdapterRow.digest,
        AdapterRow.id,
        AdapterRow.document_id,
        AdapterRow.augmentation_id,
        AdapterRow.recipe_id,
        AdapterRow.size_bytes,
        has_place(AdapterRow.id),
    )
    found: dict[str, _Adapter] = {}
    for chunk in chunked(wanted):
        rows = session.execute(query.where(AdapterRow.digest.in_(chunk)))
        found |= {row[0]: _Adapter(*row[1:]) for row in rows}
    if missing := wanted - found.keys():
        raise NotFoundError(f"adapter {min(missing)} is not in the catalog")
    return found


def _check_fit(session: Session, target: _Target, delta: VersionDelta, documents: Mapping[str, int]) -> None:
    """Check that what goes or moves is in the newest version, and that what comes is not, or goes."""
    opened = [standing.document_digest for standing in delta.opened]
    if len(set(opened)) < len(opened):
        raise IntegrityError("a document comes into a version twice")
    held: set[int] = set()
    for chunk in chunked(documents.values()) if target.number > 1 else ():
        is_open = select(MembershipRow.document_id).where(
            MembershipRow.corpus_id == target.corpus,
            MembershipRow.to_version.is_(None),
            MembershipRow.document_id.in_(chunk),
        )
        held.update(session.scalars(is_open))
    for digest in sorted({*delta.closed, *delta.moved}):
        if documents[digest] not in held:
            raise IntegrityError(f"the document {short(digest)} leaves or moves, but is not in the newest version")
    for digest in opened:
        if documents[digest] in held and digest not in delta.closed:
            raise IntegrityError(f"the document {short(digest)} comes, but is in the newest version already")
    if both := sorted(delta.moved.keys() & {*delta.closed, *opened}):
        raise IntegrityError(f"the document {short(both[0])} both moves and goes or comes")


def _check_places(opened: Iterable[Standing], adapters: Mapping[str, _Adapter]) -> None:
    for standing in opened:
        if not adapters[standing.adapter_digest].lies:
            raise IntegrityError(
                f"the adapter {short(standing.adapter_digest)} lies neither in a pack nor in a repository, so no "
                "complete version may have it"
            )


def _insert_version(session: Session, target: _Target, version: PublishedVersion, parent: int | None) -> None:
    now = utc_now()
    values = {
        "corpus_id": target.corpus,
        "number": target.number,
        "digest": version.digest,
        "parent": parent,
        "recipe_id": target.recipe,
        "build_id": None,
        "message": version.message,
        "documents": version.documents,
        "size_bytes": version.size_bytes,
        "created_at": min(version.created_at, now),
        "collected_at": None if version.is_complete else now,
    }
    session.execute(insert(VersionRow).values(values))


def _close(session: Session, target: _Target, documents: Sequence[int]) -> int:
    """End the ranges of documents, and return the bytes of their adapters."""
    freed = 0
    for chunk in chunked(documents):
        ended = (
            MembershipRow.corpus_id == target.corpus,
            MembershipRow.to_version.is_(None),
            MembershipRow.document_id.in_(chunk),
        )
        sizes = select(func.coalesce(func.sum(AdapterRow.size_bytes), 0)).join(
            MembershipRow, MembershipRow.adapter_id == AdapterRow.id
        )
        freed += int(session.scalar(sizes.where(*ended)) or 0)
        session.execute(update(MembershipRow).where(*ended).values(to_version=target.number), execution_options=BULK)
    return freed


def _open(
    session: Session,
    target: _Target,
    opened: Sequence[Standing],
    documents: Mapping[str, int],
    adapters: Mapping[str, _Adapter],
) -> None:
    """Begin ranges; a document goes on with the line that it had in the corpus, else with the one that is told."""
    lines_elsewhere = {standing.line for standing in opened} - documents.keys()
    first = {**documents, **ids_by_digest(session, DocumentRow, lines_elsewhere)}
    for chunk in chunked(opened):
        numbers = [documents[standing.document_digest] for standing in chunk]
        earlier = select(MembershipRow.document_id, MembershipRow.line_id).where(
            MembershipRow.corpus_id == target.corpus, MembershipRow.document_id.in_(numbers)
        )
        lines = {document: line for document, line in session.execute(earlier)} if target.number > 1 else {}
        rows = [
            {
                "corpus_id": target.corpus,
                "document_id": document,
                "from_version": target.number,
                "to_version": None,
                "adapter_id": adapters[standing.adapter_digest].number,
                "line_id": lines.get(document, first.get(standing.line, document)),
            }
            for document, standing in zip(numbers, chunk, strict=True)
        ]
        insert_new(session, MembershipRow, rows)
        given = (adapters[standing.adapter_digest] for standing in chunk)
        # That of its own recipe came with the adapter.
        inputs = [
            {"augmentation_id": one.augmentation, "recipe_id": target.recipe, "adapter_id": one.number}
            for document, one in zip(numbers, given, strict=True)
            if one.document == document and one.lies and one.recipe != target.recipe
        ]
        add_inputs(session, inputs)


def _size_before(session: Session, target: _Target) -> int:
    before = select(VersionRow.size_bytes).where(
        VersionRow.corpus_id == target.corpus, VersionRow.number == target.number - 1
    )
    return session.scalar(before) or 0


def _compare(name: str, version: PublishedVersion, documents: int, size_bytes: int) -> None:
    if version.documents != documents:
        raise _not_it(name, f"it has {documents} documents, not {version.documents}")
    if version.size_bytes != size_bytes:
        raise _not_it(name, f"its adapters take {size_bytes} bytes, not {version.size_bytes}")


def _not_it(name: str, how: str) -> IntegrityError:
    return IntegrityError(f"{name} is not what it was published as: {how}")
