"""What is amiss in a registry: one vocabulary for what finds it and what mends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["damage", "leftover"]
"""Damage: something that a version, an answer or the history needs is missing or wrong. Leftover: only room is lost."""

KINDS: dict[str, tuple[Severity, str]] = {
    # The catalog itself.
    "catalog-damaged": ("damage", "the database's own check fails"),
    "dangling-row": ("damage", "a row refers to one that is not there"),
    "document-altered": ("damage", "a document's title or text does not have its digest"),
    "augmentation-altered": ("damage", "an augmentation's payload does not have its digest"),
    "recipe-altered": ("damage", "a recipe's settings do not have its digest"),
    "version-altered": ("damage", "a version's members do not have its digest, or are not as many as it says"),
    "membership-overlap": ("damage", "two validity ranges of one document in one corpus overlap"),
    "version-unnamed": ("damage", "a corpus has versions, but `latest` names none of them"),
    "build-abandoned": ("leftover", "a build is recorded as running, but its process is gone"),
    "staging-left": ("leftover", "staging rows of a build that is over"),
    # Packs and adapters.
    "pack-missing": ("damage", "a pack of the catalog is not in the store"),
    "pack-damaged": ("damage", "a pack's bytes do not have its digest, or it is cut off or no pack"),
    "pack-table": ("damage", "the table of packs differs from what a pack's own header says"),
    "adapter-missing": ("damage", "an adapter of a version lies in no pack"),
    "adapter-damaged": ("damage", "an adapter's bytes do not have its digest"),
    "adapter-foreign": ("damage", "an adapter's tensors are not its recipe's"),
    "adapter-broken": ("damage", "an adapter holds numbers that are not finite, or has no effect"),
    "task-adapter-missing": ("damage", "a task adapter lies in no pack"),
    "pack-unknown": ("leftover", "a pack of the store is not in the catalog"),
    "file-partial": ("leftover", "what a killed writer left in the store"),
    "adapter-unused": ("leftover", "an adapter that no version has takes room in a pack"),
    # Indexes, which are derived.
    "index-missing": ("damage", "a version that an alias names has no index"),
    "index-damaged": ("damage", "an index cannot be read, or a file of it is damaged"),
    "index-altered": ("damage", "an index does not hold the documents of its version"),
    "index-unknown": ("leftover", "a folder of an index that no version has"),
}
"""Every kind of fault, how bad it is, and what it means."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: its ``kind`` (a key of ``KINDS``) and the ``subject`` that has it.

    ``subject`` is a whole digest, a reference such as ``handbook@v3``, a path, or a table's name. ``detail`` says in
    one line what was found. ``digests`` are what is touched inside the subject, such as the damaged adapters of a pack;
    ``versions`` are the references of versions that cannot be wholly used because of it; ``size_bytes`` is the room
    that a leftover takes.
    """

    kind: str
    subject: str
    detail: str
    digests: tuple[str, ...] = field(default=())
    versions: tuple[str, ...] = field(default=())
    size_bytes: int = 0

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind][0]
