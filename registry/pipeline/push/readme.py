"""The README.md of a push: written anew with every manifest, unless somebody edited it by hand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from registry.catalog.evaluations import list_evaluations
from registry.digests import sha256_hex
from registry.errors import IntegrityError
from registry.hub.card import EvaluationRow, card
from registry.hub.client import NewFile
from registry.hub.licences import licence_of
from registry.hub.names import CARD
from registry.pipeline.push.intent import Intent
from registry.pipeline.push.work import Work
from registry.published import Root

CARD_LIMIT_BYTES = 4 * 1024 * 1024
_EVALUATIONS = 100


@dataclass(frozen=True, slots=True)
class Readme:
    """What becomes of README.md: ``file`` is None where it stays, ``digest`` is what the root says of it."""

    state: Literal["written", "kept", "unchanged"]
    file: NewFile | None
    digest: str | None


def readme(work: Work, intent: Intent, root: Root, head: str | None) -> Readme:
    """Return what becomes of the README.md at ``head`` when ``root`` is published.

    One request. A licence that was given once stays until another one is given.

    Raises:
        HubError: it cannot be read.
    """
    there = _read(work, head)
    written_before = None if work.seen.root is None else work.seen.root.card_digest
    is_ours = there is None or sha256_hex(there) == written_before
    if not is_ours and not work.request.replace_card:
        return Readme("kept", None, written_before)
    licence = work.request.licence or (None if there is None else licence_of(there.decode(errors="replace")))
    data = card(
        root, licence=licence, evaluation=_evaluation(work, intent), is_signed=work.request.key_file is not None
    ).encode()
    if data == there:
        return Readme("unchanged", None, sha256_hex(data))
    return Readme("written", NewFile(CARD, data, sha256_hex(data)), sha256_hex(data))


def _read(work: Work, head: str | None) -> bytes | None:
    if head is None:
        return None
    with suppress(IntegrityError):  # far larger than any that we write
        return work.hub.read_small(work.repository, head, CARD, limit_bytes=CARD_LIMIT_BYTES)
    return b""


def _evaluation(work: Work, intent: Intent) -> Sequence[EvaluationRow]:
    """Return the newest evaluation of a version that the repository has."""
    published = {f"{intent.corpus}@v{number}" for number in intent.numbers}
    with work.registry.catalog.read() as session:
        found = list_evaluations(session, intent.corpus, limit=_EVALUATIONS)
    newest = next((record for record in found if record.version in published), None)
    if newest is None:
        return ()
    rows = []
    for result in newest.results:
        scores = {name: interval[0] for name, interval in result.scores.items()}
        if not result.question_type and scores.keys() >= {"exact_match", "f1", "contains"}:
            rows.append(
                EvaluationRow(
                    mode=f"{result.mode} k={result.k}" if result.k else result.mode,
                    questions=result.questions,
                    exact_match=scores["exact_match"],
                    f1=scores["f1"],
                    contains=scores["contains"],
                )
            )
    return rows
