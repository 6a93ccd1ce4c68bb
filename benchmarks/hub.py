"""What push and pull cost beside the plain client: `python -m benchmarks.hub [--adapters 10000] [--repeat 3]`.

A home of invented adapters (about 100 KB each, of a real tiny model, not trained) and the stand-in for the Hub of
`tests/hub/server.py`, on loopback and on the same machine; it counts requests and bytes. Every command is a process of
its own, as a user's. The peers, in turn with them: `HfApi.create_commit` of the home's packs; a loop that GETs every
pack into a file and hashes what comes; and `snapshot_download` of the packs, then sha256 of the files. Medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import header
from registry.settings import Home
from tests.hub.maker import Maker, maker, new_home
from tests.hub.server import HubServer
from tests.model_fixtures import write_tiny_model

ROOT = Path(__file__).parents[1]
RANK = 16
"""On all linear modules of the tiny model: 103,560 bytes an adapter."""
WORDS = 24
PACK_BYTES = 10_000_000
"""What is larger is a pack."""
EDITED = 7
"""The document that is changed."""
REPOSITORY = "bench/notes"

COMMIT = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo(sys.argv[1])
files = [CommitOperationAdd("packs/" + path.rpartition("/")[2], path) for path in sys.argv[2:]]
api.create_commit(sys.argv[1], files, commit_message="plain")
"""
LOOP = """
import hashlib, os, sys, httpx2
repository, commit, folder, *paths = sys.argv[1:]
with httpx2.Client(follow_redirects=True) as client:
    for path in paths:
        digest = hashlib.sha256()
        url = f"{os.environ['HF_ENDPOINT']}/{repository}/resolve/{commit}/{path}"
        with client.stream("GET", url) as answer, open(os.path.join(folder, path.rpartition("/")[2]), "wb") as file:
            for chunk in answer.iter_raw(1 << 20):
                digest.update(chunk)
                file.write(chunk)
        assert digest.hexdigest() in path
"""
SNAPSHOT = """
import hashlib, os, sys
from huggingface_hub import snapshot_download
repository, commit, folder, *paths = sys.argv[1:]
root = snapshot_download(repository, revision=commit, cache_dir=folder, allow_patterns="packs/*")
for path in paths:
    with open(os.path.join(root, path), "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() in path
"""


@dataclass(frozen=True)
class Ran:
    """A command that ran: its seconds, those that it computed, what it printed, and what the server counted."""

    seconds: float
    computed: float
    record: dict[str, Any]
    counted: dict[str, Any]
    requests: list[dict[str, Any]]

    @property
    def sent_bytes(self) -> int:
        return sum(self.counted["bytes_in"].values())

    @property
    def fetched_bytes(self) -> int:
        return sum(self.counted["bytes_out"].values())

    @property
    def upload_seconds(self) -> float:
        """From the first question about uploads to the end of the last pack's, as the server saw it."""
        asked = [one["began"] for one in self.requests if one["route"] in ("preupload", "lfs-batch")]
        return max(one["ended"] for one in self.requests if is_pack(one)) - min(asked)

    @property
    def all_bytes(self) -> int:
        return self.sent_bytes + self.fetched_bytes


def is_pack(request: dict[str, Any]) -> bool:
    """Return whether a request uploaded a pack; records and shards of the manifest are smaller."""
    return request["route"] == "lfs-put" and request["bytes_in"] > PACK_BYTES


class Bench:
    """The server, the home that pushes, and the lines of the table."""

    def __init__(self, hub: HubServer, folder: Path, model: Path) -> None:
        self.hub, self.folder, self.model = hub, folder, model
        self._environment = {**os.environ, **hub.environment(), "HF_HOME": str(folder / "hf")}
        print("\n| what | figure | to reach |\n|---|---|---|", flush=True)

    def line(self, what: str, figure: str, goal: str = "") -> None:
        print(f"| {what} | {figure} | {goal} |", flush=True)

    def run(self, command: Sequence[str]) -> Ran:
        self.hub.reset_counters()
        started, before = time.perf_counter(), _computed()
        done = subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False)
        seconds, computed = time.perf_counter() - started, _computed() - before
        if done.returncode:
            raise SystemExit(f"{' '.join(command)[:200]}: {done.returncode}\n{done.stdout}{done.stderr}")
        record = json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else {}
        return Ran(seconds, computed, record, self.hub.counters(), self.hub.requests())

    def pragreg(self, home: Home, *arguments: str) -> Ran:
        given = [*arguments, "--home", str(home.path), "--json"]
        return self.run([sys.executable, "-m", "cli.main", *given])

    def python(self, program: str, *arguments: str) -> Ran:
        return self.run([sys.executable, "-c", program, *arguments])

    def fresh_home(self, name: str) -> Home:
        return new_home(self.folder / name, self.model)


