"""A changing corpus as a transcript in Markdown: edit, remove, another recipe, roll back, damage, repair, collect.

    python examples/upkeep.py DOCUMENTS.jsonl AUGMENTATIONS.jsonl --work FOLDER [-- BUILD-OPTION...] > transcript.md

Every command is run as it is shown. DOCUMENTS has `id`, `title` and `text`; each becomes a file of its own, so that
files can be edited and removed. No text of theirs is printed.
"""

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
EDITED, REMOVED = 3, 2
BUILD = ("build", "notes", "--corpus", "notes", "--augmenter", "import:augmentations.jsonl")
IS_DAMAGE = 7
"""The status of `pragreg verify` where something is damaged."""


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

    def __init__(self, work: Path, run: Run = in_a_process) -> None:
        """Work in ``work``, which must be empty or not there."""
        self.work, self._run = work.resolve(), run
        work.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Print a paragraph."""
        print(f"\n{text}\n", flush=True)

    def pragreg(self, *arguments: str, status: int = 0) -> None:
        """Run a command and print it with its output; it must exit with ``status``."""
        found, output = self._run(arguments, self.work)
        shown = aligned(output.replace(str(self.work) + os.sep, "").replace(str(self.work), "."))
        print(f"```console\n$ pragreg {shlex.join(arguments)}\n{shown}", end="")
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


def main() -> None:
    """Write the transcript."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("augmentations", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder to work in")
    parser.add_argument("--name", default="an invented corpus", help="what the documents are called in the heading")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options, further = parser.parse_args(given[:end]), given[end + 1 :]
    print(f"# Upkeep of {options.name}, from a script\n")
    show_all(Transcript(options.work), options.documents, options.augmentations, further)


def show_all(transcript: Transcript, documents: Path, augmentations: Path, build_options: Sequence[str]) -> None:
    """Go through everything once; the first build takes the further options."""
    files = write_files(documents, transcript.work / "notes")
    (transcript.work / "augmentations.jsonl").write_bytes(augmentations.read_bytes())
    further = f" -- {shlex.join(build_options)}" if build_options else ""
    print(
        f"Written by `python examples/upkeep.py DOCUMENTS AUGMENTATIONS --work FOLDER{further}`, over {len(files)} "
        "documents in a file each; their identifiers stand for their titles."
    )
    build_and_change(transcript, files, build_options)
    recipe_and_rollback(transcript)
    damage_and_repair(transcript)
    collect(transcript, files)


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


def build_and_change(transcript: Transcript, files: list[Path], options: Sequence[str]) -> None:
    """Make the first version, edit three files and remove two, and make the second."""
    transcript.say("## A first version, and a name for it")
    transcript.pragreg("init")
    transcript.pragreg(*BUILD, *options, "--message", "first state")
    transcript.pragreg("alias", "set", "notes@v1", "production")
    transcript.say(f"## {EDITED} files edited, {REMOVED} removed")
    for number, file in enumerate(files[:EDITED], 1):
        edit(file, number)
    for file in files[EDITED : EDITED + REMOVED]:
        file.unlink()
    transcript.pragreg(*BUILD, "--dry-run")
    transcript.say("Only what changed is trained:")
    transcript.pragreg(*BUILD, "--message", "three edited, two removed")
    transcript.pragreg("diff", "notes@production", "notes@latest")
    transcript.pragreg("show", "notes")


def recipe_and_rollback(transcript: Transcript) -> None:
    """Build by another recipe, find it worse, and go back."""
    transcript.say("## Another recipe, and back")
    transcript.pragreg(*BUILD, "--epochs", "1", "--message", "one epoch: cheaper")
    transcript.pragreg("versions", "notes")
    transcript.pragreg("rollback", "notes", "v2")
    transcript.pragreg("alias", "history", "notes")
    transcript.say("The recipe went back with the version, so the same files make no new one:")
    transcript.pragreg(*BUILD)
    transcript.pragreg("report", "stale", "--limit", "3")


def damage_and_repair(transcript: Transcript) -> None:
    """Flip a bit in the largest pack, find it, and mend it."""
    packs = transcript.work / HOME / "packs"
    pack = max(packs.glob("??/*.safetensors"), key=lambda path: (path.stat().st_size, path.name))
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    transcript.say("## A disk that rots\n\nOne bit in the middle of the largest pack is flipped.")
    transcript.pragreg("verify")
    transcript.say("The quick check reads no adapter; the deep one does:")
    transcript.pragreg("verify", "--deep", status=IS_DAMAGE)
    transcript.pragreg("repair")
    transcript.pragreg("verify", "--deep")


def collect(transcript: Transcript, files: list[Path]) -> None:
    """Make one more version, back up, take away what no kept version needs, and look at what is left."""
    transcript.say("## Room")
    edit(files[0], EDITED + 1)
    transcript.pragreg(*BUILD, "--message", "one edited")
    transcript.pragreg("alias", "set", "notes@v4", "production")
    transcript.pragreg("backup", "backup")
    transcript.pragreg("report", "storage")
    transcript.say("Without `--yes` nothing is deleted:")
    transcript.pragreg("gc", "--keep-last", "1", "--grace", "0")
    transcript.pragreg("gc", "--keep-last", "1", "--grace", "0", "--yes")
    transcript.pragreg("versions", "notes")
    transcript.pragreg("report", "storage")
    transcript.pragreg("verify", "--deep")
    transcript.say("What was collected is still in the backup, which a new home can be made of:")
    transcript.pragreg("restore", "backup", "--home", "restored")
    transcript.pragreg("verify", "--deep", "--home", "restored")
    transcript.pragreg(
        "sql", "SELECT reference, documents, size_bytes FROM v_versions ORDER BY version", "--home", "restored"
    )


if __name__ == "__main__":
    main()
