"""Kills, full disks, read errors and damaged packs: `python -m benchmarks.faults [--kills 200] [--seed 0]`.

A small registry (tiny random Llama, three versions, an alias and a pin) is copied for every case; a command runs in a
process of its own and meets a fault; then everything that was committed before is read back and hashed, `verify` and
`repair` run, the command is given again, and the registry must equal the one in which nothing went wrong: the same
versions, members, aliases and pins, every adapter readable with its digest, every index answering alike.

Kills are SIGKILL, half at a random moment of the command's time, half at a random call that changes a file (write,
sync, rename, link, unlink). Full disks are ENOSPC from a random write on, read errors EIO at a random read below the
home. Both come from `faults.c`, which is compiled here and preloaded, so SQLite, tantivy and Python meet them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faulty import (
    FULL,
    KILL,
    LIBRARY,
    UNREADABLE,
    Operation,
    Ran,
    Registry,
    copy,
    make_operations,
    run,
    state,
    undisturbed_run,
    unreadable,
)

HERE = Path(__file__).parent
COUNTED = {KILL: "changes of files", FULL: "writes", UNREADABLE: "reads"}
FAULTS = {"killed": KILL, "disk full": FULL, "read error": UNREADABLE}


@dataclass
class Tally:
    """What happened in all cases of one fault and operation."""

    runs: int = 0
    failed: int = 0
    unreadable: int = 0
    unequal: int = 0
    tracebacks: int = 0
    mended: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Compile, preload, and run every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("kills", 200), ("full", 50), ("unreadable", 50), ("damaged", 20), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--keep", action="store_true", help="keep the folders of cases that end badly")
    options = parser.parse_args()
    if LIBRARY not in os.environ:
        _preload()
    try:
        with tempfile.TemporaryDirectory(prefix="pragreg-faults-") as folder:
            run_all(Path(folder), options)
    finally:
        shutil.rmtree(Path(os.environ[LIBRARY]).parent)


def _preload() -> None:
    library = Path(tempfile.mkdtemp(prefix="pragreg-faults-so-")) / "faults.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "faults.c"), "-ldl"], check=True)
    # Everything is imported once and every command is a fork, so that a fault costs no start-up.
    changes = {LIBRARY: str(library), "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]], os.environ | changes)


def run_all(folder: Path, options: argparse.Namespace) -> None:
    """Run every case and print the table."""
    from benchmarks.machine import header

    _import_everything()
    print(header(), flush=True)
    chance = random.Random(options.seed)
    operations = make_operations(folder)
    undisturbed = {one.name: undisturbed_run(folder, one) for one in operations}
    for one in operations:
        runs, _ = undisturbed[one.name]
        calls = ", ".join(f"{runs[kind].calls} {name}" for kind, name in COUNTED.items())
        print(f"- {one.name} undisturbed: {runs[KILL].seconds:.2f} s, {calls}", flush=True)
    tallies: dict[tuple[str, str], Tally] = {}
    cases = [("killed", one) for one in _share(operations, options.kills)]
    cases += [("disk full", one) for one in _share(operations, options.full)]
    cases += [("read error", one) for one in _share(operations, options.unreadable)]
    started = time.perf_counter()
    for number, (fault, operation) in enumerate(cases):
        tally = tallies.setdefault((fault, operation.name), Tally())
        _case(folder, number, fault, operation, undisturbed[operation.name], chance, tally, keep=options.keep)
    whole = operations[0].template
    for number in range(options.damaged):
        how = ("truncated", "flipped bit")[number % 2]
        _damage_case(folder, number, how, whole, chance, tallies.setdefault((how, "pack"), Tally()), keep=options.keep)
    _print_table(tallies, time.perf_counter() - started)


def _share(operations: Sequence[Operation], count: int) -> Iterable[Operation]:
    return (operations[number % len(operations)] for number in range(count))


def _import_everything() -> None:
    """Import what commands will need; torch computes nothing here, so that forks may."""
    import torch
    import transformers.models.llama.modeling_llama
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    import cli.build
    import registry.encoding.train
    import registry.pipeline.build
    import registry.pipeline.repair.run
    import registry.upkeep.gc.collect
    import registry.upkeep.verify.run

    _ = (torch, transformers, AutoConfig, AutoModelForCausalLM, AutoTokenizer, cli, registry)


def _case(
    folder: Path,
    number: int,
    fault: str,
    operation: Operation,
    undisturbed: tuple[dict[int, Ran], Any],
    chance: random.Random,
    tally: Tally,
    *,
    keep: bool,
) -> None:
    started = time.perf_counter()
    registry = Registry(folder / f"case-{number}")
    runs, wanted = undisturbed
    ran = _hit(registry, operation, FAULTS[fault], runs, chance, by_time=fault == "killed" and number % 2 == 1)
    before = operation.name != "repair"
    tally.runs += 1
    tally.failed += ran.status != 0
    tally.tracebacks += "Traceback" in ran.said or "is a bug in pragreg" in ran.said
    note = f"{fault} in {operation.name}, case {number}: exit {ran.status}"
    unread = unreadable(registry) if before else []
    tally.unreadable += bool(unread)
    mended = _mend(registry, tally)
    again = run(registry, operation.commands)
    found = state(registry)
    equal = found == wanted and mended and again.status == 0
    tally.unequal += not equal
    tally.seconds.append(time.perf_counter() - started)
    if unread or not equal or "Traceback" in ran.said or "is a bug" in ran.said:
        print(f"{note}: unreadable {unread}, mended {mended}, again {again.status} {again.said[-600:]}", flush=True)
        print(f"  said: {ran.said[-1500:]}\n  differs: {_difference(wanted, found)}", flush=True)
        if keep:
            return
    shutil.rmtree(registry.folder)


def _hit(
    registry: Registry, operation: Operation, kind: int, runs: dict[int, Ran], chance: random.Random, *, by_time: bool
) -> Ran:
    """Run an operation on a fresh copy until a fault meets it: a random moment or call may come too late."""
    while True:
        copy(operation.template, registry.folder)
        if by_time:
            ran = run(registry, operation.commands, kill_after=chance.uniform(0, runs[kind].seconds))
            is_hit = ran.was_killed
        else:
            call = chance.randrange(runs[kind].calls)
            ran = run(registry, operation.commands, fault=(kind, call if kind != UNREADABLE else call + 1))
            is_hit = ran.was_killed or ran.calls > call
        if is_hit:
            return ran


def _damage_case(
    folder: Path, number: int, how: str, template: Registry, chance: random.Random, tally: Tally, *, keep: bool
) -> None:
    started = time.perf_counter()
    registry = copy(template, folder / f"damaged-{number}")
    wanted = state(registry)
    pack = chance.choice(sorted((registry.home / "packs").glob("??/*.safetensors")))
    data = bytearray(pack.read_bytes())
    if how == "truncated":
        del data[chance.randrange(len(data)) :]
    else:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    pack.write_bytes(data)
    tally.runs += 1
    mended = _mend(registry, tally)
    found = state(registry)
    equal = mended and found == wanted
    tally.unequal += not equal
    tally.seconds.append(time.perf_counter() - started)
    if not equal:
        print(f"{how} pack, case {number}: mended {mended}; differs: {_difference(wanted, found)}", flush=True)
        if keep:
            return
    shutil.rmtree(registry.folder)


def _mend(registry: Registry, tally: Tally) -> bool:
    """Verify, repair, and verify again; return whether the registry is without damage at the end."""
    first = run(registry, (("verify", "--deep", "--json"),))
    for line in first.said.splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and "kind" in record:
                tally.findings[record["kind"]] += 1
    repaired = run(registry, (("repair",),))
    tally.mended += first.status != 0
    last = run(registry, (("verify", "--deep"),))
    if repaired.status or last.status:
        print(
            f"  repair {repaired.status}: {repaired.said[-800:]}\n  verify {last.status}: {last.said[-800:]}",
            flush=True,
        )
    return repaired.status == 0 and last.status == 0


def _difference(wanted: Any, found: Any) -> str:
    names = [name for name in wanted if not isinstance(found, dict) or wanted[name] != found.get(name)]
    return "; ".join(f"{name}: {str(wanted[name])[:300]} != {str(found and found.get(name))[:300]}" for name in names)


def _print_table(tallies: dict[tuple[str, str], Tally], elapsed_seconds: float) -> None:
    print("\n| fault | in | hits | command failed | mended | unreadable versions | unequal at the end | tracebacks |")
    print("|---|---|---|---|---|---|---|---|")
    for (fault, operation), tally in tallies.items():
        print(
            f"| {fault} | {operation} | {tally.runs} | {tally.failed} | {tally.mended} | {tally.unreadable} "
            f"| {tally.unequal} | {tally.tracebacks} |"
        )
    findings: Counter[str] = Counter()
    for tally in tallies.values():
        findings += tally.findings
    print(f"\nfound by verify: {', '.join(f'{kind} {count}' for kind, count in findings.most_common()) or 'nothing'}")
    seconds = [one for tally in tallies.values() for one in tally.seconds]
    print(f"{len(seconds)} cases in {elapsed_seconds:.0f} s, median {statistics.median(seconds):.1f} s a case")
    if any(tally.unequal or tally.unreadable or tally.tracebacks for tally in tallies.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
