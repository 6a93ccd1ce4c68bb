"""The script behind docs/serving-transcript.md, with the tiny model: the openai client asks a real server."""

from __future__ import annotations

import re
import shlex
import socket
from pathlib import Path
from types import ModuleType

import pytest

from tests.examples.scripts import ROOT, in_this_process, load_script, outputs

PAGE = ROOT / "docs" / "serving-transcript.md"
SESSION = r"```python\n(.*?)\n```\n```text\n(.*?)\n```"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("serve")


def test_a_corpus_is_asked_by_the_openai_client(
    script: ModuleType,
    tmp_path: Path,
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRAGREG_HOME", script.HOME)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "to be restored")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--base-model", str(tiny_model_path), "--device", "cpu", "--workers", "1", "--epochs", "1"]
    script.Serving(tmp_path / "work", port, in_this_process).show_all(options)
    page = capsys.readouterr().out
    models, plain, stream, combined, moved, refused, found, metrics = (
        output for _, output in re.findall(SESSION, page, re.DOTALL)
    )

    assert models.split() == ["isles", "isles@latest", "isles@production", "isles@v2", "isles@v1"]
    answer, *_ = plain.rpartition("\n")[0].splitlines()
    assert "isles@v1 prag" in plain
    assert "The Amber Fog: score" in plain
    (told,) = [output for _, command, output in outputs(page) if command.startswith("query")]
    assert told.strip() == answer
    assert stream.endswith("from isles@v1")
    assert stream.replace("|", "").startswith(answer)
    assert combined.endswith("1 hit")
    assert moved.startswith("isles@production is isles@v2:")
    assert "\nisles@v1 is isles@v1:" in moved
    assert re.findall(r"^\w+ \d+", refused, re.MULTILINE) == [
        "AuthenticationError 401",
        "NotFoundError 404",
        "BadRequestError 400",
        "BadRequestError 400",
    ]
    assert '"title": "Sallowpot"' in found
    assert 'pragreg_requests_total{path="/v1/chat/completions",status="200"} 5.0' in metrics
    assert script.QUESTION not in page[page.index("From its log") :]
    assert re.search(r"pragreg-[\w-]{43}", page) is None


def test_the_page_shows_what_the_script_does() -> None:
    source = (ROOT / "examples" / "serve.py").read_text(encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    commands = [shlex.split(line)[0] for _, line, _ in outputs(page)]
    assert set(commands) >= {"build", "keys", "serve", *re.findall(r'pragreg\(\s*"(\w+)"', source)}
    assert len(re.findall(SESSION, page, re.DOTALL)) == len(re.findall(r"self\.python\(", source))
