"""What a server writes down: a line for every request, and answered questions where that is asked for.

A thread of its own writes, so that nobody who asks waits for a full pipe, a slow disk or a locked catalog.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import IO, Any

from registry.catalog.api_keys import ApiKey, is_touch_due, touch_key
from registry.catalog.engine import Catalog
from registry.catalog.queries import log_query
from registry.errors import BusyError, HubError, IntegrityError, NotFoundError, PragregError, StorageError
from registry.masking import masked
from registry.records import Answer

MOST_WAITING = 10_000
"""So many lines and answers wait to be written; more are dropped, and counted."""
_BATCH = 200
_TOLD = (BusyError, HubError, IntegrityError, StorageError)
_LIBRARIES = ("uvicorn", "asyncio", "fastapi", "concurrent.futures")


@dataclass
class RequestLine:
    """What is told of one request, filled in as it goes on; ``question`` only where questions are logged."""

    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.monotonic)
    route: str = "other"
    key: str | None = None
    model: str | None = None
    version: str | None = None
    mode: str | None = None
    status: int = 0
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    question: str | None = None
    answer: str | None = None

    def record(self) -> dict[str, Any]:
        """Return what the line says; what is not known is left out."""
        steps = {name: round(value, 1) for name, value in self.milliseconds.items()}
        total = round((time.monotonic() - self.started) * 1000, 1)
        values: dict[str, Any] = {
            "time": _now(),
            "level": "info" if self.status < 500 else "error",
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "key": self.key,
            "model": self.model,
            "version": self.version,
            "mode": self.mode,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "milliseconds": {**steps, "total": total},
            "error": self.error,
            "question": self.question,
            "answer": self.answer,
        }
        return {name: value for name, value in values.items() if value is not None}


class Journal:
    """The thread that writes, and what waits for it."""

    def __init__(self, stream: IO[str], catalog: Catalog, *, is_for_people: bool, keeps_questions: bool) -> None:
        """Start to write lines to ``stream``, as JSON or for people, and questions into the catalog if that is asked.

        Warnings of the libraries below come here, too.
        """
        self.keeps_questions = keeps_questions
        self.dropped = 0
        self._stream, self._catalog, self._is_for_people = stream, catalog, is_for_people
        self._waiting: queue.Queue[dict[str, Any] | Answer | ApiKey | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()
        handler = _Handler(self)
        for name in _LIBRARIES:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [handler], False
            logger.setLevel(logging.WARNING)

    def request(self, line: RequestLine) -> None:
        """Write a line about a request."""
        self._put(line.record())

    def note(self, message: str) -> None:
        """Write a line about the server itself."""
        self._put({"time": _now(), "level": "info", "message": message})

    def trouble(self, message: str, error: BaseException | None = None) -> None:
        """Write a line about what should not happen, with where the error arose.

        Its own words are left out where they may be a question's; those of this project's errors of storage are told.
        """
        if isinstance(error, _TOLD):
            message = f"{message}: {error.message}"
        record = {"time": _now(), "level": "error", "message": masked(message)}
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            record["error"] = type(error).__name__
            record["where"] = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:])
        self._put(record)

    def answered(self, answer: Answer) -> None:
        """Record an answer in the catalog, if questions are logged."""
        if self.keeps_questions:
            self._put(answer)

    def key_used(self, key: ApiKey) -> None:
        """Record that a key was used, once a minute."""
        if is_touch_due(key):
            self._put(key)

    def close(self, timeout_seconds: float) -> None:
        """Write what waits, for at most so long."""
        try:
            self._waiting.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _put(self, item: dict[str, Any] | Answer | ApiKey) -> None:
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    def _run(self) -> None:
        is_open = True
        while is_open:
            items = [self._waiting.get(), *self._rest()]
            is_open = None not in items
            self._write(item for item in items if isinstance(item, dict))
            answers = [item for item in items if isinstance(item, Answer)]
            keys = {item.key_id for item in items if isinstance(item, ApiKey)}
            if answers or keys:
                self._record(answers, keys)

    def _rest(self) -> Iterable[dict[str, Any] | Answer | ApiKey | None]:
        def waiting() -> Iterable[Any]:
            while True:
                try:
                    yield self._waiting.get_nowait()
                except queue.Empty:
                    return

        return islice(waiting(), _BATCH)

    def _write(self, records: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(f"{_for_people(each) if self._is_for_people else json.dumps(each)}\n" for each in records)
        if not text:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the other end of the pipe is closed
            self.dropped += 1

    def _record(self, answers: list[Answer], keys: Iterable[int]) -> None:
        """Write to the catalog in one transaction; where one answer cannot be recorded, the others one by one."""
        try:
            with self._catalog.write() as session:
                for key in keys:
                    touch_key(session, key)
                for answer in answers:
                    log_query(session, answer)
        except NotFoundError as error:
            if len(answers) == 1:
                self._complain(error, 1)
                self._record([], keys)
                return
            for answer in answers:
                self._record([answer], keys)
        except Exception as error:
            self._complain(error, len(answers))

    def _complain(self, error: Exception, count: int) -> None:
        reason = error.message if isinstance(error, PragregError) else type(error).__name__
        message = f"{count} answers could not be recorded: {reason}" if count else f"the catalog: {reason}"
        self._write([{"time": _now(), "level": "error", "message": masked(message)}])


class _Handler(logging.Handler):
    """Takes the warnings of libraries into the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._journal.trouble(f"{record.name}: {record.getMessage().strip()}", error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _for_people(record: Mapping[str, Any]) -> str:
    clock = datetime.fromisoformat(record["time"]).astimezone().strftime("%H:%M:%S")
    if "message" in record:
        where = f" ({record['error']} at {record['where']})" if "where" in record else ""
        return f"{clock} {record['level']}: {record['message']}{where}"
    tokens = f" {record['prompt_tokens']}+{record['answer_tokens']} tokens" if "answer_tokens" in record else ""
    steps = ", ".join(f"{name} {value:.0f}" for name, value in record["milliseconds"].items())
    named = "".join(f" {record[name]}" for name in ("version", "mode") if name in record)
    who = f" key {record['key']}" if "key" in record else ""
    error = f" {record['error']}" if "error" in record else ""
    path = "".join(each if each.isprintable() else "\ufffd" for each in record["path"])
    return f"{clock} {record['status']} {record['method']} {path}{named}{tokens} ({steps} ms){who}{error}"
