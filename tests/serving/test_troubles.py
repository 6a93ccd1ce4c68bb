"""What breaks behind a request ends that request, not the server; and readers and senders who do nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jinja2 import TemplateError

from registry.generation.batcher import Batcher, Running
from registry.pipeline import query
from registry.serving import run
from registry.serving.channel import Change, Channel
from registry.serving.streams import EventStream
from registry.settings import Home
from tests.serving.conftest import ask, chunks, client_of, inside

QUESTION = "Who grinds blue barley?"


@pytest.fixture(scope="module")
def address(served_home: Home) -> Iterator[str]:
    with inside(served_home, rows=2) as url:
        yield url


@pytest.fixture
def client(address: str) -> Iterator[httpx2.Client]:
    with client_of(address) as client:
        yield client


def test_an_engine_that_breaks_is_made_anew(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask(client, QUESTION).json()["choices"]
    step = Batcher.step

    def broken(batcher: Batcher) -> list[Running]:
        monkeypatch.setattr(Batcher, "step", step)
        raise RuntimeError(f"out of memory while {QUESTION}")

    monkeypatch.setattr(Batcher, "step", broken)
    response = ask(client, QUESTION)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert QUESTION not in response.text
    assert ask(client, QUESTION).json()["choices"] == before
    monkeypatch.setattr(Batcher, "step", broken)
    body = {"model": "default", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as stream:
        assert chunks(list(stream.iter_lines()))[-1]["error"]["code"] == "internal_error"
    assert ask(client, QUESTION).json()["choices"] == before


def test_damaged_adapters_end_the_requests_that_need_them(own_home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    with inside(own_home) as url, client_of(url) as client:
        (pack,) = Path(own_home.packs_url).rglob("*.safetensors")
        damaged = bytearray(pack.read_bytes())
        damaged[len(damaged) // 3 :: 1000] = bytes(byte ^ 1 for byte in damaged[len(damaged) // 3 :: 1000])
        pack.write_bytes(damaged)
        statuses = {
            title: ask(client, f"What is the {title}?").status_code for title in ("mill ferry lamp bell", "kite")
        }
        assert 500 in statuses.values()
        assert "has other bytes than its digest says" in capfd.readouterr().err
        assert ask(client, QUESTION, "default+rag").status_code == 200
        assert client.get("/health").json() == {"status": "ready", "running": 0, "waiting": 0}


def test_a_conversation_that_the_template_refuses(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise TemplateError("roles must alternate")

    monkeypatch.setattr(query, "encode_messages", refuse)
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": QUESTION}]
    response = client.post("/v1/chat/completions", json={"model": "default", "messages": messages})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages"
    assert "roles must alternate" in response.json()["error"]["message"]


def test_connections_on_which_nothing_comes_are_closed(served_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_HOUSEKEEPING_TICKS", 1)
    with inside(served_home) as url:
        host, port = url.removeprefix("http://").split(":")
        for before in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            for begun in (b"GET /health HT", b""):
                if before and not begun:  # kept alive for the next request
                    continue
                with socket.create_connection((host, int(port)), timeout=10) as connection:
                    if before:
                        connection.sendall(before)
                        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
                    connection.sendall(begun)
                    while connection.recv(1000):
                        pass


def test_a_stream_whose_reader_does_nothing_ends_at_its_time() -> None:
    closed: list[bool] = []

    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"

    async def answer() -> None:
        stream = EventStream(events(), closed.append, asyncio.get_running_loop().time() + 0.1)
        await stream({"type": "http"}, never, never)

    started = time.monotonic()
    asyncio.run(answer())
    assert closed == [True]
    assert time.monotonic() - started < 5


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


def test_what_a_reader_has_not_taken_comes_in_one_piece() -> None:
    async def read() -> tuple[list[Change], list[Change]]:
        channel = Channel(2)
        engine = threading.Thread(target=tell, args=(channel,))
        engine.start()
        engine.join()
        first = await channel.changes()
        channel.on_text(0)("more")
        return first, await channel.changes()

    def tell(channel: Channel) -> None:
        for index in range(1000):
            channel.on_text(0)(f"{index} ")
        channel.on_end(1)(ValueError("an error"))

    first, second = asyncio.run(read())
    assert [(change.index, change.text) for change in first] == [(0, "".join(f"{i} " for i in range(1000))), (1, "")]
    assert isinstance(first[1].outcome, ValueError)
    assert [(change.index, change.text, change.outcome) for change in second] == [(0, "more", None)]
