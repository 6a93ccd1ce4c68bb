"""What repair does about texts and versions: put back what has the digest that it should have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.catalog.aliases import set_alias
from registry.catalog.augmentations import read_payload
from registry.catalog.chunks import KEYS, chunked
from registry.catalog.dialect import BULK, insert_new
from registry.catalog.identifiers import ids_by_digest
from registry.catalog.models import (
    AdapterRow,
    AliasMoveRow,
    AliasRow,
    AugmentationRow,
    BuildItemRow,
    CorpusRow,
    DocumentRow,
    MembershipRow,
    PlaceRow,
    RecipeRow,
    SourceRow,
    VersionRow,
)
from registry.catalog.names import LATEST
from registry.catalog.references import corpus_id, resolve
from registry.digests import json_digest
from registry.errors import NotFoundError
from registry.records import Augmentation, Document, Version


class Range(NamedTuple):
    """The versions in which a document has an adapter: ``first`` and those after it, before ``end`` if there is one."""

    first: int
    end: int | None
    adapter: str


Ranges = dict[str, list[Range]]
"""The ranges of documents, by the documents' digests, in order."""


def sources_of(session: Session, document_digests: Iterable[str]) -> dict[str, set[tuple[str, str]]]:
    """Return the URIs of the sources in which documents stood, each with the language of the corpus, by document."""
    found: dict[str, set[tuple[str, str]]] = {}
    for chunk in chunked(document_digests):
        stood = (
            select(DocumentRow.digest, SourceRow.uri, CorpusRow.language)
            .join(PlaceRow, PlaceRow.document_id == DocumentRow.id)
            .join(SourceRow, SourceRow.id == PlaceRow.source_id)
            .join(CorpusRow, CorpusRow.id == PlaceRow.corpus_id)
        )
        staged = (
            select(DocumentRow.digest, SourceRow.uri)
            .join(BuildItemRow, BuildItemRow.document_id == DocumentRow.id)
            .join(SourceRow, SourceRow.id == BuildItemRow.source_id)
        )
        for digest, uri, language in session.execute(stood.where(DocumentRow.digest.in_(chunk))):
            found.setdefault(digest, set()).add((uri, language))
        for digest, uri in session.execute(staged.where(DocumentRow.digest.in_(chunk))):
            found.setdefault(digest, set()).add((uri, "en"))
    return found


def texts_by_digest(session: Session, document_digests: Iterable[str]) -> dict[str, Document]:
    """Return those of the documents that are there and whose texts have their digests."""
    found: dict[str, Document] = {}
    query = select(DocumentRow.digest, DocumentRow.title, DocumentRow.text)
    for digest in document_digests:
        with suppress(DBAPIError):  # not UTF-8 any more
            text = session.execute(query.where(DocumentRow.digest == digest)).one_or_none()
            if text is not None and is_own(document := Document(*text)):
                found[digest] = document
    return found


def is_own(document: Document) -> bool:
    """Return whether a document's title and text are just those that have its digest."""
    return Document.of(document.title, document.text) == document


def set_text(session: Session, document: Document) -> None:
    """Put a document's title and text in place of what is there."""
    values = {"title": document.title, "text": document.text, "characters": len(document.text)}
    session.execute(update(DocumentRow).where(DocumentRow.digest == document.digest).values(values))


def augmentations_by_digest(session: Session, digests: Iterable[str]) -> dict[str, Augmentation]:
    """Return those of the augmentations that are there and whose content has their digests."""
    found: dict[str, Augmentation] = {}
    for wanted in digests:
        query = (
            select(
                DocumentRow.digest,
                AugmentationRow.generator,
                AugmentationRow.prompts_version,
                AugmentationRow.payload,
            )
            .join(DocumentRow, DocumentRow.id == AugmentationRow.document_id)
            .where(AugmentationRow.digest == wanted)
        )
        # What was altered need not be JSON any more, or not of this shape.
        with suppress(DBAPIError, ValueError, KeyError, TypeError):
            for document, generator, prompts_version, payload in session.execute(query):
                augmentation = Augmentation(document, "", generator, prompts_version, *read_payload(payload))
                if augmentation.digest == wanted:
                    found[wanted] = augmentation
    return found


def set_augmentation(session: Session, augmentation: Augmentation) -> None:
    """Put an augmentation's content in place of what is there under its digest."""
    values = {
        "document_id": ids_by_digest(session, DocumentRow, [augmentation.document_digest])[
            augmentation.document_digest
        ],
        "generator": augmentation.generator,
        "prompts_version": augmentation.prompts_version,
        "payload": augmentation.payload,
        "rewrites": len(augmentation.rewrites),
        "pairs": len(augmentation.pairs),
    }
    session.execute(update(AugmentationRow).where(AugmentationRow.digest == augmentation.digest).values(values))


