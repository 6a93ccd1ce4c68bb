"""What disturbs a server under `benchmarks.serve --rough`: alias moves, a build, slow, vanishing, senseless clients."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.serve_clients import TIMEOUT, Aliases
from benchmarks.serve_home import ALIAS, CORPUS, OTHER, VERSIONS, Bench
from benchmarks.serve_process import Server
from registry.catalog.aliases import set_alias
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.references import resolve
from registry.settings import open_home

MOVE_SECONDS = 2.0
LONG_TOKENS = 64
"""Of the answers that slow readers take and vanishing clients leave."""


class Trouble:
    """All disturbances of a server, and what became of them."""

    def __init__(self, server: Server, bench: Bench, aliases: Aliases) -> None:
        self._server, self._bench, self.aliases = server, bench, aliases
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, seconds: float) -> None:
        """Disturb for so long."""
        until = time.perf_counter() + seconds
        kinds = (self._move, self._build, self._slow, self._vanish, self._stall, self._garbage, self._senseless)
        await asyncio.gather(*(kind(until) for kind in kinds))

    async def _move(self, until: float) -> None:
        """Move the alias back and forth."""
        home = open_home(self._bench.home)
        with open_catalog(home.catalog_url) as catalog:
            number = 0
            while time.perf_counter() < until:
                number += 1
                version = VERSIONS[number % 2]
                await asyncio.to_thread(self.aliases.move, version, lambda name=version: _set(catalog, name))
                await asyncio.sleep(MOVE_SECONDS)

    async def _build(self, until: float) -> None:
        """Build versions of another corpus, one edited document each, in processes of their own."""
        folder = self._bench.home.parent
        file = folder / f"{OTHER}-documents.jsonl"
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        edited, number = folder / f"{OTHER}-edited.jsonl", time.time_ns()
        while time.perf_counter() < until:
            number += 1
            records[0]["text"] = f"{records[0]['text'].partition(' This is edit')[0]} This is edit {number}."
            edited.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
            arguments = ("build", str(edited), "--corpus", OTHER, "--augmenter", "none", "--workers", "1")
            status, said = await _pragreg(self._bench.home, *arguments)
            self.counts["builds beside it"] += 1
            if status:
                self.wrong.append(f"pragreg build: {status}: {said[-300:]}")

    async def _slow(self, until: float) -> None:
        """Read a stream a few bytes at a time, with a small buffer."""
        while time.perf_counter() < until:
            reader, writer = await self._connect(receive_bytes=2048)
            writer.write(self._request(stream=True, n=4))
            data = b""
            while piece := await reader.read(256):
                data += piece
                if data.endswith(b"0\r\n\r\n"):
                    break
                await asyncio.sleep(0.05)
            writer.close()
            self.counts["slow readers"] += 1
            if b"[DONE]" not in data:
                self.wrong.append(f"a slow reader was not told all: {data[-200:]!r}")

    async def _vanish(self, until: float) -> None:
        """Leave in the middle: of a request, before the answer, within a stream."""
        draw = random.Random(0)
        while time.perf_counter() < until:
            _, writer = await self._connect()
            request = self._request(stream=draw.random() < 0.5)
            how = draw.randrange(3)
            writer.write(request[: len(request) // 2] if how == 0 else request)
            await writer.drain()
            await asyncio.sleep(0 if how == 1 else draw.random())
            transport = writer.transport
            if draw.random() < 0.5:  # by a reset, else by an ordinary close
                linger = struct.pack("ii", 1, 0)
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
            self.counts["vanished clients"] += 1
            await asyncio.sleep(0.2)

    async def _stall(self, until: float) -> None:
        """Ask for much on one connection, and read nothing of it."""
        _, writer = await self._connect(receive_bytes=2048)
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
        await asyncio.sleep(max(0.0, until - time.perf_counter()))
        writer.transport.abort()
        self.counts["requests whose answer nobody reads"] += 1000

    async def _garbage(self, until: float) -> None:
        """Send bytes that are no request; whatever comes back, the socket must be closed or answered with 4xx."""
        draw = random.Random(1)
        while time.perf_counter() < until:
            reader, writer = await self._connect()
            sent = draw.choice(GARBAGE)(draw)
            said = b""
            try:
                writer.write(sent)
                if writer.can_write_eof():
                    writer.write_eof()
                said = await asyncio.wait_for(reader.read(64), 30)
            except TimeoutError:
                self.wrong.append(f"no answer and no end to {sent[:60]!r}")
            except OSError:
                pass  # the server hung up while it was still being told
            writer.transport.abort()
            self.counts["garbage on the socket"] += 1
            if said and not said.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")):
                self.wrong.append(f"{said!r} to {sent[:60]!r}")
            await asyncio.sleep(0.1)

    async def _senseless(self, until: float) -> None:
        """Send requests that are HTTP, but ask for nothing that can be; each must be answered with 4xx."""
        draw = random.Random(2)
        async with aiohttp.ClientSession(self._server.url, timeout=TIMEOUT) as session:
            while time.perf_counter() < until:
                path = draw.choice(("/v1/chat/completions", "/v1/completions", "/search"))
                body = draw.choice(SENSELESS)
                headers = {"Content-Type": "application/json"}
                async with session.post(path, data=body, headers=headers) as reply:
                    said = await reply.text()
                self.counts["senseless requests"] += 1
                if not 400 <= reply.status < 500 or reply.status == 429 or '"error"' not in said:
                    self.wrong.append(f"{reply.status} {said[:200]} to {path} {body[:80]!r}")
                await asyncio.sleep(0.1)

    async def _connect(self, *, receive_bytes: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = socket.socket()
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self._server.port))
        return await asyncio.open_connection(sock=made, limit=max(receive_bytes, 2**12))

    def _request(self, **options: Any) -> bytes:
        question = random.choice(self._bench.questions)
        body = {"model": f"{CORPUS}@{ALIAS}", "messages": [{"role": "user", "content": question}]}
        return _http(json.dumps(body | {"max_tokens": LONG_TOKENS} | options).encode())


def _set(catalog: Catalog, reference: str) -> None:
    with catalog.write() as session:
        set_alias(session, resolve(session, reference), ALIAS, who="benchmark")


async def _pragreg(home: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli.main", *arguments),
        env={**os.environ, "PRAGREG_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode(errors="replace")


def _http(body: bytes, *headers: str) -> bytes:
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers)
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "\r\n")).encode() + body


def _question(**changed: Any) -> bytes:
    body = {"model": f"{CORPUS}@v1", "messages": [{"role": "user", "content": "What is it?"}]}
    return json.dumps(body | changed).encode()


GARBAGE: tuple[Callable[[random.Random], bytes], ...] = (
    lambda draw: draw.randbytes(draw.randint(1, 5000)),
    lambda draw: b"\0" * draw.randint(1, 100),
    lambda draw: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(500),  # the beginning of TLS
    lambda _: b"GET / HTTP/9.9\r\n\r\n",
    lambda _: b"\r\n" * 1000,
    lambda _: b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda _: b"GET /health HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    lambda _: b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    lambda _: b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n{",
    lambda _: b"POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    lambda draw: _http(draw.randbytes(200)),
    lambda _: _http(b'{"model": '),
)
"""Ways to send what is no request, or none that a server could take."""

SENSELESS: tuple[bytes, ...] = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"{" + b" " * 5_000_000 + b"}",
    b'{"model": "notes", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "notes", "question": "\\ud800", "prompt": "\\ud800"}',
    *(
        _question(question=text, prompt=text, messages=[{"role": "user", "content": text}])
        for text in ("", " ", "\0", "a\0b")
    ),
    _question(messages=[{"role": "user", "content": "x " * 20_000}]),
    *(
        _question(model=name, question="What?", prompt="What")
        for name in ("", "@", "+", "+prag", "notes@", "notes@v0", "notes@v99", "notes+none", "../../etc/passwd")
    ),
    *(
        _question(model=name, question="What?", prompt="What")
        for name in ("notes@sha256:", "n" * 100_000, 7, None, ["notes"])
    ),
    *(
        # Where one of these is no field of an interface, the missing question or prompt is what is wrong.
        _question(**{name: value})
        for name, value in (
            ("temperature", -1),
            ("temperature", "hot"),
            ("top_p", 0),
            ("max_tokens", 0),
            ("max_tokens", 10**400),
            ("n", 0),
            ("n", 10**6),
            ("stop", [""] * 3),
            ("stop", ["x"] * 1000),
            ("seed", "x"),
            ("tools", [{"type": "function"}]),
            ("logprobs", True),
            ("presence_penalty", 1),
            ("response_format", {"type": "json_object"}),
            ("messages", []),
            ("messages", [{"role": "tool", "content": "x"}]),
            ("pragreg", {"mode": "none"}),
            ("pragreg", {"k": 10**9}),
            ("pragreg", {"merge": "../.."}),
        )
    ),
    b'{"model": "notes", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    b'{"model": "notes", "messages": [{"role": "user", "content": "x"}], "tools": 1' + b"0" * 5000 + b"}",
    b'{"model": "notes", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
)
"""Bodies that no interface can answer."""
