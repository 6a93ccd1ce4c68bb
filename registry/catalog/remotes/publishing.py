"""What a push reads of the catalog: versions, how each became the next, and all that is known of their members.

Texts come as they are: whoever publishes them takes out what may not be shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Literal

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.catalog.adapters import has_place
from registry.catalog.chunks import chunked
from registry.catalog.identifiers import require_ids
from registry.catalog.models import (
    AdapterInputRow,
    AdapterLocationRow,
    AdapterRow,
    AugmentationRequestRow,
    AugmentationRow,
    DocumentRow,
    MembershipRow,
    PackRow,
    RecipeRow,
    VersionRow,
)
from registry.catalog.recipes import get_base_model, get_recipe
from registry.catalog.references import corpus_id
from registry.catalog.remotes.deltas import delta
from registry.catalog.task_adapters import get_task_adapter
from registry.published import AnsweredRequest, MemberRecord, PublishedVersion
from registry.recipe import Recipe
from registry.records import AdapterLocation, BaseModel, TaskAdapter, Training

__all__ = [
    "corpus_versions",
    "delta",
    "documents_of_incomplete_versions",
    "local_locations",
    "member_records",
    "recipes_of",
    "task_adapters_of",
    "withheld_texts",
]

ENDLESS = 2**62
_RECORDS = 500
"""Records that are in memory at once, with their texts."""

_TEXTS = select(DocumentRow.id, DocumentRow.digest, DocumentRow.title, DocumentRow.text, DocumentRow.withheld)
_AUGMENTATIONS = select(
    AugmentationRow.id,
    AugmentationRow.digest,
    AugmentationRow.generator,
    AugmentationRow.prompts_version,
    AugmentationRow.rewrites,
    AugmentationRow.pairs,
    AugmentationRow.payload,
    AugmentationRow.withheld,
)
_ADAPTERS = select(
    AdapterRow.id,
    AdapterRow.digest,
    AdapterRow.kind,
    AdapterRow.producer,
    AdapterRow.size_bytes,
    AdapterRow.parameters,
    AdapterRow.created_at,
    *(getattr(AdapterRow, field.name) for field in fields(Training)),
)


def corpus_versions(session: Session, corpus: str, up_to: int | None = None) -> list[PublishedVersion]:
    """Return the versions of a corpus, oldest first, up to that number; numbers are the corpus' own.

    A version is complete if it was not collected and each of its adapters lies in a pack or in a repository.

    Raises:
        NotFoundError: there is no such corpus.
    """
    number = corpus_id(session, corpus)
    lost = _ranges(session, number, ~has_place(MembershipRow.adapter_id))
    query = (
        select(
            VersionRow.number,
            VersionRow.digest,
            VersionRow.parent,
            RecipeRow.digest,
            VersionRow.message,
            VersionRow.created_at,
            VersionRow.documents,
            VersionRow.size_bytes,
            VersionRow.collected_at,
        )
        .join(RecipeRow, RecipeRow.id == VersionRow.recipe_id)
        .where(VersionRow.corpus_id == number, VersionRow.number <= (ENDLESS if up_to is None else up_to))
        .order_by(VersionRow.number)
    )
    return [
        PublishedVersion(*row[:8], is_complete=row[8] is None and not _covered(row[0], lost))
        for row in session.execute(query)
    ]


def documents_of_incomplete_versions(session: Session, corpus: str, versions: Sequence[PublishedVersion]) -> set[str]:
    """Return the documents that none but incomplete ones of ``versions`` have: their texts are not published.

    Raises:
        NotFoundError: there is no such corpus.
    """
    number = corpus_id(session, corpus)
    whole = [version.number for version in versions if version.is_complete]
    lacking = [version.number for version in versions if not version.is_complete]
    if not lacking:
        return set()
    found: tuple[set[str], set[str]] = (set(), set())
    rows = session.execute(
        select(DocumentRow.digest, MembershipRow.from_version, func.coalesce(MembershipRow.to_version, ENDLESS))
        .join(DocumentRow, DocumentRow.id == MembershipRow.document_id)
        .where(MembershipRow.corpus_id == number)
    )
    for digest, begin, end in rows:
        for documents, numbers in zip(found, (lacking, whole), strict=True):
            if any(begin <= each < end for each in numbers):
                documents.add(digest)
    return found[0] - found[1]


def withheld_texts(session: Session, corpus: str, first: int, last: int) -> int:
    """Return how many documents of the versions ``first`` to ``last`` have a title and text that are not here.

    Raises:
        NotFoundError: there is no such corpus.
    """
    counted = (
        select(func.count(MembershipRow.document_id.distinct()))
        .join(DocumentRow, DocumentRow.id == MembershipRow.document_id)
        .where(DocumentRow.withheld, MembershipRow.corpus_id + 0 == corpus_id(session, corpus))
        .where(MembershipRow.from_version <= last, func.coalesce(MembershipRow.to_version, ENDLESS) > first)
    )
    return session.scalar(counted) or 0


def local_locations(session: Session, adapter_digests: Iterable[str]) -> Iterator[AdapterLocation]:
    """Yield where adapters lie in packs, in every pack of each, the oldest pack first; others are left out."""
    query = (
        select(AdapterRow.digest, PackRow.digest, AdapterLocationRow.offset, AdapterLocationRow.size_bytes)
        .join(AdapterLocationRow, AdapterLocationRow.adapter_id == AdapterRow.id)
        .join(PackRow, PackRow.id == AdapterLocationRow.pack_id)
        .order_by(PackRow.id)
    )
    for chunk in chunked(dict.fromkeys(adapter_digests)):
        for row in session.execute(query.where(AdapterRow.digest.in_(chunk))):
            yield AdapterLocation(*row)


def member_records(
    session: Session, pairs: Iterable[tuple[str, str]], withheld: Collection[str] | Literal["all"] = ()
) -> Iterator[MemberRecord]:
    """Yield all that is known of documents and their adapters, by pairs of their digests, in this order.

    Texts are left out of ``withheld`` documents (digests), and of those whose text is not here. Streams: the session
    must stay open.

    Raises:
        NotFoundError: a document or an adapter is not in the catalog.
    """
    for chunk in chunked(pairs, _RECORDS):
        documents = require_ids(session, DocumentRow, (document for document, _ in chunk), "document")
        adapters = require_ids(session, AdapterRow, (adapter for _, adapter in chunk), "adapter")
        made_of = _made_of(session, adapters.values())
        keys = [
            made_of.get((documents[document], adapters[adapter])) or made_of[None, adapters[adapter]]
            for document, adapter in chunk
        ]
        texts = _rows(session, _TEXTS, DocumentRow.id, documents.values())
        rows = _rows(session, _ADAPTERS, AdapterRow.id, adapters.values())
        augmentations = _rows(session, _AUGMENTATIONS, AugmentationRow.id, (augmentation for augmentation, _ in keys))
        recipes = _rows(session, select(RecipeRow.id, RecipeRow.digest), RecipeRow.id, (recipe for _, recipe in keys))
        requests = _requests(session, augmentations)
        for (document, adapter), (augmentation, recipe) in zip(chunk, keys, strict=True):
            yield _record(
                texts[documents[document]],
                augmentations[augmentation],
                requests.get(augmentation, ()),
                rows[adapters[adapter]],
                recipes[recipe].digest,
                is_withheld=withheld == "all" or document in withheld,
            )


def recipes_of(session: Session, versions: Iterable[PublishedVersion]) -> tuple[list[Recipe], list[BaseModel]]:
    """Return the recipes of versions and the base models of these, each once, in order of first use.

    A task adapter's recipe, where a recipe starts from one, comes too.

    Raises:
        NotFoundError: one is not in the catalog.
        IntegrityError: a recipe was altered.
    """
    digests = dict.fromkeys(version.recipe_digest for version in versions)
    recipes = [get_recipe(session, digest) for digest in digests]
    further = dict.fromkeys(one.recipe_digest for one in task_adapters_of(session, recipes))
    recipes += [get_recipe(session, digest) for digest in further if digest not in digests]
    fingerprints = dict.fromkeys(recipe.base_model for recipe in recipes)
    return recipes, [get_base_model(session, fingerprint) for fingerprint in fingerprints]


def task_adapters_of(session: Session, recipes: Iterable[Recipe]) -> list[TaskAdapter]:
    """Return the task adapters that recipes start from, each once, in order of first use.

    Raises:
        NotFoundError: one is not in the catalog.
    """
    digests = dict.fromkeys(recipe.task_adapter for recipe in recipes if recipe.task_adapter)
    return [get_task_adapter(session, f"sha256:{digest}") for digest in digests]


def _ranges(session: Session, corpus: int, condition: Any) -> list[tuple[int, int]]:
    """Return the ranges of versions, end excluded, that a corpus' memberships of a condition have, each once."""
    query = select(MembershipRow.from_version, func.coalesce(MembershipRow.to_version, ENDLESS)).distinct()
    rows = session.execute(query.where(MembershipRow.corpus_id == corpus, condition))
    return [(begin, end) for begin, end in rows]


