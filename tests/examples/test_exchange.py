"""The script behind docs/hub-transcript.md, on a small corpus: two homes exchange it, and nothing is lost."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from tests.examples.scripts import ROOT, field, in_this_process, load_script, outputs
from tests.hub.server import HubServer
from tests.pipeline.conftest import write_sample

PAGE = ROOT / "docs" / "hub-transcript.md"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("exchange")


def test_two_homes_exchange_a_corpus(
    script: ModuleType,
    tmp_path: Path,
    tiny_model_path: Path,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample = write_sample(tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRAGREG_HOME", script.HOME)
    monkeypatch.setattr(script, "SLOW_BYTES", 20_000)
    exchange = script.Exchange(tmp_path / "work", sample.documents, sample.augmentations, hub, in_this_process)
    options = ["--base-model", str(tiny_model_path), "--device", "cpu", "--workers", "1", "--epochs", "2"]
    exchange.show_all(options, "What is in the amber ledger?")
    shown = outputs(capsys.readouterr().out)

    def said(person: str, command: str) -> list[str]:
        return [output for who, line, output in shown if who == person and line.split()[0] == command]

    killed, _, nothing_new, *_ = said("bob", "pull")
    assert "[exit status -9]" in killed
    assert "nothing new" in nothing_new
    assert said("alice", "query")[0] == said("bob", "query")[0]
    assert said("alice", "query")[0] == said("carol", "query")[0]
    assert [field(output, "trained") for output in said("bob", "build")] == ["2", "1"]
    assert field(said("alice", "build")[1], "trained") == "0"
    for person in ("alice", "bob"):
        assert [field(output, "damage") for output in said(person, "verify")] == ["0"] * len(said(person, "verify"))
    digests = [field(said(person, "show")[0], "digest") for person in ("alice", "bob")]
    assert digests[0] == digests[1]
    assert "[exit status 7]" in said("dave", "pull")[0]
    assert "[exit status 7]" in said("alice", "pull")[-1]
    assert "notes" not in said("dave", "corpora")[0]


def test_the_page_shows_what_the_script_does() -> None:
    source = (ROOT / "examples" / "exchange.py").read_text(encoding="utf-8")
    commands = [shlex.split(line) for _, line, _ in outputs(PAGE.read_text(encoding="utf-8"))]
    assert {command[0] for command in commands} >= set(re.findall(r'pragreg\(\s*"(\w+)"', source))
