"""What an augmenter is, how it is named, and what a build reports about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from registry.digests import json_digest
from registry.errors import UsageError
from registry.records import Augmentation, StagedDocument

AugmenterKind = Literal["self", "openai", "import", "none"]
MAX_NAMED = 100
_PLAIN: dict[str, AugmenterKind] = {"self": "self", "openai": "openai", "none": "none"}


@dataclass(frozen=True, slots=True)
class AugmentationSettings:
    """How much is wanted of each document: at most ``rewrites`` and ``pairs``, the first that pass the check.

    ``seed`` decides what is sampled; a document is asked about at most ``max_attempts`` times.
    """

    rewrites: int
    pairs: int
    seed: int = 0
    max_attempts: int = 3

    def __post_init__(self) -> None:
        """Refuse counts that mean nothing."""
        if self.rewrites < 0 or self.pairs < 0:
            raise UsageError(f"rewrites ({self.rewrites}) and pairs ({self.pairs}) must not be negative")
        if self.max_attempts < 1:
            raise UsageError(f"max_attempts must be at least 1, not {self.max_attempts}")


class Augmenter(Protocol):
    """Whoever writes augmentations."""

    @property
    def generator(self) -> str:
        """The name under which its augmentations are catalogued."""

    @property
    def is_costly(self) -> bool:
        """Whether an augmentation takes time or money to get again, so that none may be lost."""

    def request_digest(self, staged: StagedDocument) -> str:
        """Return the identity of what would be asked for this document; the same digest gives the same answer."""

    def augment(self, documents: Sequence[StagedDocument]) -> Iterator[Augmentation]:
        """Yield exactly one augmentation for every document, each as soon as it is finished, in any order.

        Raises:
            AugmentationError: the augmenter failed as a whole; what was yielded before stays valid.
        """

    def finish(self) -> None:
        """Say that every document of the build was asked about.

        Raises:
            InputError: an import file had nothing for any of them.
        """


@dataclass(frozen=True, slots=True)
class AugmenterSpec:
    """Which augmenter the user named, and for ``import`` the file."""

    kind: AugmenterKind
    path: Path | None = None

    def __str__(self) -> str:
        """The augmenter as users type it."""
        return f"{self.kind}:{self.path}" if self.path else self.kind


def parse_augmenter(text: str) -> AugmenterSpec:
    """Return the augmenter that ``text`` names: ``self``, ``openai``, ``import:FILE`` or ``none``.

    Raises:
        UsageError: it names none of them.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind == "import" and rest.strip():
        return AugmenterSpec("import", Path(rest.strip()).expanduser())
    plain = _PLAIN.get(kind)
    if plain and not colon:
        return AugmenterSpec(plain)
    raise UsageError(f"there is no augmenter {text!r}", hint="use one of: self, openai, import:FILE, none")


@dataclass(frozen=True, slots=True)
class _NoAugmenter:
    generator: str = "none"
    is_costly: bool = False

    def request_digest(self, staged: StagedDocument) -> str:
        return json_digest({"generator": self.generator})

    def augment(self, documents: Sequence[StagedDocument]) -> Iterator[Augmentation]:
        for staged in documents:
            yield Augmentation(staged.document.digest, self.request_digest(staged), self.generator, prompts_version="")

    def finish(self) -> None:
        pass


def none_augmenter() -> Augmenter:
    """Return the augmenter that writes nothing: documents are encoded from their own text."""
    return _NoAugmenter()


@dataclass(slots=True)
class AugmentationReport:
    """Sums over the augmentations of a build; ``unaided`` names the first documents that got no pair at all."""

    documents: int = 0
    rewrites: int = 0
    dropped_rewrites: int = 0
    pairs: int = 0
    dropped_pairs: int = 0
    documents_without_pairs: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0
    unaided: list[str] = field(default_factory=list)

    def add(self, augmentation: Augmentation) -> None:
        """Count one document's augmentation."""
        self.count(
            augmentation.document_digest,
            rewrites=len(augmentation.rewrites),
            dropped_rewrites=augmentation.dropped_rewrites,
            pairs=len(augmentation.pairs),
            dropped_pairs=augmentation.dropped_pairs,
            tokens=augmentation.tokens,
            elapsed_seconds=augmentation.elapsed_seconds,
        )

    def count(
        self,
        document_digest: str,
        *,
        rewrites: int,
        dropped_rewrites: int,
        pairs: int,
        dropped_pairs: int,
        tokens: int,
        elapsed_seconds: float,
    ) -> None:
        """Count one document's augmentation of which only the numbers are known."""
        self.documents += 1
        self.rewrites += rewrites
        self.dropped_rewrites += dropped_rewrites
        self.pairs += pairs
        self.dropped_pairs += dropped_pairs
        self.tokens += tokens
        self.elapsed_seconds += elapsed_seconds
        if not pairs:
            self.documents_without_pairs += 1
            if len(self.unaided) < MAX_NAMED:
                self.unaided.append(document_digest)
