"""The ``openai`` augmenter: any endpoint that speaks the OpenAI chat completions protocol writes the augmentations."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from registry.augmentation.augmenter import AugmentationSettings, Augmenter
from registry.augmentation.endpoint_client import (
    BudgetSpentError,
    Endpoint,
    EndpointSettings,
    RefusedError,
    UnreachedError,
)
from registry.augmentation.grounding import CHECK_VERSION
from registry.augmentation.prompts import ENDPOINT_SYSTEM, PROMPTS_VERSION, endpoint_prompt
from registry.augmentation.replies import read_reply
from registry.augmentation.selection import Selection
from registry.digests import json_digest
from registry.errors import AugmentationError, UsageError
from registry.records import Augmentation, StagedDocument

MODEL_VARIABLE = "OPENAI_MODEL"
BASE_URL_VARIABLE = "OPENAI_BASE_URL"
KEY_VARIABLE = "OPENAI_API_KEY"
CONCURRENCY_VARIABLE = "OPENAI_CONCURRENCY"
BUDGET_VARIABLE = "OPENAI_MAX_REQUESTS"
DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_CONCURRENCY = 8
FAILURES_IN_A_ROW = 3
"""So many documents that the endpoint does not answer, with none between them that it does, and it counts as down."""


@dataclass(frozen=True, slots=True)
class _SetAside:
    staged: StagedDocument
    answers: int


class _EndpointAugmenter:
    is_costly = True

    def __init__(self, endpoint: Endpoint, settings: AugmentationSettings) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self.generator = f"openai:{endpoint.settings.model}"
        self._request_digest = json_digest(
            {
                "generator": self.generator,
                "host": endpoint.settings.host,
                "prompts_version": PROMPTS_VERSION,
                "check": CHECK_VERSION,
                "rewrites": settings.rewrites,
                "pairs": settings.pairs,
                "max_attempts": settings.max_attempts,
            }
        )

    def request_digest(self, staged: StagedDocument) -> str:
        return self._request_digest

    def finish(self) -> None:
        pass

    def augment(self, documents: Sequence[StagedDocument]) -> Iterator[Augmentation]:
        with asyncio.Runner() as runner:
            work = _Work(self._endpoint, self._settings, documents)
            runner.run(work.open())
            try:
                while (selection := runner.run(work.next())) is not None:
                    yield selection.result(
                        request_digest=self._request_digest, generator=self.generator, prompts_version=PROMPTS_VERSION
                    )
            finally:
                runner.run(work.close())


class _Work:
    """The documents of one call: some are asked about at a time, those that fail are tried again at the end."""

    def __init__(self, endpoint: Endpoint, settings: AugmentationSettings, documents: Sequence[StagedDocument]) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._waiting = list(reversed(documents))
        self._running: dict[asyncio.Task[Selection], StagedDocument] = {}
        self._set_aside: list[_SetAside] = []
        self._failures = 0
        self._error: AugmentationError | None = None
        self._has_failed = False

    async def open(self) -> None:
        self._client = self._endpoint.open()

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._client.close()

    async def next(self) -> Selection | None:
        """Return what was written about some document next, or None when there is none left.

        Raises:
            AugmentationError: the endpoint refuses everything, is down, or the budget of requests is spent; all that
                was finished was returned before.
        """
        while True:
            self._start()
            finished = await self._finished()
            if finished is None:
                break
            selection = self._settle(finished, self._running.pop(finished))
            if selection is not None:
                return selection
        if self._error:
            raise self._error
        return await self._try_again(self._set_aside.pop(0)) if self._set_aside else None

    def _start(self) -> None:
        while self._waiting and not self._error and len(self._running) < self._endpoint.settings.concurrency:
            staged = self._waiting.pop()
            self._running[asyncio.ensure_future(self._write(staged))] = staged

    async def _finished(self) -> asyncio.Task[Selection] | None:
        """Return a task that is done; waits for one unless the work has failed and only what is done counts."""
        if self._running and not (self._error and self._has_failed):
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        return next((task for task in self._running if task.done()), None)

    def _settle(self, task: asyncio.Task[Selection], staged: StagedDocument) -> Selection | None:
        try:
            selection = task.result()
        except AugmentationError as error:
            self._fail(error)
        except BudgetSpentError:
            self._error = self._error or self._spent()
        except UnreachedError as error:
            self._failures += 1
            self._set_aside.append(_SetAside(staged, self._endpoint.answers))
            if self._failures >= FAILURES_IN_A_ROW:
                self._fail(self._down(error))
        else:
            self._failures = 0
            return selection
        return None

    def _fail(self, error: AugmentationError) -> None:
        self._error, self._has_failed = error, True

    async def _try_again(self, failed: _SetAside) -> Selection:
        """Ask again about a document that failed; if only it fails, it is the document's fault and gets nothing."""
        try:
            return await self._write(failed.staged)
        except UnreachedError as error:
            if self._endpoint.answers == failed.answers:
                raise self._down(error) from None
            return Selection(failed.staged, self._settings)
        except BudgetSpentError:
            raise self._spent() from None

    def _spent(self) -> AugmentationError:
        return AugmentationError(
            f"the budget of {self._endpoint.settings.max_requests} requests is spent before the last document",
            hint=f"run the same command again, with {BUDGET_VARIABLE} raised or unset: what was written is kept",
        )

    def _down(self, error: UnreachedError) -> AugmentationError:
        return AugmentationError(
            f"the endpoint {self._endpoint.settings.host} does not answer: {error}",
            hint=f"check {BASE_URL_VARIABLE}, or run the same command again when it does: what was written is kept",
        )

    async def _write(self, staged: StagedDocument) -> Selection:
        """Ask about one document until there is enough or it was asked about often enough."""
        selection = Selection(staged, self._settings)
        for _ in range(self._settings.max_attempts):
            if selection.is_complete:
                break
            rewrites, pairs = max(0, selection.missing_rewrites), max(0, selection.missing_pairs)
            prompt = endpoint_prompt(staged.document, rewrites, pairs, selection.questions)
            try:
                answered = await self._endpoint.ask(self._client, ENDPOINT_SYSTEM, prompt)
            except RefusedError:
                break
            except BudgetSpentError:
                if not selection.questions:
                    raise
                break
            selection.tokens += answered.tokens
            selection.elapsed_seconds += answered.elapsed_seconds
            reply = read_reply(answered.text)
            for rewrite in reply.rewrites:
                selection.offer_rewrite(rewrite)
            for question, answer, full_answer in reply.pairs:
                selection.offer_pair(question, answer, full_answer)
        return selection


