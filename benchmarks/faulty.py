"""The registries that meet faults, the processes in which commands run on them, and what a registry is afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "PRAGREG_FAULTS"
"""The environment variable that names the compiled `faults.c`."""
KILL, FULL, UNREADABLE = 1, 2, 3
NEVER = 2**40
QUESTIONS = ("What did the mill store first?", "Which year comes first for the ferry?", "harbour founded for salt")


@dataclass(frozen=True)
class Registry:
    """A registry home on the disk, with the corpus files and the model that its builds take."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def sources(self, number: int) -> Path:
        return self.folder / f"documents-{number}.jsonl"

    def build(self, number: int) -> list[str]:
        return [
            *("build", str(self.sources(number)), "--augmenter", f"import:{self.folder / 'augmentations.jsonl'}"),
            *("--device", "cpu", "--workers", "1", "--group-size", "3", "--message", f"state {number}"),
        ]


@dataclass(frozen=True)
class Operation:
    """A command line or several, one after the other, and the state that they are given in."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    template: Registry


@dataclass(frozen=True)
class Ran:
    """How a process ended: ``status`` (negative: by that signal), what it said, its seconds and counted calls."""

    status: int
    said: str
    seconds: float
    calls: int

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL


def make_operations(folder: Path) -> list[Operation]:
    """Make the registry that cases start from, one with a cut pack for `repair`, one with old versions for `gc`."""
    template = Registry(folder / "template")
    _in_fork(lambda: _write_inputs(template))
    first = (
        ("init",),
        tuple([*template.build(1), "--base-model", str(folder / "template" / "model"), "--set", "epochs=2"]),
    )
    commands = (
        *first,
        ("alias", "set", "default@v1", "production"),
        tuple(template.build(2)),
        tuple(template.build(3)),
    )
    _must(template, (*commands, ("pin", "default@v1", "--reason", "first")))
    broken = Registry(folder / "broken")
    shutil.copytree(template.folder, broken.folder)
    packs = sorted((broken.home / "packs").glob("??/*.safetensors"))
    packs[0].write_bytes(packs[0].read_bytes()[:-100])
    loose = Registry(folder / "loose")
    shutil.copytree(template.folder, loose.folder)
    _must(loose, (("unpin", "default@v1"), ("alias", "remove", "default", "production")))
    return [
        Operation("build", (tuple(template.build(4)),), template),
        Operation("gc", (("gc", "--keep-last", "1", "--grace", "0", "--yes"),), loose),
        Operation("repair", (("repair",),), broken),
        Operation("aliases", _alias_moves(), template),
    ]


def _alias_moves() -> tuple[tuple[str, ...], ...]:
    return (
        ("alias", "set", "default@v2", "staging"),
        ("rollback", "default", "v1"),
        ("pin", "default@v2", "--reason", "for the audit"),
        ("alias", "set", "default@v3", "production"),
        ("unpin", "default@v2"),
        ("rollback", "default", "v3"),
        ("alias", "remove", "default", "staging"),
    )


def _write_inputs(registry: Registry) -> None:
    """Write a model, augmentations, and the documents of four states: each edits, adds and removes a few."""
    from benchmarks.scale import write_corpus, write_model

    registry.folder.mkdir(parents=True)
    made = write_corpus(registry.folder / "made", 24, 0)
    write_model(registry.folder / "model", made)
    shutil.move(made.augmentations, registry.folder / "augmentations.jsonl")
    lines = made.documents.read_text().splitlines()
    for number in range(1, 5):
        chosen = [json.loads(line) for line in lines[3 * number : 3 * number + 12]]
        for record in chosen[:2]:
            record["text"] += f" Keeper {number} wrote this down."
        registry.sources(number).write_text("".join(json.dumps(record) + "\n" for record in chosen))


def undisturbed_run(folder: Path, operation: Operation) -> tuple[dict[int, Ran], Any]:
    """Return how long an operation takes and how many calls a fault of each kind can hit, and the state it ends in."""
    runs = {}
    for kind in (KILL, FULL, UNREADABLE):
        registry = copy(operation.template, folder / f"undisturbed-{operation.name}")
        runs[kind] = run(registry, operation.commands, fault=(kind, NEVER))
        if runs[kind].status != 0:
            raise SystemExit(f"{operation.name} failed without a fault: {runs[kind].said}")
    return runs, state(registry)


def copy(template: Registry, folder: Path) -> Registry:
    # Paths of sources are part of the registry's state, so a case lies where the template lay.
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    shutil.copytree(template.home, folder / "home")
    for path in template.folder.iterdir():
        if path.name != "home":
            (folder / path.name).symlink_to(path)
    return Registry(folder)


def run(
    registry: Registry,
    commands: Sequence[Sequence[str]],
    *,
    fault: tuple[int, int] | None = None,
    kill_after: float | None = None,
) -> Ran:
    """Run commands in one fork, which stops at the first that fails; with a fault, or killed after some seconds."""
    said, calls = registry.folder / "said.txt", registry.folder / "calls.txt"
    calls.unlink(missing_ok=True)
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        _run_child(registry, commands, fault, said, calls)
    timer = threading.Timer(NEVER if kill_after is None else kill_after, _kill, (child,))
    if kill_after is not None:
        timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    seconds = time.perf_counter() - started
    counted = int(calls.read_text()) if calls.exists() else 0
    return Ran(os.waitstatus_to_exitcode(status), said.read_text(errors="replace"), seconds, counted)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _run_child(
    registry: Registry, commands: Sequence[Sequence[str]], fault: tuple[int, int] | None, said: Path, calls: Path
) -> None:
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 99
    library = ctypes.CDLL(os.environ[LIBRARY])
    library.fault_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    library.fault_count.restype = ctypes.c_long
    try:
        from cli.main import run as run_command

        os.environ["PRAGREG_HOME"] = str(registry.home)
        if fault:
            library.fault_arm(*fault, str(registry.home).encode())
        for command in commands:
            status = run_command(command)
            if status:
                break
    except BaseException:
        traceback.print_exc()
    finally:
        counted = library.fault_count()
        library.fault_arm(0, 0, b"/")
        calls.write_text(str(counted))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _in_fork(work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns in a fork, as JSON carries it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, json.dumps(work()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(data) if os.waitstatus_to_exitcode(status) == 0 else None


def _must(registry: Registry, commands: Sequence[Sequence[str]]) -> None:
    ran = run(registry, commands)
    if ran.status != 0:
        raise SystemExit(f"the registry cannot be made: {ran.said}")


def state(registry: Registry) -> Any:
    """Return all that a user has of a registry, None if it cannot be had: what two equal ones have in common."""
    return _in_fork(lambda: _state(registry))


def unreadable(registry: Registry) -> list[str]:
    """Return which versions (that are not collected) cannot be read whole."""
    found = _in_fork(lambda: _state(registry))
    return ["all"] if found is None else list(found["unreadable"])


def _state(registry: Registry) -> dict[str, Any]:
    from registry.catalog.aliases import aliases
    from registry.catalog.listing import list_corpora
    from registry.catalog.members import members
    from registry.catalog.references import list_versions
    from registry.digests import sha256_hex
    from registry.pipeline.opened import Retriever, opened
    from registry.settings import open_home

    home = open_home(registry.home)
    found: dict[str, Any] = {"versions": {}, "members": {}, "aliases": {}, "hits": {}, "unreadable": {}}
    with opened(home) as opened_registry:
        with opened_registry.catalog.read() as session:
            corpora = [line.name for line in list_corpora(session, limit=None)]
            versions = [version for corpus in corpora for version in list_versions(session, corpus)]
            found["aliases"] = {corpus: aliases(session, corpus) for corpus in corpora}
        for version in versions:
            collected = _is_collected(opened_registry, version.reference)
            found["versions"][version.reference] = [version.digest, version.parent, version.documents, collected]
            with opened_registry.catalog.read() as session:
                held = {document.digest: adapter for document, adapter in members(session, version)}
            found["members"][version.reference] = held
            if collected:
                continue
            try:
                data = opened_registry.adapters(held.values())
                wrong = [digest for digest, view in data.items() if sha256_hex(view) != digest]
                hits = Retriever(opened_registry, version).hits(QUESTIONS, 3)
                found["hits"][version.reference] = [[hit.document.digest for hit in each] for each in hits]
            except Exception as error:
                wrong = [f"{type(error).__name__}: {error}"]
            if wrong:
                found["unreadable"][version.reference] = wrong
    return found


def _is_collected(opened_registry: Any, reference: str) -> bool:
    from registry.errors import NotFoundError

    try:
        opened_registry.version(reference)
    except NotFoundError:
        return True
    return False
