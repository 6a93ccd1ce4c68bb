from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec

import pytest

from registry.errors import InputError
from tests.documents.reader import Reader, places, shown

pytestmark = pytest.mark.skipif(not find_spec("aiohttp"), reason="fsspec reads http through aiohttp")

PAGES = {
    "/guide.html": b"<title>Guide</title><p>The ferry leaves at noon.</p>",
    "/data.jsonl.gz": gzip.compress(b'{"id": 7, "text": "The ferry is green."}\n'),
    "/download?id=3": b"The ferry has two decks.",
    "/tide%20table.txt?year=3": b"High at six.",
    "/*.txt": b"A star.",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGES.get(self.path)
        self.send_response(403 if self.path == "/secret.txt" else 200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_web_addresses(reader: Reader, site: str) -> None:
    sources = [f"{site}/guide.html", f"{site}/data.jsonl.gz", f"{site}/download?id=3"]
    documents = reader.read(*sources)
    assert [text for _, text in shown(documents)] == [
        "The ferry leaves at noon.",
        "The ferry is green.",
        "The ferry has two decks.",
    ]
    assert places(documents) == [(sources[0], 0, None), (f"{sources[1]}#L1", 0, "7"), (sources[2], 0, None)]


def test_the_title_of_a_page_is_its_name_without_query_or_escapes(reader: Reader, site: str) -> None:
    assert shown(reader.read(f"{site}/tide%20table.txt?year=3")) == [("tide table", "High at six.")]


def test_a_web_address_is_no_pattern(reader: Reader, site: str) -> None:
    assert shown(reader.read(f"{site}/*.txt")) == [("*", "A star.")]
    with pytest.raises(InputError, match="Invalid IPv6 URL"):
        reader.read("http://[bad")


@pytest.mark.parametrize(("name", "reason"), [("gone.txt", "does not exist"), ("secret.txt", "403")])
def test_pages_that_are_refused(reader: Reader, site: str, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        reader.read(f"{site}/{name}")
