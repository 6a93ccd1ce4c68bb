"""Commands of pragreg, run and printed as a transcript in Markdown; the other scripts here are made of it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import groupby, zip_longest
from pathlib import Path

PRAGREG = (sys.executable, "-m", "cli.main")
HOME_VARIABLE, HOME = "PRAGREG_HOME", ".pragreg"
NOTE = "The archivist keeps the amber ledger of this passage on shelf {number}."

Run = Callable[[Sequence[str], Path], tuple[int, str]]
"""Runs a command line of pragreg in a folder; returns its exit status and all that it printed."""


def in_a_process(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command line as a user does."""
    done = subprocess.run(
        [*PRAGREG, *arguments],
        cwd=folder,
        env={**os.environ, HOME_VARIABLE: HOME},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


class Transcript:
    """Runs commands in one folder and prints them with what they print."""

    def __init__(self, work: Path, run: Run = in_a_process, *, prompt: str = "$") -> None:
        """Work in ``work``, which must be empty or not there."""
        self.work, self._run, self._prompt = work.resolve(), run, prompt
        work.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Print a paragraph."""
        print(f"\n{text}\n", flush=True)

    def pragreg(self, *arguments: str, status: int = 0) -> None:
        """Run a command and print it with its output; it must exit with ``status``."""
        self.show(arguments, *self._run(arguments, self.work), status=status)

    def show(self, arguments: Sequence[str], found: int, output: str, *, status: int = 0) -> None:
        """Print a command that was run, and that must have exited with ``status``."""
        shown = aligned(output.replace(str(self.work) + os.sep, "").replace(str(self.work), "."))
        print(f"```console\n{self._prompt} pragreg {shlex.join(arguments)}\n{shown}", end="")
        if found:
            print(f"[exit status {found}]")
        print("```", flush=True)
        if found != status:
            raise SystemExit(f"pragreg {shlex.join(arguments)} exited with {found}, not {status}")


def aligned(text: str) -> str:
    """Return ``text`` with the columns of its tables, which commands separate by tabs, set under each other."""
    shown: list[str] = []
    for has_tabs, lines in groupby(text.splitlines(), key=lambda line: "\t" in line):
        rows = [line.split("\t") for line in lines]
        widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")] if has_tabs else []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)] or row
            shown.append("  ".join(cells).rstrip() + "\n")
    return "".join(shown)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what a script over given documents takes."""
    parser = work_parser(description)
    parser.add_argument("documents", type=Path)
    parser.add_argument("augmentations", type=Path)
    parser.add_argument("--name", default="an invented corpus", help="what the documents are called in the heading")
    return parser


def work_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every script takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder to work in")
    return parser


def parsed(parser: argparse.ArgumentParser, given: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and what comes behind ``--``: options of the builds."""
    end = given.index("--") if "--" in given else len(given)
    return parser.parse_args(given[:end]), list(given[end + 1 :])


def write_files(documents: Path, folder: Path) -> list[Path]:
    """Write every record into a file of its own, its identifier as its title; return the files in order."""
    folder.mkdir()
    files = []
    for line in documents.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        files.append(folder / f"{record['id']}.jsonl")
        write_record(files[-1], record | {"title": record["id"]})
    return files


def write_record(file: Path, record: dict[str, str]) -> None:
    """Write a file of one record."""
    file.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


def edit(file: Path, number: int) -> None:
    """Add a sentence to the text of a file's record."""
    record = json.loads(file.read_text(encoding="utf-8"))
    write_record(file, record | {"text": f"{record['text']} {NOTE.format(number=number)}"})
