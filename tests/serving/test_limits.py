"""Queue, time, and clients that are slow or gone."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from registry.settings import Home
from tests.serving.conftest import ask, chunks, client_of, inside

QUESTION = "Who grinds blue barley?"
LONG = 200
"""Tokens: a while."""


@pytest.fixture(scope="module")
def narrow(served_home: Home) -> Iterator[str]:
    """The address of a server that computes one answer at once and lets seven wait."""
    with inside(served_home, rows=1, queue=7) as url:
        yield url


@pytest.fixture
def client(narrow: str) -> Iterator[httpx2.Client]:
    with client_of(narrow) as client:
        yield client


def numbers(client: httpx2.Client) -> dict[str, float]:
    """Return what /metrics says, by name and labels."""
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_idle(client: httpx2.Client) -> bool:
    health: dict[str, Any] = client.get("/health").json()
    return health["running"] == health["waiting"] == 0


def request_of(url: str, **more: Any) -> bytes:
    """Return the bytes of a request for answers that take long."""
    body = {"model": "default", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": LONG, **more}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url[7:]}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_a_full_queue_says_when_to_come_again(narrow: str, client: httpx2.Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, QUESTION, n=8, temperature=2, max_tokens=LONG)
        wait_until(lambda: client.get("/health").json()["running"] == 1)
        assert client.get("/health").json()["waiting"] == 7
        response = ask(client, QUESTION)
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert response.json()["error"]["code"] == "queue_full"
        # What asks no model is answered meanwhile.
        assert client.post("/search", json={"model": "default", "question": QUESTION}).status_code == 200
        assert len(first.result().json()["choices"]) == 8
    assert ask(client, QUESTION).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_is_gone_frees_its_rows(narrow: str, client: httpx2.Client, stream: bool) -> None:
    def joined() -> float:
        """Return how many answers with an adapter got a row so far."""
        found = numbers(client)
        return found["pragreg_device_adapter_hits_total"] + found["pragreg_device_adapter_misses_total"]

    before = joined()
    with connected(narrow) as connection:
        connection.sendall(request_of(narrow, stream=stream, n=8, temperature=2, max_tokens=450))
        wait_until(lambda: client.get("/health").json()["running"] == 1)
    wait_until(lambda: is_idle(client))
    # Those that waited never had their turn.
    assert 1 <= joined() - before < 8
    assert ask(client, QUESTION, max_tokens=2).json()["usage"]["completion_tokens"] <= 2


def test_a_reader_that_does_not_read_keeps_nobody_waiting(narrow: str, client: httpx2.Client) -> None:
    with connected(narrow) as connection:
        connection.sendall(request_of(narrow, stream=True, n=2, temperature=2))
        # Its answers are computed to the end, and then it is another's turn, though nothing was read.
        assert ask(client, QUESTION, max_tokens=4).status_code == 200
        wait_until(lambda: is_idle(client))
        received = b""
        while b"[DONE]" not in received:
            received += connection.recv(65536)
    assert b"pragreg" in received


def test_an_answer_has_its_time(served_home: Home) -> None:
    with inside(served_home, rows=1, timeout_seconds=0.7) as url, client_of(url) as client:
        response = ask(client, QUESTION, n=8, temperature=2, max_tokens=450)
        assert response.status_code == 504
        assert response.json()["error"]["type"] == "timeout_error"
        body = {"model": "default", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
        more = {"n": 8, "temperature": 2, "max_tokens": 450}
        with client.stream("POST", "/v1/chat/completions", json=body | more) as response:
            assert response.status_code == 200
            *parts, last = chunks(list(response.iter_lines()))
        assert last["error"]["code"] == "timeout"
        assert all("error" not in part for part in parts)
        wait_until(lambda: is_idle(client))
        assert ask(client, QUESTION, max_tokens=2).status_code == 200


def test_numbers_for_prometheus(narrow: str, client: httpx2.Client) -> None:
    wait_until(lambda: is_idle(client))
    before = numbers(client)
    body = ask(client, QUESTION, max_tokens=5).json()
    ask(client, QUESTION, "nowhere")
    client.get("/nothing/of/the/kind")
    after = numbers(client)

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grew('pragreg_requests_total{path="/v1/chat/completions",status="200"}') == 1
    assert grew('pragreg_requests_total{path="/v1/chat/completions",status="404"}') == 1
    assert grew('pragreg_requests_total{path="other",status="404"}') == 1
    assert grew("pragreg_prompt_tokens_total") == body["usage"]["prompt_tokens"]
    assert grew("pragreg_answer_tokens_total") == body["usage"]["completion_tokens"]
    for step in ("queue", "search", "prefill", "first_token", "answer"):
        assert grew(f"pragreg_{step}_seconds_count") == 1
    assert after["pragreg_rows"] == 1
    assert after["pragreg_queue_length"] == after["pragreg_rows_running"] == 0
    assert after["process_resident_memory_bytes"] > 1e7
    assert after["pragreg_adapter_cache_hits_total"] + after["pragreg_adapter_cache_misses_total"] > 0
    assert after["pragreg_adapter_cache_bytes"] > 0
