"""Retrieval alone: a version, its index, and the documents that a question finds.

Imports no torch, and SQLAlchemy only where the catalog or the index is not ready to be read.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from registry.catalog import quick
from registry.errors import IntegrityError, UsageError
from registry.index import VersionIndex
from registry.records import Hit, Version
from registry.retrieval import hits_of
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.opened import Registry, Retriever

MAX_HITS = 32
"""The most documents that a question may ask for."""


def search(home: Home, reference: str, question: str, k: int) -> tuple[Version, tuple[Hit, ...]]:
    """Return the version that ``reference`` names and the ``k`` documents of it that fit ``question`` best.

    Raises:
        UsageError: the question is empty, or ``k`` is not from 1 to ``MAX_HITS``.
        NotFoundError: there is no such version, or nothing is found and texts of it are withheld.
        HomeError: the catalog cannot be reached or has another schema.
    """
    check_question(question, k)
    try:
        with quick.reading(home.catalog_url) as catalog:
            version = catalog.resolve(reference)
            index = VersionIndex.open(home.index_folder(version))
            if index.documents != version.documents:  # texts are withheld, or were when it was made
                raise quick.NotQuick
            matches = index.search(question, k)
            return version, hits_of([matches], partial(catalog.members_by_document, version))[0]
    except (quick.NotQuick, IntegrityError):
        # The ordinary way says what is wrong, or makes the index anew.
        return _search(home, reference, question, k)


def _search(home: Home, reference: str, question: str, k: int) -> tuple[Version, tuple[Hit, ...]]:
    from registry.pipeline.opened import Retriever, opened

    with opened(home) as registry:
        version = registry.version(reference)
        return version, found_hits(registry, Retriever(registry, version), version, question, k)


def found_hits(registry: Registry, retriever: Retriever, version: Version, question: str, k: int) -> tuple[Hit, ...]:
    """Return what a question finds in an open version.

    Raises:
        NotFoundError: it finds nothing, and texts are withheld.
    """
    (hits,) = retriever.hits([question], k)
    if not hits and not retriever.has_all_texts:
        raise registry.nothing_found(version)
    return hits


def check_question(question: str, k: int) -> None:
    """Check that ``question`` can be asked for ``k`` documents.

    Raises:
        UsageError: it is empty or no proper text, or ``k`` is not from 1 to ``MAX_HITS``.
    """
    if not question.strip():
        raise UsageError("the question is empty")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the question is not UTF-8", hint="check the terminal's or the file's encoding") from error
    if not 1 <= k <= MAX_HITS:
        raise UsageError(f"{k} documents cannot be asked for", hint=f"set -k from 1 to {MAX_HITS}")
