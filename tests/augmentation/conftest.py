"""Invented passages, and an endpoint on this machine that answers as a test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from registry.augmentation import Passage
from registry.records import Document, StagedDocument

LIGHTHOUSE = (
    "The Orrin Lighthouse stands on Cape Merrow, at the northern tip of the island of Tessel. It was built between "
    "1843 and 1847 by the engineer Adela Quist, who used blue granite from the quarries of Harth. The tower is 52 "
    "metres high. Its lamp first burned whale oil, and in 1921 it was changed to electric light. The last keeper, "
    "Jonas Wray, left the tower in 1978. About 20,000 people visit its museum every year."
)
HONEY = (
    "Velka honey is made in the hills around Dorn by bees that feed on heather. Beekeepers move eleven hundred hives "
    "up to the moors in July. The honey is sold in clay jars, because it thickens quickly in glass. In 2016 the prize "
    "of Dorn was given to Marta Ilves."
)


@pytest.fixture
def lighthouse() -> StagedDocument:
    return StagedDocument(Document.of("Orrin Lighthouse", LIGHTHOUSE), ("light-1",))


@pytest.fixture
def honey() -> StagedDocument:
    return StagedDocument(Document.of("Velka honey", HONEY), ("honey-1", "honey-copy"))


@pytest.fixture
def passage(lighthouse: StagedDocument) -> Passage:
    return Passage.of(lighthouse.document)


@dataclass(frozen=True)
class Request:
    """What the endpoint was sent."""

    path: str
    authorization: str
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        content: str = self.body["messages"][-1]["content"]
        return content


@dataclass(frozen=True)
class Response:
    """What the endpoint sends back."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


@dataclass
class FakeEndpoint:
    """A server on loopback; ``answer`` is called with each request."""

    url: str
    answer: Callable[[Request], Response] = lambda request: Response("{}")
    requests: list[Request] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    most_at_once: int = 0
    at_once: int = 0


def completion(content: str | None, tokens: int = 7) -> Response:
    """A chat completion with this text."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    whole = {"id": "c1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Response(json.dumps(whole))


def refusal(status: int, message: str, *, code: str | None = None, **headers: str) -> Response:
    """An error as such endpoints send them."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(json.dumps({"error": {"message": message, "code": code, "type": "x"}}), status, named)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    """A running endpoint to which the environment points, with a key and a model."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            request = Request(self.path, self.headers["authorization"] or "", body)
            with lock:
                fake.requests.append(request)
                fake.at_once += 1
                fake.most_at_once = max(fake.most_at_once, fake.at_once)
            response = fake.answer(request)
            fake.closing.wait(response.delay_seconds)
            with lock:
                fake.at_once -= 1
            self.send_response(response.status)
            for name, value in {"content-type": "application/json", **response.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(response.body.encode())))
            self.end_headers()
            try:
                self.wfile.write(response.body.encode())
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client did not wait for it

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeEndpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    monkeypatch.setenv("OPENAI_MODEL", "scribe-1")
    yield fake
    fake.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()
