"""gc in hard times: killed at every point, and beside builds, readers and other gcs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import ROOT, Sample, write_sample


def run(program: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(program)), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_gc_killed_at_every_point_loses_nothing_and_the_next_ends_the_same(tmp_path: Path) -> None:
    result = run("killed_collections.py", tmp_path / "home")
    assert result["wrong"] == []
    assert result["killed"] > 30
    assert result["end"]["open"] == ["handbook@v2", "handbook@v5"]
    assert len(result["end"]["packs"]) == 2


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return write_sample(tmp_path / "sample")


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_builds_gcs_and_readers_do_not_disturb_each_other(
    tmp_path: Path, sample: Sample, tiny_model_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgres" else "sqlite:///catalog.sqlite"
    result = run("crowd.py", tmp_path / "home", url, sample.documents.parent, tiny_model_path, 7, 2)
    assert result["statuses"] == [0] * 5
    assert set(result["before"]["whole"]) == {"one", "two"}
    assert result["before"]["missing"] == []
    # The state has read whole what was not collected; now alone, gc leaves no file that no row names.
    after = result["after"]
    assert all(1 <= kept < total for kept, total in after["whole"].values())
    assert (after["missing"], after["unnamed"]) == ([], [])
