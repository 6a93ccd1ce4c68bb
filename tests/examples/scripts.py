"""What the tests of the scripts in examples/ share: loading one, and reading the transcript that it prints."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

from cli.main import run as run_command

ROOT = Path(__file__).parents[2]


def load_script(name: str) -> ModuleType:
    """Import examples/NAME.py with its own folder on the path, as for who runs it."""
    folder = str(ROOT / "examples")
    spec = importlib.util.spec_from_file_location(f"{name}_script", f"{folder}/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def in_this_process(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command line without a process of its own, which would import torch each time."""
    os.chdir(folder)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = run_command(arguments)
    return status, output.getvalue()


def outputs(transcript: str) -> list[tuple[str, str, str]]:
    """Return the commands of a transcript: who typed each ("" for nobody by name), and what it printed."""
    return re.findall(r"```console\n(\w*)\$ pragreg ([^\n]*)\n(.*?)```", transcript, re.DOTALL)


def field(output: str, name: str) -> str:
    """Return the value that a command printed beside a name."""
    match = re.search(rf"^{re.escape(name)}  +(.*)$", output, re.MULTILINE)
    assert match is not None, output
    return match[1].strip()