def set_settings(session: Session, recipe_digest: str, settings: Mapping[str, object]) -> None:
    """Put a recipe's settings in place of what is there under its digest."""
    session.execute(update(RecipeRow).where(RecipeRow.digest == recipe_digest).values(settings=dict(settings)))


def settings_by_digest(session: Session, digest: str) -> Mapping[str, object] | None:
    """Return a recipe's settings as they are there, None where they are missing or do not have the digest."""
    with suppress(DBAPIError, ValueError):
        query = select(RecipeRow.settings).where(RecipeRow.digest == digest)
        settings: Mapping[str, object] | None = session.scalar(query)
        if settings is not None and json_digest(settings) == digest:
            return settings
    return None


def set_counters(session: Session, version: Version, documents: int, size_bytes: int) -> None:
    """Set what is derived from a version's members: how many they are, and the bytes of their adapters."""
    own = (VersionRow.corpus_id == corpus_id(session, version.corpus), VersionRow.number == version.number)
    session.execute(update(VersionRow).where(*own).values(documents=documents, size_bytes=size_bytes))


def set_identity(session: Session, version: Version) -> None:
    """Put the digest and the recipe of a version in place of what is there."""
    recipes = ids_by_digest(session, RecipeRow, [version.recipe_digest])
    own = (VersionRow.corpus_id == corpus_id(session, version.corpus), VersionRow.number == version.number)
    values = {"digest": version.digest, "recipe_id": recipes[version.recipe_digest]}
    session.execute(update(VersionRow).where(*own).values(values))


def ranges_of(session: Session, corpus: str) -> Ranges:
    """Return the ranges of all documents that a corpus ever had."""
    found: Ranges = {}
    query = (
        select(DocumentRow.digest, MembershipRow.from_version, MembershipRow.to_version, AdapterRow.digest)
        .join(DocumentRow, DocumentRow.id == MembershipRow.document_id)
        .join(AdapterRow, AdapterRow.id == MembershipRow.adapter_id)
        .where(MembershipRow.corpus_id == corpus_id(session, corpus))
        .order_by(DocumentRow.digest, MembershipRow.from_version)
        .execution_options(yield_per=KEYS)
    )
    for document, first, end, adapter in session.execute(query):
        found.setdefault(document, []).append(Range(first, end, adapter))
    return found


def set_ranges(session: Session, corpus: str, ranges: Ranges) -> None:
    """Give the documents of ``ranges`` these and no others.

    Raises:
        NotFoundError: a document or an adapter is not in the catalog.
    """
    number = corpus_id(session, corpus)
    for chunk in chunked(ranges):
        documents = ids_by_digest(session, DocumentRow, chunk)
        adapters = ids_by_digest(session, AdapterRow, (one.adapter for digest in chunk for one in ranges[digest]))
        lost = [digest for digest in chunk if ranges[digest] and digest not in documents]
        lost += [one.adapter for digest in chunk for one in ranges[digest] if one.adapter not in adapters]
        if lost:
            raise NotFoundError(f"{lost[0]} is not in the catalog, but a version should have it")
        rows = [
            {
                "corpus_id": number,
                "document_id": documents[digest],
                "from_version": one.first,
                "to_version": one.end,
                "adapter_id": adapters[one.adapter],
            }
            for digest in chunk
            for one in ranges[digest]
        ]
        own = (MembershipRow.corpus_id == number, MembershipRow.document_id.in_(documents.values()))
        session.execute(delete(MembershipRow).where(*own), execution_options=BULK)
        insert_new(session, MembershipRow, rows)


def corpora(session: Session) -> list[str]:
    """Return the names of all corpora."""
    return list(session.scalars(select(CorpusRow.name).order_by(CorpusRow.name)))


def name_latest(session: Session, corpus: str, *, who: str) -> Version | None:
    """Let ``latest`` name what it named last, or the newest version that can be asked; None if it names one already.

    None, too, where there is no version that was not collected.
    """
    number = corpus_id(session, corpus)
    alias = (AliasRow.corpus_id == number, AliasRow.name == LATEST)
    named = select(VersionRow.number).where(VersionRow.corpus_id == number, VersionRow.number == AliasRow.version)
    if session.scalar(select(AliasRow.version).where(*alias, named.exists())) is not None:
        return None
    opened = select(VersionRow.number).where(VersionRow.corpus_id == number, VersionRow.collected_at.is_(None))
    moves = (
        opened.join(AliasMoveRow, AliasMoveRow.corpus_id == VersionRow.corpus_id)
        .where(AliasMoveRow.to_version == VersionRow.number, AliasMoveRow.name == LATEST)
        .order_by(AliasMoveRow.id.desc())
    )
    newest = opened.order_by(VersionRow.number.desc())
    last = session.scalar(moves.limit(1)) or session.scalar(newest.limit(1))
    if last is None:
        return None
    session.execute(delete(AliasRow).where(*alias), execution_options=BULK)  # it may name what is not there
    version = resolve(session, f"{corpus}@v{last}")
    set_alias(session, version, LATEST, who=who)
    return version