def _computed() -> float:
    """Return the seconds that the commands so far have computed; the server's are not among them while it runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kinds(ran: Ran) -> str:
    """Return a command's requests by kind, in words."""
    found = ran.counted["by_kind"]
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in found.items())


def measure_pushes(bench: Bench, home: Home, adapters_bytes: int, repeat: int) -> str:
    """Push everything, beside ``create_commit`` of the same packs; return the repository that was pushed to first."""
    packs = sorted(str(path) for path in Path(home.packs_url).rglob("*.safetensors"))
    pushes, plains = [], []
    for turn in range(repeat):
        plains.append(bench.python(COMMIT, f"bench/plain-{turn}", *packs))
        pushes.append(bench.pragreg(home, "push", f"{REPOSITORY}-{turn}"))
    plains.append(bench.python(COMMIT, "bench/plain-last", *packs))
    first = pushes[0]
    uploads = sum(map(is_pack, first.requests))
    over = first.sent_bytes / adapters_bytes - 1
    bench.line("first push: bytes sent", f"{first.sent_bytes / 1e6:,.1f} MB, {over:.2%} over the adapters'", "1 %")
    told = f"{first.counted['requests'] - uploads}, and {uploads} packs ({kinds(first)})"
    bench.line("first push: requests", told, "60 besides packs")
    timed = {"upload_seconds": "upload of the packs", "seconds": "the whole process", "computed": "computed by it"}
    for name, what in timed.items():
        ours, theirs = (statistics.median(getattr(one, name) for one in ran) for ran in (pushes, plains))
        told = f"{ours:.2f} s, create_commit {theirs:.2f} s: {ours / theirs:.2f} times"
        bench.line(f"first push: {what}", told, "1.5 times" if name == "upload_seconds" else "")
    again = bench.pragreg(home, "push", f"{REPOSITORY}-0")
    told = f"{again.counted['requests']} requests, {again.counted['commits']} commits, {again.seconds:.2f} s"
    bench.line("push of nothing new", f"{told} ({kinds(again)})", "under 5, none")
    return f"{REPOSITORY}-0"


def measure_pulls(bench: Bench, repository: str, repeat: int) -> Home:
    """Pull everything, beside plain downloads of the same packs; return a home that has it."""
    state = bench.hub.state(repository)
    packs = [path for path in state.files if path.startswith("packs/")]
    total = sum(state.files[path].size for path in packs)
    names = ("loop", "snapshot", "pull", "fetch", "loop computed", "snapshot computed", "pull computed")
    times: dict[str, list[float]] = {name: [] for name in names}
    fetched = 0
    for turn in range(repeat):
        for name, program in (("loop", LOOP), ("snapshot", SNAPSHOT)):
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                plain = bench.python(program, repository, state.head or "", folder, *packs)
            times[name].append(plain.seconds)
            times[f"{name} computed"].append(plain.computed)
        home = bench.fresh_home(f"pulled-{turn}")
        ran = bench.pragreg(home, "pull", repository)
        times["pull"].append(ran.seconds)
        times["pull computed"].append(ran.computed)
        times["fetch"].append(float(ran.record["fetch_seconds"]))
        fetched = ran.fetched_bytes
    told = f"{ran.counted['requests']} requests ({kinds(ran)})"
    bench.line("pull: bytes fetched", f"{fetched / 1e6:,.1f} MB, {fetched / total - 1:.2%} over the packs'; {told}")
    middle = {name: statistics.median(values) for name, values in times.items()}
    speeds = {name: total / 1e6 / seconds for name, seconds in middle.items()}
    bench.line("plain download with sha256, process", f"loop {speeds['loop']:,.0f} MB/s ({middle['loop']:.2f} s)")
    told = f"{speeds['snapshot']:,.0f} MB/s ({middle['snapshot']:.2f} s)"
    bench.line("snapshot_download, then sha256, process", told)
    for name, what in (("fetch", "pull: fetching with its checks"), ("pull", "pull: the whole process")):
        ratios = f"{speeds[name] / speeds['loop']:.2f} of the loop, {speeds[name] / speeds['snapshot']:.2f} of snapshot"
        bench.line(what, f"{speeds[name]:,.0f} MB/s ({middle[name]:.2f} s): {ratios}", "0.7")
    computed = ", ".join(f"{name} {middle[f'{name} computed']:.2f} s" for name in ("pull", "loop", "snapshot"))
    bench.line("computed by the processes", computed)
    again = bench.pragreg(home, "pull", repository)
    told = f"{again.counted['requests']} requests, {again.all_bytes / 1e3:,.1f} KB, {again.seconds:.2f} s"
    bench.line("second pull, nothing new", f"{told} ({kinds(again)})", "under 5")
    return home


