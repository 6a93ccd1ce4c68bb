"""Identity: sha256 over exactly defined bytes."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

SHORT_LENGTH = 12


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the sha256 of ``data`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON encoding of ``value`` that digests are taken of.

    Keys sorted, no white space, UTF-8 without escapes, no NaN.

    Raises:
        ValueError: ``value`` holds a NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def json_digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON of ``value``."""
    return sha256_hex(canonical_json(value))


def normalise_text(text: str) -> str:
    """Return ``text`` in NFC with line ends as ``\\n`` and outer white space stripped."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def document_digest(title: str, text: str) -> str:
    """Return a document's identity: sha256 over its normalised title and text."""
    return json_digest({"title": normalise_text(title), "text": normalise_text(text)})


def text_key(text: str) -> int:
    """Return the first 8 bytes of the sha256 of ``text`` as a signed number, by which equal texts are found."""
    # Half a surrogate pair is the database's to refuse.
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big", signed=True)


def question_digest(question: str) -> str:
    """Return what two spellings of one question have in common: sha256 over its words, folded, without punctuation."""
    folded = normalise_text(question).casefold()
    kept = "".join(" " if unicodedata.category(one)[0] in "PZC" else one for one in folded)
    return json_digest({"question": kept.split()})


def short(digest: str) -> str:
    """Return the first characters of a digest, enough to show to a person."""
    return digest[:SHORT_LENGTH]
