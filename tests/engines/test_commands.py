"""``pragreg search --retrieval`` and ``pragreg export --vllm``."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cli.main import run as run_command
from registry.pipeline.retrievals import recall
from registry.settings import Home
from tests.engines.vllm_protocol import load_folder
from tests.hub.maker import maker, new_home

SEARCH = """
import json, sys
from cli.main import run
status = run(sys.argv[1:])
print(json.dumps([status, sorted(set(sys.modules) & {"sqlalchemy", "torch", "numpy", "transformers"})]))
"""


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


@pytest.fixture
def run(engine_home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line on the home."""
    monkeypatch.setenv("PRAGREG_HOME", str(engine_home.path))

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        return Result(run_command([str(argument) for argument in arguments]), *capsys.readouterr())

    return run


def test_from_a_search_to_a_folder_that_vllm_serves(
    run: Run, engine_home: Home, tiny_model_path: Path, tmp_path: Path
) -> None:
    found = run("search", "Note 4", "-k", 2, "--corpus", "default@production", "--retrieval", "--merge", "uniform")
    assert found.status == 0
    digest = found.out.splitlines()[-1].removeprefix("retrieval ")
    rows = run(
        "search", "Note 4", "-k", 2, "--corpus", "default@v1", "--retrieval", "--merge", "uniform", "--json"
    ).rows
    assert [row["retrieval"] for row in rows] == [digest, digest]
    retrieval = recall(engine_home, digest)
    assert retrieval is not None
    assert [(one.document, one.factor) for one in retrieval.documents] == [(row["digest"], 1.0) for row in rows]

    exported = run("export", "--vllm", digest, "--out", tmp_path / "out")
    assert exported.status == 0, exported.err
    words = shlex.split(exported.out)
    assert words[:4] == ["vllm", "serve", str(tiny_model_path), "--enable-lora"]
    assert json.loads(words[-1]) == {"name": digest, "path": str(tmp_path / "out")}
    assert "wrote 1 folder" in exported.err
    load_folder(tmp_path / "out", max_lora_rank=8)


def test_json_has_the_command_and_what_is_in_each_folder(run: Run, tmp_path: Path) -> None:
    adapters = [row["digest"] for row in run("adapters", "list", "--json").rows[:2]]
    (row,) = run("export", "--vllm", *adapters, "--out", tmp_path / "out", "--json").rows
    assert shlex.split(row["command"])[0] == "vllm"
    assert [folder["adapters"] for folder in row["folders"]] == [[[digest, 1.0]] for digest in adapters]
    assert [folder["rank"] for folder in row["folders"]] == [8, 8]
    assert {Path(folder["folder"]).parent for folder in row["folders"]} == {tmp_path / "out"}


def test_a_search_that_remembers_stays_quick(run: Run, engine_home: Home) -> None:
    assert run("search", "Note 4").status == 0  # makes the index
    arguments = ["search", "Note 4", "--retrieval", "--json", "--home", str(engine_home.path)]
    done = subprocess.run([sys.executable, "-c", SEARCH, *arguments], capture_output=True, text=True, check=True)
    *hits, last = map(json.loads, done.stdout.splitlines())
    assert last == [0, []]
    assert recall(engine_home, hits[0]["retrieval"]) is not None


def test_without_a_hit_nothing_is_remembered(run: Run, engine_home: Home) -> None:
    found = run("search", "zzz", "--retrieval")
    assert (found.status, found.out) == (0, "")
    assert not (engine_home.path / "retrievals").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("search", "Note 4", "--merge", "uniform"), 2, "--merge goes with --retrieval"),
        (("search", "Note 4", "--retrieval", "--merge", "odd"), 2, "no weighting 'odd'"),
        (("export", "1f2e", "--merge", "uniform", "--out", "x"), 2, "--merge goes with --vllm"),
        (("export", "--vllm", "nobody:1f2e", "--out", "x"), 5, "there is no corpus 'nobody'"),
        (("export", "--vllm", "default@v1:00000000", "--out", "x"), 5, "there is no document 00000000"),
        (("export", "--vllm", "default@v1:../..", "--out", "x"), 5, "is no CORPUS@REF:DOCUMENT"),
        (("export", "--vllm", "0" * 64, "--out", "x"), 5, "there is no adapter 0000"),
    ],
)
def test_what_is_wrong_is_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert (done.status, done.out) == (status, "")
    assert message in done.err
    assert "try: " in done.err
    assert not (tmp_path / "x").exists()


def test_one_command_serves_one_base_model(
    run: Run, engine_home: Home, tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    other = new_home(tmp_path / "other", family_path("mistral"))
    foreign = replace(engine_home, base_model=other.base_model)
    with maker(foreign) as made:
        made.build({20: 0}, corpus="other")
    adapters = [run("adapters", "list", "--corpus", name, "--json").rows[0]["digest"] for name in ("default", "other")]
    done = run("export", "--vllm", *adapters, "--out", tmp_path / "out")
    assert done.status == 2
    assert "belong to 2 base models" in done.err
    assert not (tmp_path / "out").exists()


def test_too_many_documents_for_any_rank_are_refused(run: Run, tiny_model_path: Path, tmp_path: Path) -> None:
    home = new_home(tmp_path / "large", tiny_model_path)
    with maker(home, rank=20) as made:
        made.build(dict.fromkeys(range(26), 0))
    rows = run("documents", "list", "--json", "--home", home.path).rows
    name = "default:" + ",".join(row["digest"][:10] for row in rows)
    done = run("export", "--vllm", name, "--out", tmp_path / "out", "--home", home.path)
    assert done.status == 2
    assert "would have rank 520" in done.err
