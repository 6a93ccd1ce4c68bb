"""What all steps of one push share."""

from __future__ import annotations

from dataclasses import dataclass

from registry.catalog.remotes.remotes import Remote
from registry.hub.client import Hub
from registry.pipeline.opened import Registry
from registry.pipeline.push.request import PushRequest
from registry.pipeline.repositories import Seen
from registry.progress import Progress


@dataclass(frozen=True)
class Work:
    """One push: ``known`` is what the catalog knew of the repository, ``seen`` what it is now."""

    registry: Registry
    hub: Hub
    repository: str
    request: PushRequest
    corpus: str
    known: Remote | None
    seen: Seen
    progress: Progress

    @property
    def pack_size_bytes(self) -> int:
        """How large packs are to be: as asked for, else as the repository was begun with, else as they are here."""
        root = self.seen.root
        begun = self.registry.home.pack_size_bytes if root is None else root.pack_size_bytes
        return self.request.pack_size_bytes or begun

    @property
    def has_text(self) -> bool:
        """Whether texts are published."""
        return self.request.has_text
