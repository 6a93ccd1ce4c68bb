"""What a pull is asked for, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from registry.documents import ReadOptions
from registry.errors import UsageError

AT_ONCE = 4
"""Files that are fetched side by side."""

Outcome = Literal["pulled", "equal", "ahead", "rebased"]
"""Versions came; there are the same here and there; there are more here; our difference was put on top of theirs."""


@dataclass(frozen=True)
class PullRequest:
    """What `pragreg pull` was asked for.

    ``repository`` is ``NAMESPACE/NAME[@REVISION]``, ``corpus`` a name for the corpus here (None: the one that it has
    there). ``is_lazy`` leaves the adapters there. ``base_model`` is where the base model lies (None: the home's own).
    ``required_key`` is a name under [trust], a public key or a file of one, by which the root must be signed. From
    ``texts``, sources as of a build that are read by ``read``, texts come that the repository withholds.
    """

    repository: str
    corpus: str | None = None
    is_lazy: bool = False
    rebase: bool = False
    base_model: str | None = None
    required_key: str | None = None
    texts: tuple[str, ...] = ()
    read: ReadOptions = field(default_factory=ReadOptions)
    jobs: int = AT_ONCE

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.jobs < 1:
            raise UsageError("at least one file must be fetched at once", hint="set --jobs to 1 or more")


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull did.

    ``version`` is the one that was pulled, as it is called here, ``versions`` those that came. Packs are those that
    hold adapters of it: ``packs_fetched`` came now, ``packs_reused`` were here. ``fetched_bytes`` is all that came over
    the wire, ``fetch_seconds`` the time that this took with its checks. ``withheld`` documents of the version have no
    text here, ``remote_adapters`` lie only in the repository. ``conflicts`` are documents of theirs that gave way to
    ours in a rebase. ``publisher`` is who signed, None where nobody was asked for.
    """

    repository: str
    endpoint: str
    commit: str
    corpus: str
    outcome: Outcome
    version: str
    version_digest: str
    versions: tuple[str, ...]
    documents: int
    withheld: int
    filled: int
    remote_adapters: int
    packs_fetched: int
    packs_reused: int
    fetched_bytes: int
    conflicts: tuple[str, ...]
    publisher: str | None
    fetch_seconds: float
    elapsed_seconds: float