def endpoint_augmenter(
    settings: AugmentationSettings,
    *,
    model: str | None = None,
    base_url: str | None = None,
    concurrency: int | None = None,
    max_requests: int | None = None,
    timeout_seconds: float = 120.0,
    max_retries: int = 5,
    backoff_seconds: float = 1.0,
) -> Augmenter:
    """Return the augmenter that asks an OpenAI-compatible endpoint; see ``EndpointSettings`` for the numbers.

    ``model`` and ``base_url`` default to ``$OPENAI_MODEL`` and ``$OPENAI_BASE_URL`` (else OpenAI's own); the key comes
    from ``$OPENAI_API_KEY`` only, and an endpoint of one's own may need none. ``concurrency`` and ``max_requests``
    default to ``$OPENAI_CONCURRENCY`` (else 8) and ``$OPENAI_MAX_REQUESTS`` (else as many as it takes).

    Raises:
        AugmentationError: the model or OpenAI's key is not set.
        UsageError: the address or a number cannot be used.
    """
    concurrency = concurrency if concurrency is not None else _number(CONCURRENCY_VARIABLE) or DEFAULT_CONCURRENCY
    max_requests = max_requests if max_requests is not None else _number(BUDGET_VARIABLE)
    model = model or os.environ.get(MODEL_VARIABLE)
    url = (base_url or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL).rstrip("/")
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not model:
        raise AugmentationError("no model is named for the openai augmenter", hint=f"set {MODEL_VARIABLE}")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UsageError("the endpoint's address is no http or https URL", hint=f"correct {BASE_URL_VARIABLE}")
    if not key and url == DEFAULT_BASE_URL:
        raise AugmentationError("OpenAI's endpoint needs a key", hint=f"set {KEY_VARIABLE}, or {BASE_URL_VARIABLE}")
    if not (key.isascii() and key.isprintable()):
        raise AugmentationError(f"{KEY_VARIABLE} has characters that no key has", hint=f"set {KEY_VARIABLE} again")
    if concurrency < 1 or (max_requests is not None and max_requests < 1) or timeout_seconds <= 0 or max_retries < 0:
        raise UsageError("concurrency, budget and timeout must be above 0, and retries not negative")
    chosen = EndpointSettings(model, url, concurrency, max_requests, timeout_seconds, max_retries, backoff_seconds)
    return _EndpointAugmenter(Endpoint(chosen, key), settings)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{variable} must be a whole number above 0, not {text!r}", hint=f"unset {variable}")
    return int(text)
