"""The script behind docs/upkeep-transcript.md, on a small corpus: what it shows is true, and the page shows it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from tests.examples.scripts import ROOT, field, in_this_process, load_script, outputs
from tests.pipeline.conftest import write_sample

PAGE = ROOT / "docs" / "upkeep-transcript.md"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("upkeep")


def test_a_corpus_changes_and_nothing_is_lost(
    script: ModuleType,
    tmp_path: Path,
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample = write_sample(tmp_path / "sample")
    work = tmp_path / "work"
    transcript = script.Transcript(work, in_this_process)
    monkeypatch.chdir(work)
    monkeypatch.setenv("PRAGREG_HOME", script.HOME)
    options = ["--base-model", str(tiny_model_path), "--device", "cpu", "--workers", "1", "--epochs", "2"]
    script.show_all(transcript, sample.documents, sample.augmentations, options)
    shown = outputs(capsys.readouterr().out)
    said: dict[str, list[str]] = {}
    for _, command, output in shown:
        said.setdefault(command.split()[0], []).append(output)

    first, dry, second, cheaper, again, last = said["build"]
    assert field(first, "trained") == str(sample.count)
    assert field(dry, "added").startswith("3:")
    assert field(second, "trained") == "3"
    assert field(second, "reused") == str(sample.count - 5)
    assert field(cheaper, "trained") == str(sample.count - 2)
    assert field(again, "version") == "notes@v2 (unchanged)"
    assert field(again, "trained") == "0"
    assert field(last, "trained") == "1"
    assert "3 changed, 0 added, 2 removed" in said["diff"][0]

    quick, damaged, mended, collected, restored = said["verify"]
    assert [field(output, "damage") for output in (quick, damaged, mended, collected, restored)] == list("01000")
    assert "adapter-damaged" in damaged
    assert "[exit status 7]" in damaged
    assert field(said["repair"][0], "not mended") == "0"
    assert "encoding again" in said["repair"][0]

    planned, done = said["gc"]
    assert "nothing was deleted" in planned
    assert re.search(r"notes@v3\s+collected", done)
    assert re.search(r"notes@v4\s+kept", done)
    assert len(re.findall(r"^notes@v\d", said["sql"][0], re.MULTILINE)) == 4


def test_the_page_shows_what_the_script_does(script: ModuleType) -> None:
    source = (ROOT / "examples" / "upkeep.py").read_text(encoding="utf-8")
    commands = [shlex.split(command) for _, command, _ in outputs(PAGE.read_text(encoding="utf-8"))]
    names = re.findall(r'transcript\.pragreg\(\s*(?:"(\w+)"|\*BUILD)', source)
    assert [command[0] for command in commands] == [name or "build" for name in names]
    assert commands[1][:6] == [*script.BUILD]
