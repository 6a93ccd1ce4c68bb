"""A stand-in for the Hugging Face Hub on two loopback ports: ``python tests/hub/server.py`` (see ``--help``).

It prints one line of JSON with both origins, then serves until it is killed. Tests start it as a process of its own
with ``HubServer``, whose methods are the control interface. It speaks HTTP as the Hub does (repositories, commits,
large files, tags) and can be told to make every kind of fault; what it lacks is Xet, pull requests and a web site.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class FileInRepository:
    """What the server says of a file, and ``content``: the sha256 of the bytes that it serves."""

    sha256: str
    size: int
    is_lfs: bool
    content: str


@dataclass(frozen=True)
class RepositoryState:
    """A repository at one commit; ``commits`` are (id, title) of main from the newest on."""

    head: str | None
    private: bool
    branches: dict[str, str]
    tags: dict[str, str]
    objects: dict[str, int]
    commits: list[tuple[str, str]]
    files: dict[str, FileInRepository]


class HubServer:
    """A server process: ``with HubServer() as hub``. All methods may be called at any time, from any thread."""

    def __init__(self, *arguments: str, folder: Path | None = None) -> None:
        where = ["--folder", str(folder)] if folder else []
        command = [sys.executable, str(Path(__file__).resolve()), "--with-parent", *where, *arguments]
        # It ends with its standard input, so also when this process is killed.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: exit code {self._process.wait()}")
        said = json.loads(line)
        self.endpoint: str = said["endpoint"]
        self.files_origin: str = said["files"]

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process; its folder goes with it if it was a temporary one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def environment(self, *, token: str | None = "hf_test") -> dict[str, str]:
        """Return what a process needs in its environment so that the client speaks to this server alone."""
        told = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return {**told, "HF_TOKEN": token} if token else told

    # State.

    def reset(self) -> None:
        """Forget repositories, faults, counters and settings."""
        self._call("reset", {})

    def settings(self, **changed: Any) -> dict[str, Any]:
        """Change settings until the next reset; their names are in ``served/settings.py``."""
        return dict(self._call("settings", changed))

    def state(self, repository: str, commit: str | None = None) -> RepositoryState:
        """Return the refs of a repository, and its files at a commit (the head of main)."""
        said = self._call("repository", {"repository": repository, **({"commit": commit} if commit else {})})
        said["commits"] = [(one["id"], one["title"]) for one in said["commits"]]
        said["files"] = {path: FileInRepository(**one) for path, one in said["files"].items()}
        return RepositoryState(**said)

    def read(self, repository: str, path: str, commit: str | None = None) -> bytes:
        """Return the bytes that the server has for a file."""
        query = {"repository": repository, "path": path, **({"commit": commit} if commit else {})}
        return self._ask("GET", f"/_control/file?{urlencode(query)}", b"")

    # Counters.

    def counters(self) -> dict[str, Any]:
        """Return what was counted since the last reset: see ``Log`` in ``served/messages.py``."""
        return dict(self._call("counters", {}))

    def requests(self) -> list[dict[str, Any]]:
        """Return all requests since the last reset, in their order."""
        return list(self._call("requests", {}))

    def reset_counters(self) -> None:
        self._call("counters/reset", {})

    # Faults.

    def fault(self, kind: str, **rule: Any) -> None:
        """Add a rule behind those that are there; kinds and fields are in ``served/faults.py``."""
        self._call("faults/add", {"rules": [{"kind": kind, **rule}]})

    def chance(self, seed: int, rates: Mapping[str, float], **more: Any) -> None:
        """Make faults by chance from now on; see ``Chance`` in ``served/faults.py``."""
        self._call("faults/chance", {"seed": seed, "rates": dict(rates), **more})

    def faults(self) -> dict[str, Any]:
        """Return the rules with their hits, and what chance has made."""
        return dict(self._call("faults", {}))

    def clear_faults(self) -> None:
        """Make no more faults; answers that hang end."""
        self._call("faults/clear", {})

    # Tampering.

    def commit(
        self,
        repository: str,
        files: Mapping[str, bytes | Path | Mapping[str, Any]],
        *,
        deleted: Sequence[str] = (),
        replace: bool = False,
        branch: str = "main",
        message: str = "tampered",
    ) -> str:
        """Commit arbitrary files past the Hub's rules, also to a repository that is not there; return the commit.

        A file is bytes, a local file, or a mapping: ``content`` (bytes), ``source`` (path) or ``symlink`` (target),
        and ``is_lfs``, ``claimed_sha256``, ``claimed_size``, ``extra`` (fields of its entry in listings). With
        ``replace`` the commit holds these files only.
        """
        items = [_item(path, file) for path, file in files.items()]
        given = {"repository": repository, "files": items, "deleted": list(deleted), "replace": replace}
        return str(self._call("commit", {**given, "branch": branch, "message": message})["commit"])

    def replace(
        self, repository: str, path: str, data: bytes | Path, *, commit: str | None = None, keep_claims: bool = True
    ) -> None:
        """Serve other bytes at a commit that is there, with ``keep_claims`` under the size and digest of the old."""
        given = {"repository": repository, "commit": commit, "keep_claims": keep_claims}
        self._call("replace", {**given, **_item(path, data)})

    def ref(self, repository: str, name: str, commit: str | None, *, kind: str = "tag") -> None:
        """Let a tag or branch name a commit; None removes it."""
        self._call("ref", {"repository": repository, "name": name, "commit": commit, "kind": kind})

    def _call(self, name: str, given: Mapping[str, Any]) -> Any:
        return json.loads(self._ask("POST", f"/_control/{quote(name)}", json.dumps(given).encode()))

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        connection = http.client.HTTPConnection(urlsplit(self.endpoint).netloc, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status} {data.decode(errors='replace')}")
            return data
        finally:
            connection.close()


def _item(path: str, file: bytes | Path | Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = (
        {"content": file} if isinstance(file, bytes) else {"source": file} if isinstance(file, Path) else dict(file)
    )
    if "content" in given:
        given["content"] = base64.b64encode(given["content"]).decode()
    if "source" in given:
        given["source"] = str(given["source"])
    return {"path": path, **given}


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A stand-in for the Hugging Face Hub.")
    parser.add_argument("--folder", type=Path, help="where the bytes lie; without it a temporary folder")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--files-port", type=int, default=0)
    parser.add_argument("--write-token", action="append", default=[], help="whoever writes needs one of these")
    parser.add_argument("--read-token", action="append", default=[])
    parser.add_argument("--no-first-commit", action="store_true", help="a new repository has no commit")
    parser.add_argument("--verify-actions", action="store_true", help="uploads have a verify action")
    parser.add_argument("--multipart-bytes", type=int, help="larger files go up in parts of this size")
    parser.add_argument("--page-size", type=int, default=1000, help="entries in a page of a listing")
    parser.add_argument("--redirect-regular", action="store_true", help="small files by a redirect on the same origin")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="hub-"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        _serve(given, folder)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def _serve(given: argparse.Namespace, folder: Path) -> None:
    sys.path.insert(0, str(ROOT))  # run as a file, Python knows this folder only
    from tests.hub.served.control import Control
    from tests.hub.served.faults import Faults
    from tests.hub.served.files import LargeFiles
    from tests.hub.served.messages import Log
    from tests.hub.served.repositories import Hub
    from tests.hub.served.routes import Routes
    from tests.hub.served.settings import Settings
    from tests.hub.served.wire import Server

    settings = Settings(
        write_tokens=given.write_token,
        read_tokens=given.read_token,
        first_commit=not given.no_first_commit,
        verify=given.verify_actions,
        multipart_bytes=given.multipart_bytes,
        page_size=given.page_size,
        redirect_regular=given.redirect_regular,
    )
    hub, faults, log = Hub(folder), Faults(), Log()
    files = LargeFiles(hub, settings)
    routes = Routes(hub, settings, files)
    control = Control(hub, settings, faults, log)
    main_origin = Server(
        "main", given.port, lambda request: control.route(request) or routes.route(request), faults, log
    )
    files_origin = Server("files", given.files_port, files.route, faults, log)
    files.main = main_origin.url
    files.origin = files_origin.url
    for server in (main_origin, files_origin):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"endpoint": main_origin.url, "files": files_origin.url, "pid": os.getpid()}), flush=True)
    if given.with_parent:
        sys.stdin.read()
    else:
        signal.pause()


if __name__ == "__main__":
    main()
