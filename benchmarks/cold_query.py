"""Where the time of one cold `pragreg query` goes: `python -m benchmarks.cold_query --home FOLDER [--runs N]`.

The home has a corpus whose base model is converted (`make demo` makes one in .demo). Every run is a process of its own
with a clock on its parts (`benchmarks.cold_parts`); shown are medians, as the clock has it and of the process' own
work, which differ where cores are waited for or several work. What the libraries do for us (importing themselves,
reading tokenizer and weights) is kept apart from what is ours, and from what the model computes, which is nobody's
overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import header

ROOT = Path(__file__).resolve().parents[1]
RUNS = 10
QUESTION = "What scent filled the air during the Amber Fog?"
FUNCTIONS = {
    "the catalog: opened, asked, written": {
        "registry.catalog.engine": ["open_catalog"],
        "registry.catalog.recipes": ["get_recipe", "get_base_model"],
        "registry.catalog.references": ["resolve_open"],
        "registry.catalog.members": ["members_by_document", "withheld_documents"],
        "registry.catalog.adapters": ["find_locations"],
        "registry.catalog.queries": ["log_query"],
    },
    "the index: opened, searched": {"registry.index.version_index": ["VersionIndex.open", "VersionIndex.search"]},
    "the base model: found, its identity checked": {
        "registry.base_model.location": ["locate"],
        "registry.base_model.identity": ["fingerprint"],
    },
    "adapters: read, checked, merged": {
        "registry.store.packs": ["PackStore.read"],
        "registry.merging.products": ["inner_products"],
        "registry.generation.entries": ["Entries._place"],
    },
    "the runner: weights packed": {"registry.generation.runners.choosing": ["make_runner"]},
    "compiled loops, from Numba's cache": {"numba.core.dispatcher": ["Dispatcher.compile"]},
    "numba: its types and operations": {"numba.core.base": ["BaseContext.refresh"]},
    "sqlalchemy: tables mapped": {"sqlalchemy.orm.decl_api": ["DeclarativeBase.__init_subclass__"]},
    "transformers: the tokenizer": {"registry.base_model.loading": ["_load_tokenizer"]},
    "transformers: config and weights": {"registry.base_model.loading": ["_load_model"]},
    "the model: the prompt, to the first token": {
        "registry.generation.runners.processor.runner": ["ProcessorRunner.prefill"]
    },
    "the model: the other tokens": {"registry.generation.runners.processor.runner": ["ProcessorRunner.decode"]},
}
LIBRARIES = ("python", "import", "transformers", "numba", "sqlalchemy")
MODEL = ("the model",)


@dataclass(frozen=True)
class Run:
    """One process: seconds of every part by the clock and of work, and of the whole."""

    parts: dict[str, tuple[float, float]]
    elapsed_seconds: float


def patches() -> dict[str, dict[str, str]]:
    """Return ``FUNCTIONS`` by module."""
    found: dict[str, dict[str, str]] = {}
    for part, modules in FUNCTIONS.items():
        for module, names in modules.items():
            found.setdefault(module, {}).update(dict.fromkeys(names, part))
    return found


def run_once(home: Path, question: str, options: list[str]) -> Run:
    """Ask in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="pragreg-benchmark-") as folder:
        file = Path(folder) / "parts.json"
        started = time.perf_counter()
        query = ["query", question, "--home", str(home), *options]
        command = [
            sys.executable,
            "-m",
            "benchmarks.cold_parts",
            str(file),
            str(started),
            json.dumps(patches()),
            *query,
        ]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT})
        elapsed_seconds = time.perf_counter() - started
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    parts = {name: (seconds, worked) for name, (seconds, worked) in told["seconds"].items() if name}
    parts["python ends"] = (started + elapsed_seconds - told["ended"], 0.0)
    return Run(parts, elapsed_seconds)


ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""As `pragreg` itself sets it before torch is there."""


def owner(part: str) -> str:
    """Return whose a part is."""
    if part == "import ours" or not part.startswith((*LIBRARIES, *MODEL)):
        return "ours"
    return "model" if part.startswith(MODEL) else "libraries"


def table(runs: list[Run]) -> str:
    """Return medians of the parts, by owner, largest first."""
    names = sorted({name for run in runs for name in run.parts})

    def median(name: str, index: int) -> float:
        return statistics.median(run.parts.get(name, (0.0, 0.0))[index] for run in runs)

    lines = ["| part | whose | time | work |", "|---|---|---:|---:|"]
    for whose in ("libraries", "model", "ours"):
        own = sorted((name for name in names if owner(name) == whose), key=lambda name: -median(name, 0))
        lines += [f"| {name} | {whose} | {median(name, 0):.3f} s | {median(name, 1):.3f} s |" for name in own]
    for whose in ("libraries", "model", "ours"):
        sums = [
            statistics.median(
                sum(part[index] for name, part in run.parts.items() if owner(name) == whose) for run in runs
            )
            for index in (0, 1)
        ]
        lines.append(f"| **all of: {whose}** | | {sums[0]:.3f} s | {sums[1]:.3f} s |")
    whole = statistics.median(run.elapsed_seconds for run in runs)
    lines.append(f"| **the whole process** | | {whole:.3f} s | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("options", nargs="*", help="further options of `pragreg query`, after --")
    options = parser.parse_args()
    print(header("numba"))
    run_once(options.home, options.question, options.options)  # files are in the page cache from now on
    runs = [run_once(options.home, options.question, options.options) for _ in range(options.runs)]
    print(f"\n`pragreg query`, {len(runs)} runs\n\n{table(runs)}")


if __name__ == "__main__":
    main()
