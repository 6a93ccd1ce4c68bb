from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli import main
from registry.settings import Home
from tests.cli.conftest import Run

COMMANDS = {
    "build": ["build", "texts"],
    "query": ["query", "Who?"],
    "search": ["search", "Who?"],
    "evaluate": ["evaluate", "questions.jsonl"],
    "export": ["export", "00", "--out", "out"],
    "merge": ["merge", "default", "--out", "out"],
    "info": ["info"],
    "backup": ["backup", "saved"],
    "db upgrade": ["db", "upgrade"],
    "db current": ["db", "current"],
    "db history": ["db", "history"],
    "db check": ["db", "check"],
    **{f"{noun} list": [noun, "list"] for noun in ("documents", "adapters", "corpora", "builds", "queries")},
    **{f"{noun} show": [noun, "show", "1"] for noun in ("documents", "adapters", "corpora", "builds", "queries")},
}

BURST = """
import errno, time
import click
from registry.errors import Interrupted

ERRORS = {
    "bug": KeyError("lantern"),
    "bare": ValueError(),
    "full": OSError(errno.ENOSPC, "No space left on device", "/packs/ab"),
    "refused": PermissionError(errno.EACCES, "Permission denied", "/packs/ab"),
    "missing": FileNotFoundError(errno.ENOENT, "No such file or directory", "/packs/ab"),
    "interrupt": KeyboardInterrupt(),
    "stopped": Interrupted("stopped between two groups"),
    "pipe": BrokenPipeError(),
    "exit": click.exceptions.Exit(7),
    "end": EOFError("too short"),
}

@click.command()
@click.argument("kind")
def burst(kind):
    if kind == "sleep":
        print("asleep", flush=True)
        time.sleep(60)
    raise ERRORS[kind]
"""


@pytest.fixture
def burst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command ``burst KIND`` that raises an error; the folder of its module."""
    (tmp_path / "burst.py").write_text(BURST)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(main.COMMANDS, "burst", "burst:burst")
    monkeypatch.setattr(main, "_forget_output", lambda: None)  # the output is pytest's own here
    return tmp_path


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_every_command_without_a_home_says_so_in_one_line(run: Run, arguments: list[str], tmp_path: Path) -> None:
    found = run(*arguments)
    here = tmp_path / "elsewhere"
    assert (found.status, found.out) == (3, "")
    assert found.err == f"error: there is no registry home in {here} or above it\ntry: pragreg init\n"


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("full", 11, "error: the disk is full: /packs/ab cannot be written"),
        ("refused", 11, "error: access to /packs/ab is refused: Permission denied"),
        ("interrupt", 130, "stopped; what was finished is kept"),
        ("stopped", 130, "stopped between two groups"),
        ("bug", 1, "error: this is a bug in pragreg, please report it: KeyError: 'lantern'"),
        ("bare", 1, "error: this is a bug in pragreg, please report it: ValueError"),
        ("missing", 1, "error: this is a bug in pragreg, please report it: FileNotFoundError: [Errno 2] No such"),
        ("end", 1, "error: this is a bug in pragreg, please report it: EOFError: too short"),
    ],
)
def test_errors_become_messages(run: Run, burst: Path, kind: str, status: int, message: str) -> None:
    found = run("burst", kind)
    assert (found.status, found.out) == (status, "")
    assert found.err.startswith(message)
    assert "Traceback" not in found.err
    assert len(found.err.splitlines()) <= 2


def test_some_ends_are_silent(run: Run, burst: Path) -> None:
    assert run("burst", "exit").status == 7
    found = run("burst", "pipe")
    assert (found.status, found.err) == (141, "")


def test_traceback_on_request(run: Run, burst: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("--traceback", "burst", "bug")
    assert found.status == 1
    assert "Traceback" in found.err
    assert "KeyError: 'lantern'" in found.err
    monkeypatch.setenv("PRAGREG_TRACEBACK", "1")
    assert "Traceback" in run("burst", "bug").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bild"], "there is no command 'bild'; did you mean build or builds?"),
        (["zzz"], "there is no command 'zzz'\n"),
        (["search", "x", "-k", "0"], "Invalid value for '-k': 0 is not in the range 1<=x<=32."),
        (["query", "x", "-k", "33"], "Invalid value for '-k': 33 is not in the range 1<=x<=32."),
        (["query", "x", "--mode", "magic"], "Invalid value for '--mode': 'magic' is not one of"),
        (["build"], "Missing argument 'SOURCE...'."),
        (["merge", "x"], "Missing option '--out'."),
        (
            ["build", "x", "--preset", "thin"],
            "Invalid value for '--preset': 'thin' is not one of 'default', 'fast', 'paper'.",
        ),
        (["documents", "list", "--lmit", "3"], "No such option '--lmit'."),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], message: str) -> None:
    found = run(*arguments)
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith(f"error: {message}")
    assert found.err.splitlines()[-1].startswith("try: pragreg")


def test_no_arguments_show_the_help(run: Run) -> None:
    found = run()
    assert found.status == 2
    assert "Commands:" in found.err
    assert run("--help").status == 0
    assert run("build", "-h").out.startswith("Usage: pragreg build [OPTIONS] SOURCE...")


def test_version(run: Run) -> None:
    found = run("--version")
    assert found.status == 0
    assert found.out.startswith("pragreg ")


@pytest.mark.parametrize(("number", "line"), [(signal.SIGTERM, "stopped by SIGTERM; "), (signal.SIGINT, "stopped; ")])
def test_signals_stop_cleanly(burst: Path, number: signal.Signals, line: str) -> None:
    code = "from cli import main; main.COMMANDS['burst'] = 'burst:burst'; main.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "burst", "sleep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{burst}{os.pathsep}{Path(main.__file__).parents[1]}"},
        # A shell that runs tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(number)
        assert process.wait(20) == 130
        assert process.stderr.read() == f"{line}what was finished is kept\n"


def test_a_closed_pipe_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "completion", "zsh"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[1])},
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


def test_closed_streams_are_no_error(filled: Home) -> None:
    command = f'"{sys.executable}" -m cli.main search organ --home "{filled.path}" --corpus handbook'
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            f"{command} {closed}",
            shell=True,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[1])},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert ("Organ of Hollin" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT TESTED: there is no /dev/full here")
def test_a_full_disk_behind_the_output() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "completion", "zsh"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[1])},
        )
    assert done.returncode == 11
    assert done.stderr.startswith("error: the disk is full")


def test_no_torch_for_what_only_looks(filled: Home) -> None:
    code = """
import sys
from cli.main import run
heavy = {"torch", "transformers", "peft", "sqlalchemy", "rich"} & set(sys.modules)
assert run(["--help"]) == run(["build", "--help"]) == run(["query", "--help"]) == run(["serve", "--help"]) == 0
heavy |= {"torch", "transformers", "peft", "sqlalchemy", "rich"} & set(sys.modules)
home = sys.argv[1]
assert run(["search", "Who plays the organ?", "--home", home, "--corpus", "handbook"]) == 0
assert run(["info", "--home", home]) == 0
assert run(["documents", "list", "--home", home]) == 0
heavy |= {"torch", "transformers", "peft", "fastapi", "uvicorn", "prometheus_client"} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(filled.path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(main.__file__).parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
