"""What garbage collection is asked for, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

DAY_SECONDS = 86_400.0
ADAPTERS = "adapters"


@dataclass(frozen=True, slots=True)
class CollectRequest:
    """What `pragreg gc` was asked for; ``yes`` does it, else it is only told what would be done.

    Without ``keep_last`` and ``keep_since`` all versions are kept. ``corpora`` are those of which versions may go
    (empty: all). What is younger than ``grace_seconds`` stays, whatever it is.
    """

    keep_last: int | None = None
    keep_since: datetime | None = None
    grace_seconds: float = DAY_SECONDS
    corpora: tuple[str, ...] = ()
    yes: bool = False


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that stays, and why."""

    version: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Freed:
    """Of one kind, how much goes or is gone; adapters lie in packs, so their bytes are not counted once more."""

    kind: str
    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What goes, or is gone if it is ``done``.

    ``collected`` are the versions that adapters are taken from, ``spared`` those that are not kept either, but lose
    nothing. ``young`` files stay because of the grace period, and ``resting_bytes`` of adapters that nobody needs
    because less than a quarter of their packs is dead. ``notes`` say what could not be done, and why.
    """

    done: bool
    collected: tuple[str, ...]
    spared: tuple[str, ...]
    kept: tuple[KeptVersion, ...]
    freed: tuple[Freed, ...]
    young: int
    resting_bytes: int
    notes: tuple[str, ...]
    elapsed_seconds: float

    @property
    def size_bytes(self) -> int:
        """The bytes of all files that go."""
        return sum(item.size_bytes for item in self.freed if item.kind != ADAPTERS)
