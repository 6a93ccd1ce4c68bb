"""What a push is asked for, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class PushRequest:
    """What `pragreg push` was asked for.

    ``reference`` is a corpus, or ``corpus@ref`` for its versions up to that one; by default it is the corpus that the
    home knows to lie in the repository, else ``default``. ``message`` is the commit's, ``tag`` a name for it besides
    those of the versions. ``pack_size_bytes`` is by default what the repository was begun with. ``key_file`` signs the
    root manifest, None leaves it unsigned; ``passphrase`` is asked if the key has one. ``replace_card`` replaces a
    README.md that was edited by hand. ``rebase`` replays diverged versions on the repository's first.
    """

    repository: str
    reference: str | None = None
    private: bool = False
    message: str | None = None
    has_text: bool = True
    tag: str | None = None
    dry_run: bool = False
    pack_size_bytes: int | None = None
    licence: str | None = None
    key_file: Path | None = None
    passphrase: Callable[[], str] | None = None
    replace_card: bool = False
    rebase: bool = False


@dataclass(frozen=True)
class Sent:
    """What a push sends, or with a dry run would send.

    ``whole_packs`` are packs of this home as they are, ``composed_packs`` were made of what else the repository lacked;
    ``reused`` counts adapters of new versions that it had already. ``records`` counts documents with their texts and
    augmentations, ``shards`` the files of the manifest. Sizes are in bytes; of records and shards they are None where
    nothing was written yet.
    """

    whole_packs: int = 0
    composed_packs: int = 0
    packs_bytes: int = 0
    adapters: int = 0
    reused: int = 0
    records: int = 0
    records_bytes: int | None = None
    shards: int = 0
    shards_bytes: int | None = None


@dataclass(frozen=True)
class PushReport:
    """What a push did, or with ``dry_run`` would do.

    ``state`` is how the corpus stood to the repository before. ``commit_id`` is the commit that was made, None where
    there was nothing new, or nothing was done. ``versions`` are the numbers in the repository of those that were
    added, ``references`` what they are here; ``latest`` is the number that is asked there by default. ``behind`` counts
    versions of the repository that are not here. ``tags`` were made. ``card``: README.md was "written", "kept" since it
    was edited by hand, or is "unchanged". ``dropped_signature``: the manifest was signed before, and is not any more.
    """

    repository: str
    url: str
    corpus: str
    state: Literal["new", "equal", "ahead", "behind"]
    commit_id: str | None
    versions: tuple[int, ...]
    references: tuple[str, ...]
    latest: int | None
    behind: int
    sent: Sent
    tags: tuple[str, ...]
    created: bool
    has_text: bool
    is_signed: bool
    dropped_signature: bool
    card: Literal["written", "kept", "unchanged"]
    dry_run: bool
    elapsed_seconds: float
