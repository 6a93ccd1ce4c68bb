"""What every step of a repair has at hand, and where it notes what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from registry.errors import Interrupted, PragregError
from registry.masking import masked
from registry.pipeline.opened import Registry
from registry.progress import Progress
from registry.upkeep.findings import Finding

RESTORE = "restore it from a backup: pragreg repair --from BACKUP, or pragreg restore"


class Note(NamedTuple):
    """What was done about a finding, or why nothing could be, and what the user can do."""

    text: str
    hint: str = ""


@dataclass
class Bench:
    """The registry under repair, the backup that may help, and the notes on findings by kind and subject.

    ``had`` says of adapters that were had again from where; ``instead`` names the new adapters that were encoded for
    those which could not be had; ``failed`` says why an adapter could not be had at all, and ``there`` which repository
    has one that lies in no pack here. ``useless`` are adapters that do have their digests, but no number or effect: no
    copy of them is taken.
    """

    registry: Registry
    backup: Registry | None
    progress: Progress
    notes: dict[tuple[str, str], Note] = field(default_factory=dict)
    had: dict[str, str] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    there: dict[str, str] = field(default_factory=dict)
    useless: set[str] = field(default_factory=set)

    def note(self, findings: Iterable[Finding], text: str, hint: str = "") -> None:
        """Note what came of findings; what was noted on them before goes."""
        for finding in findings:
            self.notes[finding.kind, finding.subject] = Note(text, hint)

    @contextmanager
    def noting(self, findings: Iterable[Finding]) -> Iterator[None]:
        """Let a failure of the block be a note on ``findings``, so that it does not stop what is done about others."""
        try:
            yield
        except Interrupted:
            raise
        except PragregError as error:
            self.note(findings, error.message, error.hint or "")
        except Exception as error:  # damaged data may break anything that reads it
            self.note(findings, masked(f"{type(error).__name__}: {error}"))
