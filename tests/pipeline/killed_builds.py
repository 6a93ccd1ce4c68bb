"""A program that builds a corpus, killing itself at every point in turn, and prints what the registry holds at the end.

    python killed_builds.py HOME SOURCES AUGMENTATIONS BASE_MODEL SEED KILLS

Modules are imported once and every build is a fork, so that a kill costs no start-up. KILLS 0 is an undisturbed build.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import registry.encoding.train
from registry.catalog import schema
from registry.catalog.members import members
from registry.documents import ReadOptions
from registry.errors import NotFoundError
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.opened import opened
from registry.pipeline.recipes import RecipeRequest
from registry.pipeline.search import search
from registry.settings import Home, create_home

# Imported here so that no fork has to: importing takes far longer than building.
IMPORTED = (torch, transformers, AutoConfig, AutoModelForCausalLM, AutoTokenizer, registry.encoding.train)


class Deadly:
    """A progress that kills its own process at the n-th event."""

    def __init__(self, events: int | None) -> None:
        self._left = events

    def start(self, step: str, total: int | None = None) -> None:
        self._event()

    def advance(self, count: int = 1, *, note: str = "") -> None:
        self._event()

    def say(self, text: str) -> None:
        self._event()

    def done(self) -> None:
        self._event()

    def _event(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def build_once(home: Home, request: BuildRequest, events: int | None, seconds: float | None) -> bool:
    """Build in a fork that dies after so many events or seconds; return whether it got to the end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            build(home, request, Deadly(events))
            status = 0
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit("a build failed instead of being killed")
    return os.WIFEXITED(status)


def state(home: Home) -> dict[str, object]:
    """Return what the registry holds: the newest version's digest and every member's adapter, read and checked."""
    with opened(home) as registry:
        version = registry.version("default")
        with registry.catalog.read() as session:
            pairs = {document.digest: adapter for document, adapter in members(session, version)}
        registry.adapters(pairs.values())
        leftovers = [path.name for path in Path(home.packs_url).rglob("*.partial*")]
        packs = sum(1 for _ in registry.packs.list())
    _, hits = search(home, "default", "Which ferry carries salt?", 2)
    return {
        "version": version.number,
        "digest": version.digest,
        "members": pairs,
        "hits": [hit.document.digest for hit in hits],
        "leftovers": leftovers,
        "packs": packs,
    }


def readable(home: Home) -> bool:
    """Return whether there is a version, having read all of it if so: a killed build must never leave half of one."""
    try:
        state(home)
    except NotFoundError:
        return False
    return True


def main() -> None:
    folder, sources, augmentations, base_model, seed, kills = sys.argv[1:]
    home = create_home(Path(folder))
    schema.upgrade(home.catalog_url)
    request = BuildRequest(
        sources=(sources,),
        read=ReadOptions(),
        recipe=RecipeRequest(base_model=base_model, dtype="float32", settings={"epochs": 2, "rank": 2}),
        augmenter=f"import:{augmentations}",
        device="cpu",
        group_size=2,
        workers=1,
    )
    rng = random.Random(int(seed))
    finished, versions_seen = 0, 0
    for number in range(int(kills)):
        by_event = number % 2 == 0
        events = number // 2 if by_event else None
        seconds = None if by_event else rng.uniform(0.02, 0.8)
        finished += build_once(home, request, events, seconds)
        versions_seen += readable(home)
    assert build_once(home, request, None, None)
    print(json.dumps({**state(home), "finished": finished, "versions_seen": versions_seen}))


if __name__ == "__main__":
    main()
