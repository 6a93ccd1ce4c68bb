"""All that the catalog knows of one document, adapter, corpus, build or query."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.adapters import AdapterRecord, find_locations, resolve_adapter
from registry.catalog.aliases import AliasMove, alias_history, aliases
from registry.catalog.augmentations import read_payload
from registry.catalog.documents import resolve_document
from registry.catalog.lines import (
    AdapterLine,
    BuildLine,
    QueryLine,
    adapter_lines,
    build_lines,
    milliseconds,
    query_line,
)
from registry.catalog.models import (
    AdapterInputRow,
    AdapterRow,
    AugmentationRow,
    BaseModelRow,
    BuildRow,
    CorpusRow,
    DocumentRow,
    MembershipRow,
    PlaceRow,
    QueryHitRow,
    QueryRow,
    RecipeRow,
    SourceRow,
)
from registry.catalog.names import LATEST
from registry.catalog.references import list_versions
from registry.catalog.remotes.remotes import RemoteLocation, locate_remote
from registry.errors import NotFoundError
from registry.records import AdapterLocation, Document, Hit, QAPair, Version


@dataclass(frozen=True, slots=True)
class PlaceLine:
    """Where a document stands, in every version from ``from_version`` to before ``to_version`` (None: on)."""

    corpus: str
    source_uri: str
    ordinal: int
    record_id: str | None
    from_version: int
    to_version: int | None


@dataclass(frozen=True, slots=True)
class AugmentationLine:
    """An augmentation of a document, whole; of a ``withheld`` one the content is not here."""

    digest: str
    generator: str
    prompts_version: str
    rewrites: tuple[str, ...]
    pairs: tuple[QAPair, ...]
    withheld: bool


@dataclass(frozen=True, slots=True)
class MembershipLine:
    """A document with an adapter in a corpus, in every version from ``from_version`` to before ``to_version``."""

    corpus: str
    document_digest: str
    adapter_digest: str
    from_version: int
    to_version: int | None


@dataclass(frozen=True, slots=True)
class DocumentDetail:
    """A document with its whole text and all that was made from it; of a ``withheld`` one title and text are empty."""

    digest: str
    title: str
    text: str
    withheld: bool
    places: tuple[PlaceLine, ...]
    augmentations: tuple[AugmentationLine, ...]
    adapters: tuple[AdapterLine, ...]
    memberships: tuple[MembershipLine, ...]


@dataclass(frozen=True, slots=True)
class AdapterDetail:
    """An adapter, where it lies, and the versions that have it.

    ``location`` is in a pack here (None: in none), ``remote`` in a repository (None: in none that is known).
    """

    digest: str
    adapter: AdapterRecord
    location: AdapterLocation | None
    remote: RemoteLocation | None
    memberships: tuple[MembershipLine, ...]


@dataclass(frozen=True, slots=True)
class CorpusDetail:
    """A corpus with its versions (oldest first) and aliases; ``digest`` is that of the version ``latest`` names."""

    name: str
    digest: str | None
    versions: tuple[Version, ...]
    aliases: dict[str, int]
    alias_moves: tuple[AliasMove, ...]


@dataclass(frozen=True, slots=True)
class QueryDetail:
    """An answered question and everything that explains it; ``weights`` are per hit, None where none was merged."""

    line: QueryLine
    recipe_digest: str | None
    base_model: str | None
    prompt_tokens: int
    answer_tokens: int
    milliseconds: dict[str, float]
    hits: tuple[Hit, ...]
    weights: tuple[float | None, ...]


def show_document(session: Session, identifier: str) -> DocumentDetail:
    """Return the document whose digest begins with ``identifier``.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    document = resolve_document(session, identifier)
    number, withheld = session.execute(
        select(DocumentRow.id, DocumentRow.withheld).where(DocumentRow.digest == document.digest)
    ).one()
    augmentations = session.scalars(
        select(AugmentationRow).where(AugmentationRow.document_id == number).order_by(AugmentationRow.id)
    )
    made = (
        select(AdapterInputRow.adapter_id)
        .join(AugmentationRow, AugmentationRow.id == AdapterInputRow.augmentation_id)
        .where(AugmentationRow.document_id == number)
    )
    return DocumentDetail(
        digest=document.digest,
        title=document.title,
        text=document.text,
        withheld=withheld,
        places=_places(session, number),
        augmentations=tuple(
            AugmentationLine(row.digest, row.generator, row.prompts_version, *read_payload(row.payload), row.withheld)
            for row in augmentations
        ),
        adapters=tuple(AdapterLine(*row) for row in session.execute(adapter_lines().where(AdapterRow.id.in_(made)))),
        memberships=_memberships(session, document=number),
    )


