"""Asking an OpenAI-compatible endpoint: retries with back-off, a budget of requests, and errors that say what to do."""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from registry.errors import AugmentationError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

MAX_WAIT_SECONDS = 60.0
MAX_SHOWN = 300
NO_KEY = "none"
"""What an endpoint that wants no key is sent, since the client insists on one."""
_KEY_LIKE = re.compile(r"\b(?:sk|key|Bearer)[-_ ][\w-]{8,}", re.I)
_TRANSIENT = frozenset((408, 409, 425, 429))
OTHER_HINT = "check OPENAI_BASE_URL and OPENAI_MODEL"
_FATAL_HINTS = {
    401: "set OPENAI_API_KEY to a key of this endpoint",
    402: "top up the account of this key, or set OPENAI_API_KEY to another's",
    403: "set OPENAI_API_KEY to a key that may use this model, or OPENAI_MODEL to a model that this key may use",
    404: "check the model's name (OPENAI_MODEL) and that OPENAI_BASE_URL ends where the API begins, mostly in /v1",
}


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Which endpoint is asked, and how patiently.

    At most ``concurrency`` documents are asked about at a time and at most ``max_requests`` requests are sent (None: as
    many as it takes), retries included. A request may take ``timeout_seconds``; one that fails for a reason that may
    pass is sent again up to ``max_retries`` times, first after about ``backoff_seconds``, then after twice that, and
    so on, or after what the endpoint says.
    """

    model: str
    base_url: str
    concurrency: int = 8
    max_requests: int | None = None
    timeout_seconds: float = 120.0
    max_retries: int = 5
    backoff_seconds: float = 1.0

    @property
    def host(self) -> str:
        """The host's name, without user, password and port."""
        return urlsplit(self.base_url).hostname or ""


@dataclass(frozen=True, slots=True)
class Answered:
    """An endpoint's answer: its text, the tokens it was charged as, and how long it took."""

    text: str
    tokens: int
    elapsed_seconds: float


class BudgetSpentError(Exception):
    """No more requests may be sent."""


class RefusedError(Exception):
    """The endpoint does not want to answer this one question, and would not if asked again."""


class UnreachedError(Exception):
    """The endpoint did not answer, however often it was asked."""


class Endpoint:
    """A client for one endpoint; ``requests`` counts what was sent, ``answers`` what came back as asked for."""

    def __init__(self, settings: EndpointSettings, api_key: str) -> None:
        """Keep the key in memory only: it is in no record, digest or message."""
        self.settings = settings
        self.requests = 0
        self.answers = 0
        self._api_key = api_key
        self._asks_for_json = True

    def open(self) -> AsyncOpenAI:
        """Return a client for the running event loop, which the caller closes."""
        from openai import AsyncOpenAI

        settings = self.settings
        return AsyncOpenAI(
            api_key=self._api_key or NO_KEY, base_url=settings.base_url, timeout=settings.timeout_seconds, max_retries=0
        )

    async def ask(self, client: AsyncOpenAI, system: str, user: str) -> Answered:
        """Return the endpoint's answer.

        Raises:
            AugmentationError: it refuses all questions: wrong key, model or address, or nothing left to spend.
            BudgetSpentError: as many requests as are allowed were sent.
            RefusedError: it refuses this question, while it has answered others.
            UnreachedError: it failed at each of the retries.
        """
        from openai import APIConnectionError, APIError, APIStatusError

        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        retries = 0
        while True:
            started = time.perf_counter()
            wait: float | None = None
            as_json = self._asks_for_json  # which another request may change while this one is under way
            try:
                return self._read(await self._send(client, messages, as_json), started)
            except APIStatusError as error:
                if error.status_code == 400 and as_json and _is_about_format(error):
                    self._asks_for_json = False
                    continue
                self._raise_unless_transient(error)
                wait, reason = _asked_wait(error), self._reason(error)
            except APIConnectionError as error:
                cause = error.__cause__
                reason = self._shown(f"{error.message} {cause}" if cause else error.message)
            except (APIError, ValueError) as error:
                reason = self._shown(f"its answer cannot be read: {error}")
            if retries >= self.settings.max_retries:
                raise UnreachedError(reason) from None
            backoff = self.settings.backoff_seconds * 2**retries * random.uniform(0.75, 1.25)
            await asyncio.sleep(min(MAX_WAIT_SECONDS, backoff if wait is None else wait))
            retries += 1

    async def _send(self, client: AsyncOpenAI, messages: list[dict[str, str]], as_json: bool) -> Any:
        if self.settings.max_requests is not None and self.requests >= self.settings.max_requests:
            raise BudgetSpentError
        self.requests += 1
        options: dict[str, Any] = {"response_format": {"type": "json_object"}} if as_json else {}
        sent: Any = client.chat.completions.create
        return await sent(model=self.settings.model, messages=messages, **options)

    def _read(self, completion: Any, started: float) -> Answered:
        choices = getattr(completion, "choices", None)
        if not isinstance(choices, list):
            raise ValueError("it is not a chat completion")
        self.answers += 1
        text = (choices[0].message.content if choices else None) or ""
        tokens = getattr(getattr(completion, "usage", None), "completion_tokens", None) or 0
        return Answered(text, tokens, time.perf_counter() - started)

    def _raise_unless_transient(self, error: APIStatusError) -> None:
        status = error.status_code
        exhausted = error.code == "insufficient_quota"
        if (status in _TRANSIENT or status >= 500) and not exhausted:
            return
        if status in _FATAL_HINTS or exhausted or not self.answers:
            hint = _FATAL_HINTS[402] if exhausted else _FATAL_HINTS.get(status, OTHER_HINT)
            message = f"the endpoint {self.settings.host} refused the request: {self._reason(error)}"
            raise AugmentationError(message, hint=hint) from None
        raise RefusedError(self._reason(error)) from None

    def _reason(self, error: APIStatusError) -> str:
        return self._shown(f"HTTP {error.status_code}: {error.message}")

    def _shown(self, text: str) -> str:
        """Return a foreign text as one short line without the key."""
        text = _KEY_LIKE.sub("***", text.replace(self._api_key, "***") if self._api_key else text)
        text = "".join(one if one.isprintable() else " " for one in text)
        return " ".join(text.split())[:MAX_SHOWN]


def _is_about_format(error: APIStatusError) -> bool:
    return "response_format" in error.message or "json" in error.message.casefold()


def _asked_wait(error: APIStatusError) -> float | None:
    """Return the seconds for which the endpoint asks to be left alone."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "")))
    except ValueError:
        return None
