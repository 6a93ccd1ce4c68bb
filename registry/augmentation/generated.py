"""The ``self`` augmenter: the base model writes about the documents that it is going to be taught.

A document gets its rewrites first. Its pairs are looked for in four ways until there are enough: questions that follow
from a sentence by rule, or that the model has to turn (see ``answers``), the same questions in the order of their
sentences, and pairs that the model lists freely. A model of at least ``GOOD_AT_LISTING`` parameters is asked to list
before sentence order is resorted to; a smaller one lists much that is wrong, and is only asked about documents in which
nothing else was found, such as those in other languages than English. Everything passes the same check, and all
sampling is seeded by document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from registry.augmentation.answers import Candidate, find_candidates, is_turned_well
from registry.augmentation.augmenter import AugmentationSettings, Augmenter
from registry.augmentation.completion import Asking, Completer, Completion, Row, encode_after
from registry.augmentation.grounding import CHECK_VERSION
from registry.augmentation.prompts import (
    LIST_START,
    PROMPTS_VERSION,
    TURNING_EXAMPLES,
    list_prompt,
    rewrite_prompt,
    turning_prompt,
)
from registry.augmentation.replies import read_listed
from registry.augmentation.selection import Selection
from registry.base_model import LoadedModel, encode_prompt
from registry.digests import json_digest
from registry.layout import Prompt
from registry.records import Augmentation, BaseModel, Document, StagedDocument

GOOD_AT_LISTING = 500_000_000
BATCH_ROWS = 64
TEMPERATURE = 0.7
SPARE_QUESTIONS = 1.5
"""How many questions are turned for each pair that is wanted: some are dropped."""

_TURNED_TOKENS = 40
_PAIR_TOKENS = 48
_SENTENCE_END = re.compile(r".*[.!?。！？][\"”’)]*", re.S)


class _Job:
    """One document on its way."""

    def __init__(self, staged: StagedDocument, settings: AugmentationSettings) -> None:
        self.staged = staged
        self.selection = Selection(staged, settings)
        self.candidates = find_candidates(staged.document) if settings.pairs else []
        self.asked: set[Candidate] = set()

    @property
    def document(self) -> Document:
        return self.staged.document

    def take(self, completion: Completion) -> str:
        """Count the work of a completion and return its text."""
        self.selection.tokens += completion.tokens
        self.selection.elapsed_seconds += completion.elapsed_seconds
        return completion.text


class _SelfAugmenter:
    is_costly = True

    def __init__(
        self,
        base_model: BaseModel,
        load: Callable[[], LoadedModel],
        settings: AugmentationSettings,
        batch_rows: int | None,
    ) -> None:
        self._base_model = base_model
        self._load = load
        self._settings = settings
        self._batch_rows = batch_rows
        self.generator = f"self:{base_model.fingerprint}"
        self._request_digest = json_digest(
            {
                "generator": self.generator,
                "prompts_version": PROMPTS_VERSION,
                "check": CHECK_VERSION,
                "rewrites": settings.rewrites,
                "pairs": settings.pairs,
                "seed": settings.seed,
                "max_attempts": settings.max_attempts,
            }
        )

    @cached_property
    def _loaded(self) -> LoadedModel:
        return self._load()

    @cached_property
    def _completer(self) -> Completer:
        return Completer(self._loaded, self._batch_rows or BATCH_ROWS)

    def request_digest(self, staged: StagedDocument) -> str:
        return self._request_digest

    def finish(self) -> None:
        pass

    def augment(self, documents: Sequence[StagedDocument]) -> Iterator[Augmentation]:
        """Write about the long ones first: like lengths go together, and the last, when few are left, are short."""
        if documents:
            ordered = sorted(documents, key=lambda staged: len(staged.document.text), reverse=True)
            yield from self._completer.run(self._write(_Job(staged, self._settings)) for staged in ordered)

    def _write(self, job: _Job) -> Asking[Augmentation]:
        yield from self._rewrite(job)
        yield from self._turn(job)
        if self._base_model.parameters >= GOOD_AT_LISTING:
            yield from self._list(job)
        _offer_plain(job)
        if not job.selection.questions:
            yield from self._list(job)
        return job.selection.result(
            request_digest=self._request_digest, generator=self.generator, prompts_version=PROMPTS_VERSION
        )

    def _rewrite(self, job: _Job) -> Asking[None]:
        for attempt in range(self._settings.max_attempts):
            prompt = Prompt(rewrite_prompt(job.document), "")
            purposes = [f"rewrite {attempt} {number}" for number in range(job.selection.missing_rewrites)]
            rows = [row for purpose in purposes if (row := self._row(job, prompt, purpose, None))]
            completions = yield rows
            for row, completion in zip(rows, completions, strict=True):
                text = job.take(completion)
                if completion.tokens >= row.max_new_tokens:
                    whole = _SENTENCE_END.match(text)
                    text = whole.group() if whole else ""
                job.selection.offer_rewrite(text)

    def _turn(self, job: _Job) -> Asking[None]:
        """Offer the questions that need no turning and those that the model turned, in the order of candidates."""
        asked = job.candidates[: round(job.selection.missing_pairs * SPARE_QUESTIONS)]
        to_turn = [candidate for candidate in asked if candidate.question is None]
        texts = [turning_prompt(candidate.plain_question, candidate.opening) for candidate in to_turn]
        beginning, encoded = encode_after(self._loaded.tokenizer, TURNING_EXAMPLES, texts)
        completions = yield [Row(tuple(ids), _TURNED_TOKENS, stop="?", beginning=beginning) for ids in encoded]
        written = (
            candidate.opening + job.take(completion) for candidate, completion in zip(to_turn, completions, strict=True)
        )
        turned = dict(zip(to_turn, written, strict=True))
        for candidate in asked:
            question = candidate.question or turned[candidate]
            if not candidate.question and not is_turned_well(candidate, question):
                job.selection.reject_pair()
            elif job.selection.offer_pair(question, candidate.answer, candidate.sentence):
                job.asked.add(candidate)

    def _list(self, job: _Job) -> Asking[None]:
        for attempt in range(self._settings.max_attempts):
            missing = job.selection.missing_pairs
            if missing <= 0:
                return
            prompt = Prompt(list_prompt(job.document, missing + 1), LIST_START)
            row = self._row(job, prompt, f"list {attempt}", (missing + 1) * _PAIR_TOKENS)
            for completion in (yield [row] if row else []):
                for pair in read_listed(f"{LIST_START} {job.take(completion)}"):
                    job.selection.offer_pair(*pair)

    def _row(self, job: _Job, prompt: Prompt, purpose: str, max_new_tokens: int | None) -> Row | None:
        """Return the row of a prompt, or None where the document is too long for the model."""
        ids = encode_prompt(self._loaded.tokenizer, prompt)
        most = max_new_tokens or round(1.3 * len(self._loaded.tokenizer(job.document.text)["input_ids"])) + 16
        limit = getattr(self._loaded.model.config, "max_position_embeddings", None)
        if limit is not None and len(ids) + most > limit:
            return None
        seed = hashlib.sha256(f"{self._settings.seed} {job.document.digest} {purpose}".encode()).digest()
        return Row(tuple(ids), most, temperature=TEMPERATURE, seed=int.from_bytes(seed[:8], "big"))


def _offer_plain(job: _Job) -> None:
    """Offer questions in the order of their sentences, first for answers that were not asked for otherwise."""
    for candidate in sorted(job.candidates, key=job.asked.__contains__):
        if job.selection.missing_pairs > 0:
            job.selection.offer_pair(candidate.plain_question, candidate.answer, candidate.sentence)


def self_augmenter(loaded: LoadedModel, settings: AugmentationSettings, *, batch_rows: int | None = None) -> Augmenter:
    """Return the augmenter that lets ``loaded`` write; ``batch_rows`` texts are completed at a time.

    By default 16 on a CPU and 64 elsewhere.
    """
    return _SelfAugmenter(loaded.base_model, lambda: loaded, settings, batch_rows)


def deferred_self_augmenter(
    base_model: BaseModel,
    load: Callable[[], LoadedModel],
    settings: AugmentationSettings,
    *,
    batch_rows: int | None = None,
) -> Augmenter:
    """Return the same for a model that ``load`` gives, which is called when the first document is to be written about.

    What is asked for is known before: a build for which everything is in the catalog never loads the model.
    """
    return _SelfAugmenter(base_model, load, settings, batch_rows)
