"""Two homes exchange versions while every request may fail in any way, and end up equal.

A few runs with the suite; `python -m tests.hub.test_random_faults 200` makes many, and says what they met.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from registry.catalog.members import members
from registry.catalog.references import list_versions
from registry.digests import sha256_hex
from registry.errors import HubError, IntegrityError
from registry.hub.manifest.root import read_root
from registry.hub.names import ROOT
from registry.pipeline.opened import opened
from registry.pipeline.pull.request import PullRequest
from registry.pipeline.pull.run import pull
from registry.pipeline.push.request import PushRequest
from registry.pipeline.push.run import push
from registry.progress import Silent
from registry.settings import Home, open_home
from registry.upkeep.verify.run import VerifyRequest, verify
from tests.hub.maker import maker, new_home
from tests.hub.server import HubServer

Result = TypeVar("Result")

REPOSITORY = "tarn/notes"
SEEDS = (9, 12)
RATES = {"*": 0.15, "commit": 0.4, "object": 0.3, "resolve": 0.2, "lfs-put": 0.25, "tag": 0.25}
FACTORS = (0.5, 1.0, 2.0, 3.0)
"""One of them makes the rates of a run."""
MOST_RATE = 0.6
DOCUMENTS = 12
ROUNDS = 3
MOST_TRIES = 25
"""So often a user types the command again."""
FAST = {"PRAGREG_HUB_RETRY_SECONDS": "0.01", "PRAGREG_HUB_TIMEOUT_SECONDS": "10", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass
class Exchange:
    """Two homes and a repository, and what became of the commands."""

    hub: HubServer
    homes: tuple[Home, Home]
    draw: random.Random
    takes: dict[int, int] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    commands: int = 0

    def again(self, command: Callable[[], Result]) -> Result:
        """Give a command as often as it takes; it may fail as it is meant to and in no other way."""
        for _ in range(MOST_TRIES):
            self.commands += 1
            try:
                return command()
            except (HubError, IntegrityError) as error:
                refusal = error
            assert "X-Amz" not in f"{refusal.message} {refusal.hint}"
            self.refused[f"{type(refusal).__name__}: {refusal.message}"] += 1
        raise AssertionError(f"it failed {MOST_TRIES} times: {self.hub.faults()['chance']}")

    def push(self, home: Home) -> None:
        self.again(lambda: push(home, PushRequest(REPOSITORY), Silent()))

    def pull(self, home: Home) -> None:
        is_lazy = self.draw.random() < 0.3
        self.again(lambda: pull(home, PullRequest(REPOSITORY, is_lazy=is_lazy), Silent()))

    def edit(self, home: Home) -> None:
        """Build a version with some documents changed, some gone and some new."""
        for number in self.draw.sample(sorted(self.takes), min(3, len(self.takes))):
            if self.draw.random() < 0.3:
                del self.takes[number]
            else:
                self.takes[number] += 1
        for _ in range(DOCUMENTS if not self.takes else 2):
            self.takes[max(self.takes, default=0) + 1] = 0
        with maker(home) as making:
            making.build(self.takes, message=f"edit of {home.path.name}")

    def run(self) -> None:
        """Let one home after the other publish a version, in an order drawn by chance."""
        for turn in range(ROUNDS):
            home = self.draw.choice(self.homes) if turn else self.homes[0]
            if turn:
                self.pull(home)
            self.edit(home)
            if turn and self.draw.random() < 0.4:
                # Somebody edits a file of the web site meanwhile.
                self.hub.commit(REPOSITORY, {"notes.txt": b"read me"})
            self.push(home)
        for home in self.homes:
            self.pull(home)


def told(home: Home) -> dict[str, list[tuple[str, str]]]:
    """Return the members of every version by the version's digest, oldest first, and check all adapters' bytes."""
    with opened(home) as registry:
        with registry.catalog.read() as session:
            versions = list_versions(session, "default")
            found = {
                f"{version.digest} {version.message}": [
                    (f"{document.digest} {document.text}", adapter) for document, adapter in members(session, version)
                ]
                for version in versions
            }
        adapters = {adapter for pairs in found.values() for _, adapter in pairs}
        data = registry.adapters(adapters)
        assert {digest: sha256_hex(view) for digest, view in data.items()} == {digest: digest for digest in adapters}
        report = verify(home, registry.catalog, registry.packs, VerifyRequest(deep=True), Silent())
        assert [finding for finding in report.damage if finding.kind != "index-missing"] == []
    return found


def check_equal(exchange: Exchange) -> None:
    """Without faults now: nothing is left to do, and all three have the same versions and bytes."""
    hub = exchange.hub
    hub.clear_faults()
    for home in exchange.homes:
        assert push(home, PushRequest(REPOSITORY), Silent()).commit_id is None
        assert pull(home, PullRequest(REPOSITORY), Silent()).versions == ()  # of a lazy one the packs come now
        assert pull(home, PullRequest(REPOSITORY), Silent()).outcome == "equal"
    first, other = (told(home) for home in exchange.homes)
    assert first == other
    assert len(first) == ROUNDS
    state = hub.state(REPOSITORY)
    root = read_root(hub.read(REPOSITORY, ROOT), repository=REPOSITORY)
    assert [f"{version.digest} {version.message}" for version in root.versions] == list(first)
    assert {tag for tag in state.tags if tag.startswith("v")} == {f"v{number}" for number in range(1, ROUNDS + 1)}
    for path, file in state.files.items():
        if path.startswith(("packs/", "shards/", "records/")):
            assert Path(path).stem == file.content == file.sha256
    assert hub.counters()["tokens_at_files"] == 0
    for home in exchange.homes:
        incoming = home.hub_path / "incoming"
        assert not incoming.exists() or not any(incoming.rglob("*.*"))


def exchange_under_faults(hub: HubServer, folder: Path, empty: Home, seed: int) -> Exchange:
    """Have two copies of an empty home exchange versions."""
    draw = random.Random(seed)
    homes = (_copy(empty, folder / "one"), _copy(empty, folder / "other"))
    exchange = Exchange(hub, homes, draw)
    factor = draw.choice(FACTORS)
    hub.chance(seed, {route: min(MOST_RATE, rate * factor) for route, rate in RATES.items()})
    exchange.run()
    return exchange


def _copy(home: Home, folder: Path) -> Home:
    shutil.copytree(home.path, folder)
    return open_home(folder)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_sides_end_equal_whatever_fails(
    hub: HubServer, tmp_path: Path, tiny_model_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    exchange = exchange_under_faults(hub, tmp_path, new_home(tmp_path / "empty", tiny_model_path), seed)
    assert hub.faults()["chance"]["hits"] > 0
    check_equal(exchange)


def main(runs: int, first: int = 1) -> None:
    """Make so many runs, and print what they met."""
    from tests.model_fixtures import write_tiny_model

    made: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    commands, started = 0, time.perf_counter()
    with HubServer() as hub, tempfile.TemporaryDirectory(prefix="pragreg-faults-") as folder:
        os.environ.update({**hub.environment(), **FAST, "HF_HOME": f"{folder}/hf"})
        empty = new_home(Path(folder) / "empty", write_tiny_model(Path(folder) / "model"))
        for seed in range(first, first + runs):
            hub.reset()
            exchange = exchange_under_faults(hub, Path(folder) / f"run-{seed}", empty, seed)
            made.update(line.partition(": ")[2] for line in hub.faults()["chance"]["made"])
            check_equal(exchange)
            refused.update(exchange.refused)
            commands += exchange.commands
            print(f"run {seed}: {sum(made.values())} faults so far", file=sys.stderr, flush=True)
    print(f"{runs} runs, {commands} commands, {time.perf_counter() - started:.0f} s: both sides equal after each")
    print("faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(made.items())))
    print(f"commands given again: {sum(refused.values())}")
    for said, count in refused.most_common(20):
        print(f"  {count} x {said[:200]}")


if __name__ == "__main__":
    main(*(int(number) for number in sys.argv[1:3] or ["200"]))
