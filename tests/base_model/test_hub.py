"""The real client against a small server on loopback, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from registry.base_model import fingerprint, locate

COMMIT = "c0ffee" * 6 + "c0de"


class Hub(ThreadingHTTPServer):
    """Serves one folder as the repository acme/tiny at one commit, and knows of a gated one."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        status, headers, body = self._find(path)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        files = {str(f.relative_to(self.server.folder)): f for f in self.server.folder.rglob("*") if f.is_file()}
        if "acme/gated" in path:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if "acme/broken" in path:
            return 500, {}, b"down"
        if "acme/tiny" not in path:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if path in ("/api/models/acme/tiny/revision/main", f"/api/models/acme/tiny/revision/{COMMIT}"):
            return 200, {}, json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": []}).encode()
        if path == f"/api/models/acme/tiny/tree/{COMMIT}":
            entries = [{"type": "file", "path": n, "oid": tag(f), "size": f.stat().st_size} for n, f in files.items()]
            return 200, {}, json.dumps(entries).encode()
        _, found, name = path.partition(f"/acme/tiny/resolve/{COMMIT}/")
        if not found:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{tag(files[name])}"'}, files[name].read_bytes()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def tag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tiny_model_path: Path, tmp_path: Path) -> Iterator[Hub]:
    folder = Path(shutil.copytree(tiny_model_path, tmp_path / "served"))
    unwanted = ("pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "onnx/config.json", "other.safetensors")
    for name in unwanted:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"never fetched")
    with Hub(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_model_is_pinned_at_a_commit_fetched_by_the_allow_list_and_remembered(
    hub: Hub, tiny_model_path: Path, tmp_path: Path, locate_elsewhere: Callable[..., Any]
) -> None:
    env = {"HF_ENDPOINT": hub.address}
    (found,) = locate_elsewhere(tmp_path / "models", ("acme/tiny", None), env=env)
    assert (found["reference"], found["source"], found["revision"]) == ("acme/tiny", "hub", COMMIT)
    local = fingerprint(locate(str(tiny_model_path), models_path=tmp_path / "models"))
    assert found["fingerprint"] == local.fingerprint, "the same files are the same model"
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {path.name for path in tiny_model_path.iterdir()}
    (named,) = locate_elsewhere(tmp_path / "named", (f"acme/tiny@{COMMIT}", None), env=env)
    assert (named["reference"], named["revision"]) == ("acme/tiny", COMMIT)
    hub.asked.clear()
    again = locate_elsewhere(
        tmp_path / "models", ("acme/tiny", None), ("acme/tiny", COMMIT), ("acme/tiny", "main"), env=env
    )
    assert [one["fingerprint"] for one in again] == [local.fingerprint] * 3
    assert not hub.asked, "what is remembered is not asked for again"
    # Another registry on the same machine, without a network: the Hub's own cache has the commit.
    (offline,) = locate_elsewhere(
        tmp_path / "other", ("acme/tiny", COMMIT), env={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    )
    assert offline["fingerprint"] == local.fingerprint


def test_what_cannot_be_fetched_says_why(hub: Hub, tmp_path: Path, locate_elsewhere: Callable[..., Any]) -> None:
    wanted = ["acme/none", "acme/gated", "acme/broken", "acme/-tiny-.git"]
    answers = locate_elsewhere(
        tmp_path, *((name, None) for name in wanted), ("acme/tiny@v9", None), env={"HF_ENDPOINT": hub.address}
    )
    expected = [
        ("no base model acme/none on the Hub", "hf auth login"),
        ("acme/gated is gated", "https://huggingface.co/acme/gated"),
        ("acme/broken", "network"),
        ("acme/-tiny-.git", None),
        ("acme/tiny has no revision 'v9'", None),
    ]
    for answer, (message, hint) in zip(answers, expected, strict=True):
        assert message in answer["error"], answer
        assert hint is None or hint in answer["hint"], answer
    (unreachable,) = locate_elsewhere(tmp_path, ("acme/tiny", None), env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "cannot be reached" in unreachable["error"]


def test_a_repository_without_safetensors_is_refused(
    hub: Hub, tmp_path: Path, locate_elsewhere: Callable[..., Any]
) -> None:
    (hub.folder / "model.safetensors").unlink()
    (answer,) = locate_elsewhere(tmp_path, ("acme/tiny", None), env={"HF_ENDPOINT": hub.address})
    assert "has no model.safetensors" in answer["error"]
    assert "never loaded" in answer["hint"]
