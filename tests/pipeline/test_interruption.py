"""SIGKILL at any moment: nothing half done is visible, and the end is the same as undisturbed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import ROOT, Sample

KILLS = 20


def run(home: Path, sample: Sample, base_model: Path, kills: int) -> dict[str, Any]:
    script = Path(__file__).with_name("killed_builds.py")
    arguments = [str(home), str(sample.documents), str(sample.augmentations), str(base_model), "7", str(kills)]
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_a_build_killed_at_many_points_ends_as_an_undisturbed_one(
    tmp_path: Path, sample: Sample, tiny_model_path: Path
) -> None:
    undisturbed = run(tmp_path / "undisturbed", sample, tiny_model_path, kills=0)
    killed = run(tmp_path / "killed", sample, tiny_model_path, kills=KILLS)
    assert killed["finished"] < KILLS - 4, "most builds must really have been killed"
    for name in ("version", "digest", "members", "hits"):
        assert killed[name] == undisturbed[name]
    assert len(killed["members"]) == sample.count
