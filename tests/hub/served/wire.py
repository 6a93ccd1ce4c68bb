"""HTTP/1.1 for the stand-in, and the faults on the way."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.hub.served.faults import AFTER, BEFORE, Faults, Rule
from tests.hub.served.messages import Answer, Gone, Log, Request, Seen, Stored, refused
from tests.hub.served.repositories import Refusal

Route = Callable[[Request], tuple[str, Callable[[], Answer]]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "hub"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Server

    def handle_any(self) -> None:
        request = Request(self.server.origin, self.command, self.path, self.headers, self.rfile)
        try:
            self._serve(request)
        except (Gone, ConnectionError, TimeoutError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

    def _serve(self, request: Request) -> None:
        route, work = self.server.route(request)
        is_control = route == "control"
        faults = self.server.faults
        rule = None if is_control else faults.choose(request.origin, request.method, route, request.path)
        seen = Seen(request.origin, request.method, route, request.path)
        seen.range, seen.authorization = request.headers.get("Range"), request.headers.get("Authorization")
        seen.fault = rule.kind if rule else None
        if rule and rule.kind == "slow":
            request.bytes_per_second = rule.bytes_per_second
        if rule and rule.kind == "ignore-range":
            del request.headers["Range"]
        try:
            answer = self._work(request, work, rule)
        except Gone:
            seen.bytes_in = request.bytes_read
            self._count(seen, is_control)
            if rule:
                self._end(rule)
            raise
        seen.status, seen.bytes_in = answer.status, request.bytes_read
        seen.bytes_out = 0 if request.method == "HEAD" else answer.length
        self._count(seen, is_control)
        if rule is None or rule.kind in BEFORE | AFTER:
            self._send(request, answer)
        else:
            self._send_faulty(request, answer, rule, seen)

    def _count(self, seen: Seen, is_control: bool) -> None:
        if not is_control:
            self.server.log.add(seen)

    def _work(self, request: Request, work: Callable[[], Answer], rule: Rule | None) -> Answer:
        kind = rule.kind if rule else ""
        if rule and kind in BEFORE:
            if kind == "drop-request":
                request.drain(rule.position(request.length))
            else:
                request.drain()
            if kind != "status":
                raise Gone
            return faulty(rule)
        try:
            answer = work()
        except Refusal as refusal:
            answer = refused(refusal)
        request.drain()
        if rule and kind == "drop-after":
            raise Gone
        return faulty(rule) if rule and kind == "status-after" else answer

    def _head(self, request: Request, answer: Answer, length: int | None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "X-Request-Id" not in answer.headers:
            self.send_header("X-Request-Id", request.headers.get("X-Amzn-Trace-Id") or "none")
        if length is not None and answer.status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, request: Request, answer: Answer) -> None:
        self._head(request, answer, answer.length)
        if request.method != "HEAD":
            if isinstance(answer.body, Stored):
                self.wfile.flush()
                with open(answer.body.path, "rb") as file:
                    if answer.body.length:
                        self.connection.sendfile(file, answer.body.offset, answer.body.length)
            else:
                self.wfile.write(answer.body)
        self.wfile.flush()

    def _send_faulty(self, request: Request, answer: Answer, rule: Rule, seen: Seen) -> None:
        """Send an answer with one of the faults that concern its body."""
        length, kind = answer.length, rule.kind
        if kind == "other-range" and isinstance(answer.body, Stored) and answer.status == 206:
            answer.body = Stored(answer.body.path, max(0, answer.body.offset - 1), length)
        if kind == "gzip":
            answer = Answer(answer.status, {**answer.headers, "Content-Encoding": "gzip"}, compressed(answer))
            length = answer.length
        position = rule.position(length)
        promised: int | None = position if kind == "short" else None if kind == "endless" else length
        if kind == "endless":
            self.close_connection = True
        self._head(request, answer, promised)
        self.wfile.flush()
        if request.method == "HEAD":
            return
        seen.bytes_out = 0
        for chunk in bent(answer, rule, position):
            self.wfile.write(chunk)
            self.wfile.flush()
            seen.bytes_out += len(chunk)
            if kind == "slow":
                time.sleep(len(chunk) / rule.bytes_per_second)
        if kind == "hang":
            self.server.faults.cleared.wait(rule.seconds)
        if kind in ("cut", "hang"):
            self._end(rule)
            raise Gone

    def _end(self, rule: Rule) -> None:
        if rule.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what came is in the log that can be asked for."""


def faulty(rule: Rule) -> Answer:
    body = rule.body.encode() or json.dumps({"error": f"made up: {rule.status}"}).encode()
    return Answer(rule.status, {"Content-Type": "application/json", **rule.headers}, body)


def compressed(answer: Answer) -> bytes:
    return gzip.compress(b"".join(pieces(answer)))


def pieces(answer: Answer, size: int = 1 << 16) -> Iterator[bytes]:
    """Yield an answer's body in pieces."""
    if isinstance(answer.body, bytes):
        for start in range(0, len(answer.body), size):
            yield answer.body[start : start + size]
        return
    with open(answer.body.path, "rb") as file:
        file.seek(answer.body.offset)
        left = answer.body.length
        while left and (piece := file.read(min(size, left))):
            left -= len(piece)
            yield piece


def bent(answer: Answer, rule: Rule, position: int) -> Iterator[bytes]:
    """Yield the body as the fault leaves it."""
    if rule.kind == "endless":
        for _ in range((rule.after_bytes or 1 << 30) >> 16):
            yield b" " * (1 << 16)
        return
    size = max(1, min(1 << 16, rule.bytes_per_second // 20)) if rule.kind == "slow" else 1 << 16
    at = 0
    for piece in pieces(answer, size):
        if rule.kind in ("cut", "short", "hang") and at + len(piece) > position:
            if position > at:
                yield piece[: position - at]
            return
        place = min(position, max(0, answer.length - 1)) - at
        if rule.kind == "corrupt" and 0 <= place < len(piece):
            piece = piece[:place] + bytes([piece[place] ^ 0x5A]) + piece[place + 1 :]
        yield piece
        at += len(piece)


class Server(ThreadingHTTPServer):
    """One origin."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, origin: str, port: int, route: Route, faults: Faults, log: Log) -> None:
        self.origin, self.route, self.faults, self.log = origin, route, faults, log
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def shutdown_request(self, request: Any) -> None:
        """Close at once: a shutdown first would make an orderly end of what is to be a reset."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what went wrong here, but not that a client went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
