"""A program whose forks build beside each other; it prints what came of that in every HOME, by its path, as JSON.

    python side_by_side.py BASE_MODEL HOME...

Several corpora at the same time in every home, one corpus by several processes in the first.

Modules are imported, and kernels loaded, once; every build is a fork, so that it costs no start-up.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry.catalog.listing import list_builds
from registry.catalog.members import member_adapters
from registry.catalog.versions import list_versions
from registry.documents import ReadOptions
from registry.errors import PragregError
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.opened import opened
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.settings import Home, open_home

CORPORA = ("coast", "river", "hill")
ROUNDS = 2
SECONDS = 200


def write_sources(folder: Path, corpus: str, number: int) -> Path:
    """Write what a corpus holds in a round: texts of its own, one that is edited, and some that all corpora have."""
    texts = [f"The keeper of the {corpus} counts {count} lanterns." for count in range(2)]
    texts += [f"In round {number} the {corpus} is quiet.", "Salt is carried by mules.", "Wool is carried by oxen."]
    file = folder / f"{corpus}-{number}.jsonl"
    file.write_text("".join(json.dumps({"title": text[:12], "text": text}) + "\n" for text in texts))
    return file


def request_of(source: Path, corpus: str, base_model: str) -> BuildRequest:
    """Return a request under which an adapter's bytes depend on its document alone: groups of one."""
    return BuildRequest(
        sources=(str(source),),
        corpus=corpus,
        read=ReadOptions(),
        recipe=RecipeRequest(base_model=base_model, dtype="float32", settings={"epochs": 1, "rank": 2}),
        augmenter="none",
        device="cpu",
        group_size=1,
        workers=1,
    )


def digests(home: Home, corpus: str) -> list[str]:
    """Return the digests of all versions of a corpus, having read every adapter of theirs."""
    with opened(home) as registry:
        with registry.catalog.read() as session:
            versions = list_versions(session, corpus)
            adapters = {adapter for version in versions for adapter in member_adapters(session, version)}
        registry.adapters(adapters)
    return [version.digest for version in versions]


class Child:
    """A fork that builds; what it was told and what came of it are read from it as lines of JSON."""

    def __init__(self, home: Home, request: BuildRequest, hold: Path | None = None) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            with os.fdopen(write, "w") as out:
                _build(home, request, lambda line: print(json.dumps(line), file=out, flush=True), hold)
            os._exit(0)
        os.close(write)
        self._lines = os.fdopen(read)

    def line(self) -> Any:
        """Return the next line."""
        return json.loads(self._lines.readline())

    def end(self) -> Any:
        """Return the last line, when the fork is over; nothing if it was killed."""
        lines = self._lines.read().splitlines()
        os.waitpid(self.pid, 0)
        return json.loads(lines[-1]) if lines else None


def _build(home: Home, request: BuildRequest, tell: Callable[[Any], None], hold: Path | None) -> None:
    class Holding(Silent):
        """Tells what is said, and stands still at its first adapter for as long as there is the file ``hold``."""

        def start(self, step: str, total: int | None = None) -> None:
            if step == "encoding" and hold is not None:
                tell("holding")
                while hold.exists():
                    time.sleep(0.01)

        def say(self, text: str) -> None:
            tell({"said": text})

    try:
        built = build(home, request, Holding())
        tell({"version": built.version.reference, "created": built.created, "trained": built.trained})
    except PragregError as error:
        tell({"error": type(error).__name__, "message": error.message, "hint": error.hint})
    except KeyboardInterrupt:
        tell({"error": "KeyboardInterrupt"})


def all_corpora(home: Home, base_model: str, folder: Path) -> dict[str, list[str]]:
    """Build all corpora at the same time, round after round; return the digests of their versions."""
    for number in range(ROUNDS):
        requests = [request_of(write_sources(folder, corpus, number), corpus, base_model) for corpus in CORPORA]
        ends = [child.end() for child in [Child(home, request) for request in requests]]
        failed = [end for end in ends if end is None or "error" in end]
        assert not failed, failed
    return {corpus: digests(home, corpus) for corpus in CORPORA}


def one_corpus(home: Home, base_model: str, folder: Path) -> dict[str, Any]:
    """Build a corpus while another process builds it, in every way that there is."""
    hold = folder / "hold"
    hold.touch()
    request = request_of(write_sources(folder, "lake", 0), "lake", base_model)
    found: dict[str, Any] = {}

    first = Child(home, request, hold)
    assert first.line() == "holding"
    found["pid"] = first.pid
    found["refused"] = Child(home, request).end()
    waiting, stopped = Child(home, replace(request, wait=True)), Child(home, replace(request, wait=True))
    found["told"] = waiting.line()
    stopped.line()
    os.kill(stopped.pid, signal.SIGINT)
    found["stopped"] = stopped.end()
    hold.unlink()
    found["first"] = first.end()
    found["waited"] = waiting.end()

    hold.touch()
    other = request_of(write_sources(folder, "lake", 1), "lake", base_model)
    killed = Child(home, other, hold)
    assert killed.line() == "holding"
    found["killed"] = killed.pid
    os.kill(killed.pid, signal.SIGKILL)
    found["of_killed"] = killed.end()
    found["after_killed"] = Child(home, replace(other, wait=True)).end()
    with opened(home) as registry, registry.catalog.read() as session:
        found["builds"] = [line.status for line in reversed(list_builds(session, corpus="lake"))]
    return found


def main() -> None:
    signal.alarm(SECONDS)
    base_model, *paths = sys.argv[1:]
    found: dict[str, dict[str, Any]] = {}
    for path in map(Path, paths):
        home, folder = open_home(path), path / "sources"
        folder.mkdir()
        # Before the first fork: importing and loading takes far longer than building.
        warm = folder / "warm.jsonl"
        warm.write_text('{"title": "Warm", "text": "This one is built to be warm."}')
        build(home, request_of(warm, "warm", base_model), Silent())
        found[str(path)] = {"corpora": all_corpora(home, base_model, folder)}
        if path == Path(paths[0]):
            found[str(path)]["one_corpus"] = one_corpus(home, base_model, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
