"""Requests and answers of the stand-in, and what is counted of them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from email.message import Message
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.served.repositories import Refusal

CHUNK = 1 << 20


class Gone(Exception):
    """The connection ended, by the client or by a fault."""


@dataclass(frozen=True)
class Stored:
    """A body that lies on disk: so many bytes of a file from an offset."""

    path: Path
    offset: int
    length: int


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Stored = b""

    @property
    def length(self) -> int:
        return self.body.length if isinstance(self.body, Stored) else len(self.body)


def of_json(value: Any, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, {"Content-Type": "application/json; charset=utf-8", **named}, json.dumps(value).encode())


def of_file(path: Path, size_bytes: int, wanted: str | None, headers: Mapping[str, str]) -> Answer:
    """Return a file, or the range of it that is asked for."""
    told = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip()) if wanted else None
    if found is None or found[0] == "bytes=-":
        return Answer(200, told, Stored(path, 0, size_bytes))
    first = int(found[1]) if found[1] else max(0, size_bytes - int(found[2]))
    last = min(int(found[2]), size_bytes - 1) if found[1] and found[2] else size_bytes - 1
    if first >= size_bytes or last < first:
        return Answer(416, {**told, "Content-Range": f"bytes */{size_bytes}"})
    told["Content-Range"] = f"bytes {first}-{last}/{size_bytes}"
    return Answer(206, told, Stored(path, first, last - first + 1))


@dataclass
class Seen:
    """What was counted of one request; ``began`` and ``ended`` (its answer was ready) are seconds of one clock."""

    origin: str
    method: str
    route: str
    path: str
    status: int = 0
    range: str | None = None
    authorization: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    fault: str | None = None
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0


class Log:
    """All requests since the counters were reset, without those to the control interface."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seen: list[Seen] = []

    def add(self, seen: Seen) -> None:
        seen.ended = time.monotonic()
        with self._lock:
            self.seen.append(seen)

    def reset(self) -> None:
        with self._lock:
            self.seen = []

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(seen) for seen in self.seen]

    def counters(self) -> dict[str, Any]:
        with self._lock:
            seen = list(self.seen)
        kinds = Counter(f"{one.method} {one.route} {one.status}" for one in seen)
        return {
            "requests": len(seen),
            "by_kind": dict(sorted(kinds.items())),
            "bytes_in": {origin: sum(one.bytes_in for one in seen if one.origin == origin) for origin in ORIGINS},
            "bytes_out": {origin: sum(one.bytes_out for one in seen if one.origin == origin) for origin in ORIGINS},
            "ranged": sum(one.range is not None for one in seen),
            "partial": sum(one.status == 206 for one in seen),
            "put_requests": sum(one.method == "PUT" for one in seen),
            "put_bytes": sum(one.bytes_in for one in seen if one.method == "PUT"),
            "commits": sum(one.route == "commit" and one.status == 200 for one in seen),
            "faults": sum(one.fault is not None for one in seen),
            "tokens_at_files": sum(one.origin == "files" and one.authorization is not None for one in seen),
        }


ORIGINS = ("main", "files")


class Request:
    """A request whose body is read by whoever needs it."""

    def __init__(self, origin: str, method: str, path: str, headers: Message, file: BufferedIOBase) -> None:
        self.origin, self.method, self.headers, self._file = origin, method, headers, file
        split = urlsplit(path)
        self.path = unquote(split.path)
        self.parts = tuple(unquote(part) for part in split.path.strip("/").split("/"))
        self.query = {name: values[-1] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        self.raw_query = split.query
        self.is_chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "").lower()
        self.length = int(self.headers.get("Content-Length") or 0)
        self.bytes_read = 0
        self.bytes_per_second: int | None = None
        self._left = self.length
        self._ended = not self.is_chunked and not self.length

    def chunks(self) -> Iterator[memoryview]:
        """Yield what is left of the body; a chunk is valid until the next one."""
        buffer = memoryview(bytearray(min(CHUNK, self.length or CHUNK)))
        while not self._ended:
            if self.is_chunked and not self._left:
                self._left = int(self._line().partition(b";")[0], 16)
                if not self._left:
                    self._line()
                    break
            size = min(len(buffer), self._left)
            got = self._file.readinto(buffer[:size])
            if not got:
                raise Gone
            self._left -= got
            self.bytes_read += got
            if self.bytes_per_second:
                time.sleep(got / self.bytes_per_second)
            if self.is_chunked and not self._left:
                self._line()
            yield buffer[:got]
            if not self.is_chunked and not self._left:
                break
        self._ended = True

    def read(self) -> bytes:
        return b"".join(bytes(chunk) for chunk in self.chunks())

    def json(self) -> Any:
        try:
            return json.loads(self.read() or b"{}")
        except ValueError as error:
            raise Refusal(400, "Invalid JSON") from error

    def drain(self, until: int | None = None) -> None:
        while until is not None and not self._ended and self.bytes_read < until:
            size = len(self._file.read(min(CHUNK, until - self.bytes_read, self._left)))
            if not size:
                return
            self.bytes_read += size
            self._left -= size
        if until is not None:
            return
        for _ in self.chunks():
            pass

    def _line(self) -> bytes:
        line = self._file.readline(1 << 16)
        if not line:
            raise Gone
        return line.strip()


def refused(refusal: Refusal) -> Answer:
    told = dict(refusal.headers)
    if refusal.code:
        told["X-Error-Code"] = refusal.code
    if refusal.message.isascii() and refusal.message.isprintable():
        told["X-Error-Message"] = refusal.message
    answer = of_json({"error": refusal.message}, refusal.status)
    answer.headers.update(told)
    return answer
