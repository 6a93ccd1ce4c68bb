"""One request for answers, from its model's name to what the engine said.

A request resolves its alias once, when it begins, and holds that version until it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from jinja2 import TemplateError

from registry.base_model.chat import Message
from registry.errors import NotFoundError, UsageError
from registry.generation.requests import Generated, OnText, Request, Sampling
from registry.generation.text import Stripped
from registry.merging.methods import Merge, parse_merge
from registry.pipeline.query import Asking, Prepared
from registry.records import Answer
from registry.serving.channel import Channel
from registry.serving.engine import Engine, Job
from registry.serving.failures import ApiError, api_error
from registry.serving.limits import Places
from registry.serving.models import OpenVersion, Versions
from registry.serving.names import ModelName
from registry.serving.threads import Threads

_SEEDS = 1 << 63


@dataclass(frozen=True)
class Call:
    """What is asked for: ``count`` answers to the last of ``messages``, or ways to go on with it where ``as_text``."""

    model: ModelName
    messages: Sequence[Message]
    asking: Asking
    sampling: Sampling
    stop: tuple[str, ...] = ()
    count: int = 1
    as_text: bool = False
    streams: bool = False


@dataclass(frozen=True)
class Ended:
    """An answer that is complete: ``text`` as the client gets it, ``answer`` with everything that explains it."""

    text: str
    answer: Answer
    generated: Generated


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that answer ``index`` grew by, and the whole of it where it is complete now."""

    index: int
    text: str
    ended: Ended | None


class Answering:
    """What requests are answered with; belongs to the event loop."""

    def __init__(self, versions: Versions, engine: Engine, places: Places, threads: Threads, *, context: int) -> None:
        """Take the parts; ``context`` is how many tokens a prompt and its answer may have together."""
        self.versions, self.engine, self.places = versions, engine, places
        self._threads, self._context = threads, context

    async def begin(self, call: Call, deadline: float) -> Asked:
        """Resolve the version, find documents and adapters in a thread, and let the engine begin.

        Raises:
            ApiError: the queue is full, or there is no such model.
            TimeoutError: the event loop's time is past ``deadline``.
            PragregError: the question cannot be asked so.
        """
        self.places.take(call.count)
        try:
            async with asyncio.timeout_at(deadline):
                opened, prepared = await self._threads.run(partial(self._prepare, call), self._undo)
        except BaseException:
            self.places.give(call.count)
            raise
        asked = Asked(self, call, opened, prepared, deadline)
        try:
            asked.start()
        except BaseException:
            asked.close()
            raise
        return asked

    def _prepare(self, call: Call) -> tuple[OpenVersion, Prepared]:
        opened = open_model(self.versions, call.model)
        try:
            *history, last = call.messages
            if last["role"] != "user":
                raise ApiError(400, "the last message must be the user's: it is the question", param="messages")
            merge_method(call.asking.merge, call.asking.k, "pragreg.merge")
            prepared = opened.asker.prepare(
                last["content"],
                call.asking,
                history=history,
                sampling=call.sampling,
                stop=call.stop,
                as_text=call.as_text,
            )
            self._check_length(prepared.request)
            return opened, prepared
        except BaseException as error:
            self.versions.release(opened)
            if isinstance(error, TemplateError):
                message = f"the model's chat template does not take this conversation: {error.message}"
                raise ApiError(400, message, param="messages") from error
            raise

    def _check_length(self, request: Request) -> None:
        if len(request.ids) + request.max_new_tokens > self._context:
            raise UsageError(
                f"the prompt has {len(request.ids)} tokens and {request.max_new_tokens} are kept for the answer, but "
                f"this server takes {self._context} together",
                hint="a shorter conversation, fewer passages (k), or a smaller max_tokens",
            )

    def _undo(self, result: tuple[OpenVersion, Prepared]) -> None:
        self.versions.release(result[0])


class Asked:
    """A request that is being answered; it must be closed, however it ends."""

    def __init__(
        self, answering: Answering, call: Call, opened: OpenVersion, prepared: Prepared, deadline: float
    ) -> None:
        """Take what was prepared."""
        self.call, self.version, self.deadline = call, opened.version, deadline
        self.prompt_tokens = len(prepared.request.ids)
        self._answering, self._opened, self._prepared = answering, opened, prepared
        self._channel = Channel(call.count)
        self._jobs: dict[int, Job] = {}
        self._is_closed = False

    def start(self) -> None:
        """Hand the answers to the engine.

        Raises:
            ApiError: the server is stopping.
        """
        request = self._prepared.request
        for index in range(self.call.count):
            own = replace(request, sampling=_seeded(request.sampling, index))
            self._jobs[index] = self._answering.engine.submit(
                self._opened.lane, own, self._listener(index), self._channel.on_end(index)
            )

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the answers as they grow, until all are complete.

        Raises:
            TimeoutError: the deadline came first.
            PragregError: the engine could not answer.
        """
        while self._jobs:
            async with asyncio.timeout_at(self.deadline):
                changes = await self._channel.changes()
            for change in changes:
                if isinstance(change.outcome, Exception):
                    raise change.outcome
                ended = None
                if change.outcome is not None:
                    del self._jobs[change.index]
                    ended = self._end(change.outcome)
                yield Piece(change.index, change.text, ended)

    async def all(self) -> list[Ended]:
        """Return the answers when all are complete; raises as ``pieces``."""
        found = {piece.index: piece.ended async for piece in self.pieces() if piece.ended is not None}
        return [found[index] for index in range(self.call.count)]

    def close(self) -> None:
        """Let go of everything; rows that still run leave the engine."""
        if self._is_closed:
            return
        self._is_closed = True
        for job in self._jobs.values():
            self._answering.engine.cancel(job)
        self._answering.versions.release(self._opened)
        self._answering.places.give(self.call.count)

    def _listener(self, index: int) -> OnText | None:
        if not self.call.streams:
            return None
        told = self._channel.on_text(index)
        return told if self.call.as_text else Stripped(told)

    def _end(self, generated: Generated) -> Ended:
        self._answering.places.measured((generated.elapsed_ms - generated.waiting_ms) / 1000)
        answer = self._opened.asker.answer_of(self._prepared, generated)
        return Ended(generated.text if self.call.as_text else answer.answer, answer, generated)


def open_model(versions: Versions, model: ModelName) -> OpenVersion:
    """Return the version that a model's name stands for, to be released.

    Raises:
        ApiError: there is no such model.
    """
    with model_errors():
        return versions.acquire(model.reference)


@contextmanager
def model_errors() -> Iterator[None]:
    """Let what is not found within a block be the model that was asked for."""
    try:
        yield
    except NotFoundError as error:
        raise ApiError(404, str(api_error(error).detail), code="model_not_found", param="model") from error


def merge_method(text: str, k: int, param: str) -> Merge:
    """Return a way of merging.

    Raises:
        ApiError: it is none, or does not go with ``k``; the parameter is called ``param``.
    """
    try:
        return parse_merge(text, k)
    except UsageError as error:
        raise ApiError(400, str(api_error(error).detail), param=param) from error


def _seeded(sampling: Sampling, index: int) -> Sampling:
    """Return the sampling of one of several answers: each draws on its own, and again the same with the same seed."""
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % _SEEDS)