def _covered(number: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(begin <= number < end for begin, end in ranges)


def _made_of(session: Session, adapters: Collection[int]) -> dict[tuple[int | None, int], tuple[int, int]]:
    """Return the augmentation and the recipe (row ids) of which adapters were made, by document and adapter.

    An adapter that two documents gave has an augmentation of each. By None and adapter it is the first history.
    """
    first = select(AdapterRow.id, AdapterRow.document_id, AdapterRow.augmentation_id, AdapterRow.recipe_id)
    found: dict[tuple[int | None, int], tuple[int, int]] = {}
    given = (
        select(AdapterInputRow.adapter_id, AugmentationRow.document_id, AugmentationRow.id, AdapterInputRow.recipe_id)
        .join(AugmentationRow, AugmentationRow.id == AdapterInputRow.augmentation_id)
        .where(AdapterInputRow.adapter_id.in_(adapters))
        .order_by(AdapterInputRow.adapter_id, AugmentationRow.id, AdapterInputRow.recipe_id)
    )
    for adapter, document, augmentation, recipe in session.execute(given):
        found.setdefault((document, adapter), (augmentation, recipe))
    for adapter, document, augmentation, recipe in session.execute(first.where(AdapterRow.id.in_(adapters))):
        found[document, adapter] = found[None, adapter] = (augmentation, recipe)
    return found


def _rows(
    session: Session, query: Select[*tuple[Any, ...]], number: InstrumentedAttribute[int], ids: Iterable[int]
) -> dict[int, Row[*tuple[Any, ...]]]:
    """Return rows by their row id, the first of their columns."""
    return {row[0]: row for row in session.execute(query.where(number.in_(set(ids))))}


def _requests(session: Session, augmentations: Collection[int]) -> dict[int, tuple[AnsweredRequest, ...]]:
    found: dict[int, tuple[AnsweredRequest, ...]] = {}
    query = (
        select(
            AugmentationRequestRow.augmentation_id,
            AugmentationRequestRow.request_digest,
            AugmentationRequestRow.dropped_pairs,
            AugmentationRequestRow.dropped_rewrites,
            AugmentationRequestRow.tokens,
            AugmentationRequestRow.elapsed_seconds,
        )
        .where(AugmentationRequestRow.augmentation_id.in_(augmentations))
        .order_by(AugmentationRequestRow.request_digest)
    )
    for row in session.execute(query):
        found[row[0]] = (*found.get(row[0], ()), AnsweredRequest(*row[1:]))
    return found


def _record(
    document: Row[*tuple[Any, ...]],
    augmentation: Row[*tuple[Any, ...]],
    requests: tuple[AnsweredRequest, ...],
    adapter: Row[*tuple[Any, ...]],
    recipe_digest: str,
    *,
    is_withheld: bool,
) -> MemberRecord:
    _, document_digest, title, text, has_no_text = document
    _, augmentation_digest, generator, prompts_version, rewrites, pairs, payload, has_no_payload = augmentation
    _, adapter_digest, kind, producer, size_bytes, parameters, created_at, *training = adapter
    is_withheld = is_withheld or has_no_text
    return MemberRecord(
        document_digest=document_digest,
        title=None if is_withheld else title,
        text=None if is_withheld else text,
        augmentation_digest=augmentation_digest,
        generator=generator,
        prompts_version=prompts_version,
        rewrites=rewrites,
        pairs=pairs,
        payload=None if is_withheld or has_no_payload else payload,
        requests=requests,
        adapter_digest=adapter_digest,
        recipe_digest=recipe_digest,
        kind=kind,
        producer=producer,
        size_bytes=size_bytes,
        parameters=parameters,
        training=Training(*training),
        created_at=created_at,
    )
