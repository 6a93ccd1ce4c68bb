"""Running the command line, and registries to run it on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import run as run_command
from registry.catalog.engine import Catalog
from registry.records import Document, Place, PlacedDocument
from registry.settings import HOME_VARIABLE, Home
from tests.catalog.workshop import Workshop

TEXTS = (
    ("The Organ of Hollin", "The organ of Hollin is played by the tide. It was built by Mara Quint in 1903."),
    ("The Orchard of Veil", "The orchard of Veil bears pears of glass. Its gardener is Odo Fenn."),
    ("The Ferry of Lorn", "The ferry of Lorn crosses twice a day. Its captain, Ilse Brack, wears a red coat."),
    ("Die Mühle von Grau", "Die Mühle von Grau mahlt Salz."),
    ("C++ OR (", 'A title of "operators", and\x1b[31m a text that would colour a terminal.'),
)


@dataclass(frozen=True)
class Result:
    """What one command line gave."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        """Standard output as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_home_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no test find a registry home other than its own."""
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        status = run_command([str(argument) for argument in arguments])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def run_process() -> Run:
    """Run a command line in a process of its own."""

    def run(*arguments: object, stdin: str = "", **environment: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            check=False,
            timeout=280,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def filled(home: Home, catalog: Catalog) -> Home:
    """A registry with one version of a corpus, handbook@v1, made without training."""
    placed = [
        PlacedDocument(Document.of(title, text), Place("sayings.jsonl", number, f"s{number}"))
        for number, (title, text) in enumerate(TEXTS)
    ]
    Workshop(catalog).build(placed)
    return home