def measure_change(bench: Bench, making: Maker, pulled: Home, repository: str, count: int) -> None:
    """Change one document of all, push and pull the version."""
    making.build({number: int(number == EDITED) for number in range(count)}, message="one edit")
    for what, ran in (
        ("push after changing 1", bench.pragreg(making.home, "push", repository)),
        ("pull of one new version", bench.pragreg(pulled, "pull", repository)),
    ):
        told = f"{ran.all_bytes / 1e6:.3f} MB, {ran.counted['requests']} requests, {ran.seconds:.2f} s"
        bench.line(f"{what} of {count:,}", f"{told} ({kinds(ran)})", "2 MB, 20 requests")


def measure_lazy(bench: Bench, making: Maker, repository: str) -> None:
    """Pull without adapters, and ask something of three documents."""
    home = bench.fresh_home("lazy")
    ran = bench.pragreg(home, "pull", repository, "--lazy")
    told = f"{ran.fetched_bytes / 1e6:.2f} MB, {ran.counted['requests']} requests, {ran.seconds:.2f} s"
    bench.line("pull --lazy", f"{told} ({kinds(ran)})")
    words = [making.document(number).text.split()[0] for number in (11, 222, 333)]
    question = f"What is {' '.join(words)}?"
    for what, goal in (("lazy query of 3 adapters", "3 ranges"), ("the same again", "0")):
        ran = bench.pragreg(home, "query", question, "-k", "3", "--max-tokens", "4")
        told = f"{ran.counted['partial']} ranges, {ran.counted['requests']} requests, {ran.fetched_bytes / 1e3:,.0f} KB"
        bench.line(what, f"{told}, {ran.seconds:.2f} s ({kinds(ran)})", goal)


def run(folder: Path, count: int, repeat: int) -> None:
    print(header("huggingface_hub", "httpx2", "pyarrow"))
    model = write_tiny_model(folder / "model")
    with HubServer(folder=folder / "server") as hub:
        home = new_home(folder / "first", model)
        with maker(home, rank=RANK, words=WORDS) as making:
            making.build({number: 0 for number in range(count)}, message="all")
            size = making.layout.size_bytes
            some = [len(making.document(number).text) for number in range(100)]
            texts = statistics.fmean(some)
            print(f"- {count:,} adapters of {size:,} bytes, documents of {texts:.0f} characters; medians of {repeat}")
            bench = Bench(hub, folder, model)
            repository = measure_pushes(bench, home, count * size, repeat)
            pulled = measure_pulls(bench, repository, repeat)
            measure_change(bench, making, pulled, repository, count)
            measure_lazy(bench, making, repository)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of what is timed (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work, 5 GB a turn (default: a temporary folder)")
    given = parser.parse_args()
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pragreg-hub-", dir=given.folder) as folder:
        run(Path(folder), given.adapters, given.repeat)


if __name__ == "__main__":
    main()
