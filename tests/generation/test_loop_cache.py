"""Loops are compiled once on a machine: the next process finds them in Numba's cache."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "registry").rglob("*.py")
    if "_loop\ndef " in path.read_text(encoding="utf-8")
)


def test_there_are_loops() -> None:
    assert "registry.generation.runners.processor.loops" in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_no_loop_closes_over_anything(module: str) -> None:
    """Numba puts what a function closes over into the key of its cache, and another loop is another key each time."""
    loops = [value for value in vars(import_module(module)).values() if isinstance(value, Dispatcher)]
    assert loops
    assert [loop.py_func.__name__ for loop in loops if loop.py_func.__closure__] == []
