"""Choosing from what was written: clean, check, count what is dropped, and stop at the number that is wanted."""

from __future__ import annotations

from registry.augmentation.augmenter import AugmentationSettings
from registry.augmentation.cleaning import clean_pair, clean_rewrite
from registry.augmentation.grounding import MAX_REWRITE_LENGTH, Passage, is_faithful_rewrite, is_grounded
from registry.records import Augmentation, QAPair, StagedDocument


class Selection:
    """What was kept for one document so far. Repetitions are passed over, not counted as dropped."""

    def __init__(self, staged: StagedDocument, settings: AugmentationSettings) -> None:
        """Start with nothing kept."""
        self.document = staged.document
        self.passage = Passage.of(staged.document)
        self.tokens = 0
        self.elapsed_seconds = 0.0
        self._settings = settings
        self._pairs: list[QAPair] = []
        self._rewrites: list[str] = []
        self._seen: set[str] = set()
        self._dropped_pairs = 0
        self._dropped_rewrites = 0

    @property
    def missing_pairs(self) -> int:
        """How many pairs are still wanted."""
        return self._settings.pairs - len(self._pairs)

    @property
    def missing_rewrites(self) -> int:
        """How many rewrites are still wanted."""
        return self._settings.rewrites - len(self._rewrites)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is wanted."""
        return self.missing_pairs <= 0 and self.missing_rewrites <= 0

    @property
    def questions(self) -> list[str]:
        """The questions that were kept."""
        return [pair.question for pair in self._pairs]

    def offer_pair(self, question: str, answer: str, full_answer: str | None = None) -> bool:
        """Keep a pair if one is wanted and it is new and grounded; return whether it was kept.

        A full answer that is not grounded is left out, the pair stays.
        """
        pair = clean_pair(question, answer, full_answer)
        if self.missing_pairs <= 0 or self._is_known(pair.question):
            return False
        if not is_grounded(pair, self.passage):
            self._dropped_pairs += 1
            return False
        full = QAPair(pair.question, pair.full_answer or "")
        if not is_grounded(full, self.passage):
            pair = QAPair(pair.question, pair.answer)
        self._seen.add(_key(pair.question))
        self._pairs.append(pair)
        return True

    def reject_pair(self) -> None:
        """Count a pair as dropped that was no use even before the check."""
        self._dropped_pairs += 1

    def offer_rewrite(self, text: str) -> bool:
        """Keep a rewrite if one is wanted and it is new and faithful; return whether it was kept."""
        rewrite = clean_rewrite(text, round(MAX_REWRITE_LENGTH * self.passage.word_count))
        if self.missing_rewrites <= 0 or self._is_known(rewrite):
            return False
        if not is_faithful_rewrite(rewrite, self.passage):
            self._dropped_rewrites += 1
            return False
        self._seen.add(_key(rewrite))
        self._rewrites.append(rewrite)
        return True

    def _is_known(self, text: str) -> bool:
        return _key(text) in self._seen

    def result(self, *, request_digest: str, generator: str, prompts_version: str) -> Augmentation:
        """Return what was kept as the document's augmentation."""
        return Augmentation(
            document_digest=self.document.digest,
            request_digest=request_digest,
            generator=generator,
            prompts_version=prompts_version,
            rewrites=tuple(self._rewrites),
            pairs=tuple(self._pairs),
            dropped_pairs=self._dropped_pairs,
            dropped_rewrites=self._dropped_rewrites,
            tokens=self.tokens,
            elapsed_seconds=self.elapsed_seconds,
        )


def _key(text: str) -> str:
    return " ".join(text.casefold().split())
