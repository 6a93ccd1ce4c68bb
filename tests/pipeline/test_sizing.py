"""What a build trains at once and where: within the memory that is named, alike in every build."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.catalog.listing import list_adapters, show_adapter
from registry.catalog.members import members
from registry.errors import UsageError
from registry.pipeline.build import BuildSummary
from registry.pipeline.opened import opened
from registry.progress import Silent
from registry.settings import Home
from tests.pipeline.conftest import ROOT, TEXTS, Sample

Builder = Callable[..., BuildSummary]
# Adapters of 14 MB, about eight copies each while they are trained.
LARGE = {"rank": 4096, "epochs": 1, "first_layer": 0}
BUILD = """
import json, sys
from pathlib import Path
from cli.main import run
status = run(json.loads(sys.argv[1]))
# Of this process alone: what getrusage tells begins with what the parent had.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, file=sys.stderr)
sys.exit(status)
"""


def adapters_of(home: Home) -> dict[str, str]:
    with opened(home) as registry, registry.catalog.read() as session:
        return {document.digest: adapter for document, adapter in members(session, registry.version("default"))}


def group_sizes(home: Home) -> set[int]:
    with opened(home) as registry, registry.catalog.read() as session:
        lines = list_adapters(session, limit=None)
        return {show_adapter(session, line.digest).adapter.training.group_size for line in lines}


def peak_bytes(home: Home, sample: Sample, model: Path, *more: str) -> int:
    """Build in a process of its own, without workers, and return the most memory that it had."""
    arguments = ["build", str(sample.documents), "--home", str(home.path), "--augmenter"]
    arguments += [f"import:{sample.augmentations}", "--base-model", str(model), "--dtype", "float32", "--device", "cpu"]
    arguments += ["--workers", "1", *(f"--set={name}={value}" for name, value in LARGE.items()), *more]
    done = subprocess.run(
        [sys.executable, "-c", BUILD, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process' memory")
def test_a_build_stays_within_the_memory_that_is_named(
    home: Home, other_home: Home, sample: Sample, tiny_model_path: Path
) -> None:
    assert peak_bytes(home, sample, tiny_model_path, "--memory", "1GB") < 1_000_000_000
    peak_bytes(other_home, sample, tiny_model_path)
    assert max(group_sizes(home)) < max(group_sizes(other_home))
    assert adapters_of(home).keys() == adapters_of(other_home).keys()


def test_a_group_size_that_is_named_is_trained_in_parts_that_fit(home: Home, run_build: Builder) -> None:
    run_build(group_size=8, memory_bytes=1_000_000_000, settings=LARGE)
    assert max(group_sizes(home)) < len(TEXTS)


def test_too_little_memory_is_refused_with_what_would_do(run_build: Builder) -> None:
    with pytest.raises(UsageError, match=r"--memory 0\.20GB is too little") as raised:
        run_build(group_size=None, memory_bytes=200_000_000)
    assert "--memory" in (raised.value.hint or "")


def test_where_no_number_is_named_fewer_workers_share_little_memory(home: Home, run_build: Builder) -> None:
    run_build(group_size=2, workers=None, memory_bytes=1_000_000_000, device="cpu")
    with pytest.raises(UsageError, match="2 workers"):
        run_build(group_size=2, workers=2, memory_bytes=1_000_000_000, settings={"rank": 3})


def test_a_device_for_each_worker_gives_the_same_adapters(home: Home, other_home: Home, run_build: Builder) -> None:
    run_build()
    run_build(home=other_home, device="cpu,cpu", workers=None)
    assert adapters_of(home) == adapters_of(other_home)


def test_an_unknown_device_among_several_is_refused(run_build: Builder) -> None:
    with pytest.raises(UsageError, match="mars"):
        run_build(device="cpu,mars", workers=None)


def test_the_chosen_size_is_the_same_in_every_home_and_after_an_interruption(
    home: Home, other_home: Home, run_build: Builder, sample: Sample
) -> None:
    first = run_build(group_size=None)
    documents = sample.documents.read_text()
    half = "".join(documents.splitlines(keepends=True)[::2])
    assert first.trained == sample.count
    sample.documents.write_text(documents + half)  # places, not documents
    assert run_build(home=other_home, group_size=None).version.digest == first.version.digest


def test_a_large_build_measures_once_and_remembers(
    home: Home, run_build: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listening(Silent):
        said: list[str]

        def __init__(self) -> None:
            self.said = []

        def say(self, text: str) -> None:
            self.said.append(text)

    monkeypatch.setattr("registry.pipeline.sizing.LARGE_BUILD", len(TEXTS))
    first, second = Listening(), Listening()
    run_build(group_size=None, progress=first)
    assert any("measuring" in text for text in first.said)
    remembered = json.loads((home.models_path / "group-sizes.json").read_text())
    (measured,) = remembered.values()
    assert str(measured["size"]) in measured["seconds"]
    assert all(seconds > 0 for seconds in measured["seconds"].values())
    run_build(group_size=None, progress=second, settings={"learning_rate": 1e-3})
    assert not any("measuring" in text for text in second.said)
