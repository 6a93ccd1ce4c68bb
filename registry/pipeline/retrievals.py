"""Retrievals: what a question found, written down so that another engine can answer out of the same adapters.

A retrieval is named in two ways.

    handbook@v3:1f2e8a,77c0d1    documents of a version (digests or their beginnings, at most ``MOST_DOCUMENTS``)
    64 hexadecimal digits        the digest of a remembered retrieval: its version, adapters and exact factors

Remembered ones lie in the home, each a file named by the sha256 of what it holds. They are bounded: of each two first
digits the ``MOST_ALIKE`` last used are kept. Imports neither torch nor SQLAlchemy, so that a search stays quick.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.digests import canonical_json, sha256_hex, short
from registry.errors import NotFoundError, StorageError, UsageError
from registry.merging.methods import Coefficients, Merge
from registry.records import Hit, Version

if TYPE_CHECKING:
    from registry.settings import Home

RETRIEVALS_FOLDER = "retrievals"
MOST_DOCUMENTS = 32
MOST_ALIKE = 100
MOST_BYTES = 64 * 1024
"""No retrieval of ``MOST_DOCUMENTS`` is longer; what is, is none."""
FORMAT = 1
ABANDONED_SECONDS = 3600

NAME = "CORPUS@REF:DOCUMENT,DOCUMENT,..."
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAMED = re.compile(
    r"(?P<reference>[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:@(?:sha256:)?[A-Za-z0-9][A-Za-z0-9._-]{0,63})?)"
    r":(?P<documents>[0-9a-f]{4,64}(?:,[0-9a-f]{4,64}){0,31})"
)
_CORPUS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class NamedDocuments:
    """What a name such as ``handbook@v3:1f2e8a,77c0d1`` says: a version, and digests' beginnings in their order."""

    reference: str
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A document that was found, the adapter that its version gives it, and its factor in the sum."""

    document: str
    adapter: str
    factor: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What is merged for one question: documents of a version of ``corpus``, and ``common`` times their common part.

    Documents of factor 0 are left out.
    """

    corpus: str
    version_digest: str
    documents: tuple[Retrieved, ...]
    common: float = 0.0

    @property
    def reference(self) -> str:
        """The version, as users type it; its digest names the same content for ever."""
        return f"{self.corpus}@sha256:{self.version_digest}"

    @property
    def encoded(self) -> bytes:
        """The canonical JSON."""
        return canonical_json(
            {
                "format": FORMAT,
                "corpus": self.corpus,
                "version": self.version_digest,
                "documents": [[one.document, one.adapter, one.factor] for one in self.documents],
                "common": self.common,
            }
        )

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON: the retrieval's name."""
        return sha256_hex(self.encoded)


def parse_name(text: str) -> NamedDocuments | str | None:
    """Return what a name says: documents of a version, or the digest of a retrieval; None if it is neither.

    Takes any text, and time in proportion to its length.
    """
    if _DIGEST.fullmatch(text):
        return text
    named = _NAMED.fullmatch(text)
    return NamedDocuments(named["reference"], tuple(named["documents"].split(","))) if named else None


def retrieval_name(reference: str, documents: Sequence[str]) -> str:
    """Return the name of documents (their digests) of the version ``reference`` (``handbook@v3``)."""
    return f"{reference}:{','.join(map(short, documents))}"


def retrieval_of(version: Version, hits: Sequence[Hit], coefficients: Coefficients) -> Retrieval:
    """Return the retrieval of a question's hits with the factors that they were merged by.

    Raises:
        NotFoundError: nothing was merged: no document was found.
    """
    found = tuple(
        Retrieved(hit.document.digest, hit.adapter_digest, float(factor))
        for hit, factor in zip(hits, coefficients.hits, strict=True)
        if factor
    )
    if not found and not coefficients.common:
        raise NotFoundError(f"no document of {version.reference} was found, so there is nothing to merge")
    return Retrieval(version.corpus, version.digest, found, float(coefficients.common))


def remember_hits(home: Home, version: Version, hits: Sequence[Hit], merge: Merge) -> str:
    """Remember what a question found, merged by a method, and return the retrieval's digest.

    Raises:
        NotFoundError: there is no hit.
        IntegrityError: an adapter's bytes are damaged.
        StorageError: the home cannot be written.
    """
    if merge.needs_products:
        from registry.pipeline.merged_folders import coefficients  # brings SQLAlchemy and numpy
        from registry.pipeline.opened import opened

        with opened(home) as registry:
            factors = coefficients(registry, version, hits, merge)
    else:
        factors = merge.coefficients([hit.score for hit in hits])
    return remember(home, retrieval_of(version, hits, factors))


def remember(home: Home, retrieval: Retrieval) -> str:
    """Keep a retrieval in the home and return its digest, by which ``recall`` finds it in any process.

    Raises:
        StorageError: the home cannot be written.
    """
    digest = retrieval.digest
    file = _file(home, digest)
    partial = file.with_name(f"{digest}.{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(retrieval.encoded)
        partial.replace(file)
        _forget_oldest(file.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise StorageError(
            f"{file.parent} cannot be written: {error.strerror or error}",
            hint="free some disk space, or check who may write there",
        ) from error
    return digest


def recall(home: Home, digest: str) -> Retrieval | None:
    """Return the retrieval of that digest, None if it is not here any more or was altered."""
    if not _DIGEST.fullmatch(digest):
        return None
    file = _file(home, digest)
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        retrieval = _decode(json.loads(data)) if sha256_hex(data) == digest else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    with suppress(OSError):
        os.utime(file)
    return retrieval


def _decode(value: Any) -> Retrieval:
    """Return the retrieval that plain JSON values stand for; anything else raises one of Python's own errors."""
    entries = value["documents"]
    documents = tuple(Retrieved(_digest(found), _digest(own), _number(factor)) for found, own, factor in entries)
    corpus, common = value["corpus"], _number(value["common"])
    if value["format"] != FORMAT or not _CORPUS.fullmatch(corpus) or len(documents) > MOST_DOCUMENTS:
        raise ValueError("no retrieval of this program")
    return Retrieval(corpus, _digest(value["version"]), documents, common)


def _digest(value: Any) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError("no digest")
    return str(value)


def _number(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError("no finite number")
    return float(value)


def _file(home: Home, digest: str) -> Path:
    return home.path / RETRIEVALS_FOLDER / digest[:2] / f"{digest}.json"


def _forget_oldest(folder: Path) -> None:
    """Keep the last used; what a killed process was writing goes when it is old."""
    names = os.listdir(folder)
    whole = [folder / name for name in names if name.endswith(".json")]
    with suppress(FileNotFoundError):  # another process forgets them
        for path in sorted(whole, key=_used_at)[: max(0, len(whole) - MOST_ALIKE)]:
            path.unlink()
        for path in (folder / name for name in names if name.endswith(".partial")):
            if _used_at(path) < time.time() - ABANDONED_SECONDS:
                path.unlink()


def _used_at(path: Path) -> float:
    return path.stat().st_mtime


def check_name(text: str) -> NamedDocuments | str:
    """Return what ``parse_name`` does.

    Raises:
        UsageError: the text is no name.
    """
    parsed = parse_name(text)
    if parsed is None:
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise UsageError(
            f"{shown!r} names no documents",
            hint=f"write {NAME}, with 4 or more digits of each digest and at most {MOST_DOCUMENTS} documents",
        )
    return parsed