def show_adapter(session: Session, identifier: str) -> AdapterDetail:
    """Return the adapter whose digest begins with ``identifier``.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    adapter = resolve_adapter(session, identifier)
    number = session.scalars(select(AdapterRow.id).where(AdapterRow.digest == adapter.digest)).one()
    location = find_locations(session, [adapter.digest]).get(adapter.digest)
    remote = locate_remote(session, [adapter.digest]).get(adapter.digest)
    return AdapterDetail(adapter.digest, adapter, location, remote, _memberships(session, adapter=number))


def show_corpus(session: Session, name: str) -> CorpusDetail:
    """Return a corpus with its versions and aliases.

    Raises:
        NotFoundError: there is no such corpus.
    """
    versions = tuple(list_versions(session, name))
    named = aliases(session, name)
    # Versions are numbered from 1 without gaps.
    current = versions[named.get(LATEST, len(versions)) - 1] if versions else None
    return CorpusDetail(
        name=name,
        digest=current.digest if current else None,
        versions=versions,
        aliases=named,
        alias_moves=tuple(alias_history(session, name)),
    )


def show_build(session: Session, identifier: str | int) -> BuildLine:
    """Return a build by its number.

    Raises:
        NotFoundError: there is no such build.
    """
    number = _number(identifier, "build")
    row = session.execute(build_lines().where(BuildRow.id == number)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no build {number}", hint="pragreg builds list")
    return BuildLine(*row)


def show_query(session: Session, identifier: str | int) -> QueryDetail:
    """Return an answered question by its number.

    Raises:
        NotFoundError: there is no such query.
    """
    number = _number(identifier, "query")
    found = session.execute(
        select(QueryRow, CorpusRow.name, RecipeRow.digest, BaseModelRow.fingerprint)
        .outerjoin(CorpusRow, CorpusRow.id == QueryRow.corpus_id)
        .outerjoin(RecipeRow, RecipeRow.id == QueryRow.recipe_id)
        .outerjoin(BaseModelRow, BaseModelRow.id == QueryRow.base_model_id)
        .where(QueryRow.id == number)
    ).one_or_none()
    if found is None:
        raise NotFoundError(f"there is no query {number}", hint="pragreg queries list")
    row, corpus, recipe, base_model = found
    hits = session.execute(
        select(
            QueryHitRow.rank,
            QueryHitRow.score,
            QueryHitRow.weight,
            DocumentRow.digest,
            DocumentRow.title,
            DocumentRow.text,
            AdapterRow.digest,
        )
        .join(DocumentRow, DocumentRow.id == QueryHitRow.document_id)
        .join(AdapterRow, AdapterRow.id == QueryHitRow.adapter_id)
        .where(QueryHitRow.query_id == number)
        .order_by(QueryHitRow.rank)
    ).all()
    return QueryDetail(
        line=query_line(row, corpus),
        recipe_digest=recipe,
        base_model=base_model,
        prompt_tokens=row.prompt_tokens,
        answer_tokens=row.answer_tokens,
        milliseconds=milliseconds(row),
        hits=tuple(
            Hit(rank, score, Document(digest, title, text), adapter)
            for rank, score, _, digest, title, text, adapter in hits
        ),
        weights=tuple(weight for _, _, weight, *_ in hits),
    )


def _number(identifier: str | int, noun: str) -> int:
    text = str(identifier)
    plural = "queries" if noun == "query" else f"{noun}s"
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotFoundError(f"{identifier!r} is not the number of a {noun}", hint=f"pragreg {plural} list")
    return int(text)


def _places(session: Session, document: int) -> tuple[PlaceLine, ...]:
    rows = session.execute(
        select(
            CorpusRow.name,
            SourceRow.uri,
            PlaceRow.ordinal,
            PlaceRow.record_id,
            PlaceRow.from_version,
            PlaceRow.to_version,
        )
        .join(CorpusRow, CorpusRow.id == PlaceRow.corpus_id)
        .join(SourceRow, SourceRow.id == PlaceRow.source_id)
        .where(PlaceRow.document_id == document)
        .order_by(CorpusRow.name, PlaceRow.from_version, SourceRow.uri, PlaceRow.ordinal)
    )
    return tuple(PlaceLine(*row) for row in rows)


def _memberships(
    session: Session, *, document: int | None = None, adapter: int | None = None
) -> tuple[MembershipLine, ...]:
    query = (
        select(
            CorpusRow.name,
            DocumentRow.digest,
            AdapterRow.digest,
            MembershipRow.from_version,
            MembershipRow.to_version,
        )
        .join(CorpusRow, CorpusRow.id == MembershipRow.corpus_id)
        .join(DocumentRow, DocumentRow.id == MembershipRow.document_id)
        .join(AdapterRow, AdapterRow.id == MembershipRow.adapter_id)
        .order_by(CorpusRow.name, MembershipRow.from_version, DocumentRow.digest)
    )
    if document is not None:
        query = query.where(MembershipRow.document_id == document)
    if adapter is not None:
        query = query.where(MembershipRow.adapter_id == adapter)
    return tuple(MembershipLine(*row) for row in session.execute(query))
