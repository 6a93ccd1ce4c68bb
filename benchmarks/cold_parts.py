"""One command of pragreg in this process, with a clock on its parts: what `benchmarks.cold_query` starts.

Every moment from the start of the process belongs to exactly one part. Modules are timed as Python executes them: what
a library imports is that library's. Functions are timed from outside, by putting a timed one in their place as soon as
their module is there, so the program itself knows nothing of it. It is the main thread's time: what runs beside it
counts where it is waited for.
"""

from __future__ import annotations

import importlib._bootstrap_external as loaders
import json
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

OURS = ("registry", "cli", "migrations")
LIBRARIES = ("torch", "transformers", "tokenizers", "sqlalchemy", "numba", "llvmlite", "tantivy", "numpy")
PARTS: dict[str, dict[str, str]] = {}
"""By module, functions and the parts that they are; ``Class.method`` names a method."""


class Clock:
    """Charges time as the clock has it, and of this process' own work, to the innermost part."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._parts = ["python starts"]
        self._mark = (started, 0.0)

    def enter(self, part: str) -> None:
        self._charge()
        self._parts.append(part)

    def leave(self) -> None:
        self._charge()
        self._parts.pop()

    @property
    def part(self) -> str:
        return self._parts[-1]

    def begin(self, part: str) -> None:
        """Let another part be the outermost from now on."""
        self._charge()
        self._parts[0] = part

    def _charge(self) -> None:
        now = (time.perf_counter(), time.process_time())
        spent = self.seconds.setdefault(self.part, [0.0, 0.0])
        for index, (after, before) in enumerate(zip(now, self._mark, strict=True)):
            spent[index] += after - before
        self._mark = now


def time_imports(clock: Clock) -> None:
    """Have the execution of every module charged to its library, or to us."""
    for kind in (loaders.SourceFileLoader, loaders.ExtensionFileLoader):
        kind.exec_module = _timed_loading(clock, kind.exec_module)  # type: ignore[method-assign]


def _timed_loading(clock: Clock, execute: Callable[[Any, ModuleType], None]) -> Callable[[Any, ModuleType], None]:
    def exec_module(loader: Any, module: ModuleType) -> None:
        top = module.__name__.partition(".")[0]
        is_ours = top in OURS
        part = f"import {top if top in LIBRARIES else 'ours' if is_ours else 'others'}"
        # What a library imports is its own, but not what it calls back of us.
        within = clock.part.startswith("import ") and clock.part != "import ours" and not is_ours
        clock.enter(clock.part if within else part)
        try:
            execute(loader, module)
        finally:
            clock.leave()
        for name, timed in PARTS.get(module.__name__, {}).items():
            _time(clock, module, name, timed)

    return exec_module


def _time(clock: Clock, module: ModuleType, name: str, part: str) -> None:
    holder: Any = module
    *path, last = name.split(".")
    for step in path:
        holder = getattr(holder, step)
    function = holder.__dict__[last]
    if isinstance(function, (classmethod, staticmethod)):
        setattr(holder, last, type(function)(_timed(clock, function.__func__, part)))
    else:
        setattr(holder, last, _timed(clock, function, part))


def _timed(clock: Clock, function: Callable[..., Any], part: str) -> Callable[..., Any]:
    @wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return function(*arguments, **options)
        clock.enter(part)
        try:
            return function(*arguments, **options)
        finally:
            clock.leave()

    return timed


def main() -> None:
    file, started, parts, *arguments = sys.argv[1:]
    PARTS.update(json.loads(parts))
    clock = Clock(float(started))
    clock.begin("the rest")
    time_imports(clock)
    sys.argv = ["pragreg", *arguments]
    from cli.main import main as pragreg

    try:
        pragreg()
    finally:
        clock.begin("")
        with open(file, "w", encoding="utf-8") as written:
            json.dump({"seconds": clock.seconds, "ended": time.perf_counter()}, written)


if __name__ == "__main__":
    main()
