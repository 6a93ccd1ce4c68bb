"""What must hold of every record, whether it is to be published or came from a stranger."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from registry.digests import json_digest, normalise_text, short
from registry.hub.manifest.columns import malformed
from registry.hub.manifest.limits import NAME_LENGTH
from registry.hub.manifest.strict_json import MOST_NUMBER
from registry.hub.manifest.text import is_plain
from registry.published import MemberRecord

NAMES = ("generator", "prompts_version", "kind", "producer", "device", "dtype")
COUNTS = ("rewrites", "pairs", "size_bytes", "parameters", "examples", "tokens", "steps", "group_size")
FLOATS = ("first_loss", "last_loss", "elapsed_seconds")
OF_TRAINING = frozenset({"examples", "tokens", "steps", *FLOATS, "device", "dtype", "group_size"})
"""Those of them that are of the training."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def record_key(record: MemberRecord) -> tuple[str, str]:
    """Return what records are in order of."""
    return record.document_digest, record.adapter_digest


def value_of(record: MemberRecord, name: str) -> Any:
    """Return a field of a record or of its training."""
    return getattr(record.training if name in OF_TRAINING else record, name)


@lru_cache(maxsize=4096)
def is_name(text: str) -> bool:
    """Return whether a text may be a name, such as of a device."""
    return isinstance(text, str) and is_plain(text, NAME_LENGTH)


def check_record(before: MemberRecord | None, record: MemberRecord, *, what: str) -> None:
    """Check what must hold of every record.

    Raises:
        IntegrityError: something does not hold; the message names the document.
    """
    if before is not None and record_key(before) >= record_key(record):
        raise malformed(what, f"its records are not in order at the document {short(record.document_digest)}")
    try:
        problem = _text_problem(record) or _augmentation_problem(record) or _number_problem(record)
    except (ValueError, TypeError) as error:  # such as half a surrogate pair, which has no digest
        raise malformed(what, error) from error
    if problem:
        raise malformed(what, f"the document {short(record.document_digest)} has {problem}")


def _text_problem(record: MemberRecord) -> str | None:
    title, text = record.title, record.text
    if title is None or text is None:
        return (
            None
            if (title, text, record.payload) == (None, None, None)
            else "a part of its text withheld, and a part not"
        )
    if "\0" in title or "\0" in text or normalise_text(title) != title or normalise_text(text) != text:
        return "a text that is not normalised"
    if json_digest({"title": title, "text": text}) != record.document_digest:
        return "a text of another digest"
    return None


def _augmentation_problem(record: MemberRecord) -> str | None:
    digests = [request.request_digest for request in record.requests]
    if digests != sorted(set(digests)):
        return "requests that are not in order"
    payload = record.payload
    if payload is None:
        return None
    if problem := _payload_problem(payload):
        return problem
    if len(payload["rewrites"]) != record.rewrites or len(payload["qa"]) != record.pairs:
        return "other counts of rewrites and pairs than it says"
    content = {
        "document": record.document_digest,
        "generator": record.generator,
        "prompts_version": record.prompts_version,
        **payload,
    }
    return None if json_digest(content) == record.augmentation_digest else "an augmentation of another digest"


def _number_problem(record: MemberRecord) -> str | None:
    training = record.training
    if not all(is_name(value_of(record, name)) for name in NAMES):
        return "a name with control characters, or too long a one"
    counts = [value_of(record, name) for name in COUNTS]
    for request in record.requests:
        counts += (request.dropped_pairs, request.dropped_rewrites, request.tokens)
    if not all(0 <= count <= MOST_NUMBER for count in counts):
        return "a count out of range"
    if 0 in (record.size_bytes, record.parameters, training.group_size):
        return "no bytes, no parameters or no group"
    seconds = [training.elapsed_seconds, *(request.elapsed_seconds for request in record.requests)]
    if not all(0 <= value < math.inf for value in seconds):
        return "a time that is none"
    if not (math.isfinite(training.first_loss) and math.isfinite(training.last_loss)):
        return "a loss that is not finite"
    return None if record.created_at >= EPOCH else "a date before 1970"


def _payload_problem(payload: Any) -> str | None:
    if not isinstance(payload, dict) or payload.keys() != {"rewrites", "qa"}:
        return "a payload that is none"
    rewrites, pairs = payload["rewrites"], payload["qa"]
    if type(rewrites) is not list or not all(type(rewrite) is str for rewrite in rewrites):
        return "rewrites that are no texts"
    if type(pairs) is not list:
        return "pairs that are no list"
    for pair in pairs:
        if type(pair) is not dict or pair.keys() != {"question", "answer", "full_answer"}:
            return "a pair that is none"
        question, answer, full = pair["question"], pair["answer"], pair["full_answer"]
        if type(question) is not str or type(answer) is not str or type(full) not in (str, type(None)):
            return "a pair that is no texts"
    return None
