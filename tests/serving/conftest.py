"""A real server: a process of its own on a free port, with a corpus of the tiny model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from registry.catalog import schema
from registry.catalog.api_keys import SCOPES, create_key
from registry.catalog.engine import open_catalog
from registry.documents import ReadOptions
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.serving.run import ready
from registry.serving.settings import ServeSettings
from registry.settings import Home, create_home, open_home
from tests.pipeline.conftest import Sample, write_sample

START_SECONDS = 60
STOP_SECONDS = 30
SETTINGS = {"epochs": 8, "rank": 2, "learning_rate": 1e-2}


@dataclass
class Served:
    """A running server: its address, its process, and the lines that it wrote to standard error."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def openai_url(self) -> str:
        """What OpenAI's client takes as ``base_url``."""
        return f"{self.url}/v1"

    def records(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return the lines of the log that have these values."""
        found = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [each for each in found if all(each.get(name) == value for name, value in wanted.items())]

    def wait_for(self, condition: Callable[[], Any], seconds: float = 10) -> Any:
        """Wait until a condition holds, and return what it gave."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"it did not come; the server wrote: {self.lines}"
            time.sleep(0.01)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def build_corpus(home: Home, sample: Sample, model: Path, corpus: str = "default", **settings: object) -> None:
    """Build the sample corpus with a tiny model."""
    request = BuildRequest(
        sources=(str(sample.documents),),
        read=ReadOptions(),
        recipe=RecipeRequest(base_model=str(model), dtype="float32", settings=SETTINGS | settings),
        corpus=corpus,
        augmenter=f"import:{sample.augmentations}",
        device="cpu",
        workers=1,
    )
    build(home, request, Silent())


@contextmanager
def running(home: Home, *options: str, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """Run ``pragreg serve`` for the time of a block; ready when it begins, and stopped when it ends."""
    command = [sys.executable, "-m", "cli.main", "serve", "--home", str(home.path), "--device", "cpu", "--port", "0"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )
    served = Served("", process)
    reader = threading.Thread(target=_read, args=(served,), daemon=True)
    reader.start()
    try:
        served.url = served.wait_for(lambda: _address(served), START_SECONDS)
        yield served
    finally:
        process.kill()
        process.wait()
        reader.join(STOP_SECONDS)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def stoppable(home: Home, **settings: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve from a thread of this process on a real port, which starts in less time; yield address and how to stop."""
    with ready(home, ServeSettings(port=0, device="cpu", **settings), Silent()) as server:
        started = threading.Event()
        thread = threading.Thread(target=server.run, args=(started.set,))
        thread.start()
        try:
            assert started.wait(START_SECONDS)
            yield server.url, server.stop
        finally:
            server.stop()
            thread.join(STOP_SECONDS)
            assert not thread.is_alive()


@contextmanager
def inside(home: Home, **settings: Any) -> Iterator[str]:
    """Serve from a thread of this process, and yield the address."""
    with stoppable(home, **settings) as (url, _):
        yield url


def _read(served: Served) -> None:
    assert served.process.stderr is not None
    for line in served.process.stderr:
        served.lines.append(line.rstrip("\n"))


def _address(served: Served) -> str | None:
    assert served.process.poll() is None, f"the server ended: {served.lines}"
    found = [match[1] for line in served.lines if (match := re.match(r"at (http://\S+) ", line))]
    return found[0] if found else None


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Home:
    """A home with the corpus ``default`` of seven documents, built with the tiny model; leave it as it is."""
    folder = tmp_path_factory.mktemp("served")
    sample = write_sample(folder / "sample")
    home = create_home(folder / "home")
    schema.upgrade(home.catalog_url)
    build_corpus(home, sample, tiny_model_path)
    return home


@pytest.fixture(scope="session")
def served(served_home: Home) -> Iterator[Served]:
    """A server of ``served_home`` without keys, shared by the session."""
    with running(served_home) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    """A client of ``served``."""
    with httpx2.Client(base_url=served.url, timeout=60) as client:
        yield client


@dataclass(frozen=True)
class Guarded:
    """A server with keys: ``key`` is good for everything, ``search_key`` for /search alone. ``places`` answers fill it.

    No answer may be longer than ``longest`` tokens.
    """

    url: str
    key: str
    search_key: str
    places: int
    longest: int

    @property
    def openai_url(self) -> str:
        """What OpenAI's client takes as ``base_url``."""
        return f"{self.url}/v1"


@pytest.fixture(scope="session")
def two_versions(served_home: Home, tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Home:
    """A home with two versions of ``default`` that share no adapter; leave it as it is."""
    folder = tmp_path_factory.mktemp("two")
    home = copied(served_home, folder / "home")
    build_corpus(home, write_sample(folder / "sample"), tiny_model_path, epochs=2)
    return home


@pytest.fixture(scope="session")
def guarded_home(two_versions: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with two versions of ``default``, whose aliases tests may move."""
    return copied(two_versions, tmp_path_factory.mktemp("guarded") / "home")


@pytest.fixture(scope="session")
def guarded(guarded_home: Home) -> Iterator[Guarded]:
    """A server of ``guarded_home`` with keys and little room, shared by the session."""
    with open_catalog(guarded_home.catalog_url) as catalog, catalog.write() as session:
        keys = [create_key(session, name, scopes)[1] for name, scopes in (("all", SCOPES), ("search", ["search"]))]
    with inside(guarded_home, rows=2, queue=6, max_tokens=400) as url:
        yield Guarded(url, *keys, places=8, longest=400)


@pytest.fixture
def own_home(served_home: Home, tmp_path: Path) -> Home:
    """A copy of ``served_home`` that a test may change."""
    return copied(served_home, tmp_path / "own")


def copied(home: Home, folder: Path) -> Home:
    """Copy a home that nobody writes to."""
    shutil.copytree(home.path, folder)
    return open_home(folder)


@contextmanager
def client_of(url: str, secret: str | None = None) -> Iterator[httpx2.Client]:
    """Return a client of a server, with a key if one is given."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    with httpx2.Client(base_url=url, timeout=60, headers=headers) as client:
        yield client


def ask(client: httpx2.Client, question: str, model: str = "default", **more: Any) -> httpx2.Response:
    """Ask one question."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 8, **more}
    return client.post("/v1/chat/completions", json=body)


def chunks(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Return the chunks of a stream, which must end as OpenAI's does."""
    data = [line.removeprefix("data: ") for line in lines if line]
    assert data[-1] == "[DONE]"
    return [json.loads(each) for each in data[:-1]]
