"""From what the index finds to hits: joined with the version's documents and adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from registry.digests import short
from registry.errors import IntegrityError
from registry.records import Document, Hit, Match

__all__ = ["hits_of"]

Members = Callable[[Sequence[str]], Mapping[str, tuple[Document, str]]]
"""Looks document digests up in a version, and gives each its document and adapter digest."""


def hits_of(matches: Sequence[Sequence[Match]], members: Members) -> list[tuple[Hit, ...]]:
    """Return the hits of many questions, looked up together; each question's are ranked from 1.

    Raises:
        IntegrityError: the index found a document that the version does not have.
    """
    wanted = list(dict.fromkeys(match.document_digest for found in matches for match in found))
    known = members(wanted) if wanted else {}
    for digest in wanted:
        if digest not in known:
            raise IntegrityError(
                f"the index holds the document {short(digest)}, which its version does not",
                hint="remove the folder `index` of the registry home; the next search makes it anew",
            )
    return [
        tuple(Hit(rank, match.score, *known[match.document_digest]) for rank, match in enumerate(found, 1))
        for found in matches
    ]
