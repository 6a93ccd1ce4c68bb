"""Two homes that exchange a corpus through a repository, as a transcript in Markdown.

    python examples/exchange.py DOCUMENTS.jsonl AUGMENTATIONS.jsonl --work FOLDER [-- BUILD-OPTION...] > transcript.md

Alice encodes the corpus and pushes it. Bob's pull is killed in the middle, goes on, and answers the same. Each edits
and sends to the other; then both edit at once, which is refused until one replays the difference. Carol
pulls lazily. At last somebody with write access puts other bytes into the repository, and Dave's and Alice's pulls
refuse them. The repository lies on a stand-in for the Hub that this script starts (``tests/hub/server.py``), so it
needs a clone of the project; every command is run as it is shown.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transcript import HOME, HOME_VARIABLE, PRAGREG, Run, Transcript, edit, in_a_process, parsed, parser_of, write_files

if TYPE_CHECKING:
    from tests.hub.server import HubServer

ROOT = Path(__file__).parents[1]
REPOSITORY = "alice/notes"
BUILD = ("build", "notes", "--corpus", "notes", "--augmenter", "import:augmentations.jsonl")
REFUSED, DIVERGED = 7, 13
"""The statuses of a pull of wrong bytes, and of a push to a repository that went another way."""
SLOW_BYTES = 2_000_000
"""What the server sends in a second while a pull is to be killed."""


def main() -> None:
    """Write the transcript."""
    parser = parser_of(__doc__)
    parser.add_argument("--question", default="What is in the amber ledger?", help="what everybody asks")
    options, further = parsed(parser, sys.argv[1:])
    sys.path.insert(0, str(ROOT))
    from tests.hub.server import HubServer

    print(f"# {options.name[:1].upper()}{options.name[1:]} in two homes, from a script\n")
    with HubServer() as server:
        os.environ.update(server.environment())
        exchange = Exchange(options.work, options.documents, options.augmentations, server, in_a_process)
        exchange.show_all(further, options.question)


class Exchange:
    """Alice's, Bob's, Carol's and Dave's folders, and the repository between them."""

    def __init__(self, work: Path, documents: Path, augmentations: Path, server: HubServer, run: Run) -> None:
        """Give everybody the corpus' files but Dave and Carol, who have nothing."""
        self.server = server
        self.alice, self.bob, self.carol, self.dave = (
            Transcript(work / name, run, prompt=f"{name}$") for name in ("alice", "bob", "carol", "dave")
        )
        for person in (self.alice, self.bob):
            self.files = [file.name for file in write_files(documents, person.work / "notes")]
            (person.work / "augmentations.jsonl").write_bytes(augmentations.read_bytes())

    def show_all(self, build_options: Sequence[str], question: str) -> None:
        """Go through everything once; all builds take the further options, and the question is asked everywhere."""
        options = f" -- {shlex.join(build_options)}" if build_options else ""
        print(
            f"Written by `python examples/exchange.py DOCUMENTS AUGMENTATIONS --work FOLDER{options}`, over "
            f"{len(self.files)} documents in a file each; their identifiers stand for their titles. The Hub is the "
            "stand-in that the tests use."
        )
        self.options = tuple(build_options)
        base_model = _value_of("--base-model", build_options)
        started = ("--base-model", base_model) if base_model else ()
        for person in (self.alice, self.bob, self.carol, self.dave):
            person.pragreg("init", *started)
        self.first_push(question)
        self.killed_pull(question)
        self.both_directions()
        self.both_at_once()
        self.lazily(question)
        self.hostile()

    def first_push(self, question: str) -> None:
        """Alice builds and pushes."""
        self.alice.say("## Alice encodes a corpus and publishes it")
        self.build(self.alice, "first state")
        self.query(self.alice, question)
        self.alice.pragreg("push", REPOSITORY, "--corpus", "notes", "--dry-run")
        self.alice.pragreg("push", REPOSITORY, "--corpus", "notes", "--license", "cc-by-sa-4.0")
        self.alice.say("A second push finds nothing to send:")
        self.alice.pragreg("push", REPOSITORY)

    def killed_pull(self, question: str) -> None:
        """Bob's pull is killed within a pack, then goes on."""
        self.bob.say("## Bob pulls it, and is killed in the middle\n\nSIGKILL, with part of a pack on his disk:")
        self.server.fault("slow", route="object", method="GET", bytes_per_second=SLOW_BYTES, times=None)
        arguments = ("pull", REPOSITORY)
        process = subprocess.Popen(
            [*PRAGREG, *arguments],
            cwd=self.bob.work,
            env={**os.environ, HOME_VARIABLE: HOME},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        incoming = self.bob.work / HOME / "hub" / "incoming"
        while process.poll() is None and _size_below(incoming) < self.kill_at():
            time.sleep(0.005)
        process.kill()
        output = process.communicate()[0]
        self.server.clear_faults()
        self.bob.show(arguments, process.returncode, output, status=-signal.SIGKILL)
        self.bob.pragreg("corpora", "list")
        have = _size_below(incoming)
        self.server.reset_counters()
        self.bob.say(f"His registry is as it was; {have:,} bytes wait to be gone on with:")
        self.bob.pragreg("pull", REPOSITORY)
        self.query(self.bob, question)
        self.bob.say("A second pull has nothing to bring:")
        self.bob.pragreg("pull", REPOSITORY)

    def kill_at(self) -> int:
        """Return at how many bytes on Bob's disk his pull is killed: a third of what it has to bring."""
        return sum(file.size for file in self.server.state(REPOSITORY).files.values()) // 3

    def both_directions(self) -> None:
        """Bob edits and pushes, Alice pulls, edits and pushes, Bob pulls."""
        self.bob.say("## Bob edits two files, and sends them back\n\nOnly they are trained:")
        for number, name in enumerate(self.files[:2], 1):
            edit(self.bob.work / "notes" / name, number)
        self.build(self.bob, "two edited by Bob")
        self.bob.pragreg("status", REPOSITORY)
        self.bob.pragreg("push", REPOSITORY)
        self.alice.say("Alice takes them, removes another file, and sends that:")
        self.alice.pragreg("status", REPOSITORY)
        self.alice.pragreg("pull", REPOSITORY)
        self.alice.pragreg("diff", "notes@v1", "notes@v2")
        for number, name in enumerate(self.files[:2], 1):
            edit(self.alice.work / "notes" / name, number)
        (self.alice.work / "notes" / self.files[2]).unlink()
        self.build(self.alice, "one removed by Alice")
        self.alice.pragreg("push", REPOSITORY)
        self.bob.pragreg("pull", REPOSITORY)
        (self.bob.work / "notes" / self.files[2]).unlink()

    def both_at_once(self) -> None:
        """Both edit; the second to push is refused, and replays."""
        self.alice.say("## Both change it at once\n\nAlice edits a file, Bob another. She is faster.")
        edit(self.alice.work / "notes" / self.files[3], 3)
        self.build(self.alice, "another edited by Alice")
        self.alice.pragreg("push", REPOSITORY)
        edit(self.bob.work / "notes" / self.files[4], 4)
        self.build(self.bob, "another edited by Bob")
        self.bob.pragreg("push", REPOSITORY, status=DIVERGED)
        self.bob.pragreg("status", REPOSITORY)
        self.bob.pragreg("pull", REPOSITORY, "--rebase")
        self.bob.pragreg("push", REPOSITORY)
        self.alice.pragreg("pull", REPOSITORY)
        self.alice.say("Both have the same now, and all of it:")
        for person in (self.alice, self.bob):
            person.pragreg("show", "notes")
            person.pragreg("verify", "--deep")

    def lazily(self, question: str) -> None:
        """Carol pulls without packs."""
        self.carol.say("## Carol takes no packs\n\nThe adapters that a question needs come when it is asked.")
        self.carol.pragreg("pull", REPOSITORY, "--lazy")
        self.server.reset_counters()
        self.query(self.carol, question)
        counted = self.server.counters()
        print(f"\nThe server gave {counted['partial']} ranges, {counted['bytes_out']['files']:,} bytes.\n")
        self.carol.pragreg("remotes")

    def hostile(self) -> None:
        """Somebody puts other bytes into the repository."""
        self.dave.say("## Somebody puts other bytes into the repository\n\nOne bit of a pack, under the same name:")
        files = self.server.state(REPOSITORY).files
        pack = max((path for path in files if path.startswith("packs/")), key=lambda path: files[path].size)
        data = bytearray(self.server.read(REPOSITORY, pack))
        data[len(data) // 2] ^= 1
        self.server.commit(REPOSITORY, {pack: bytes(data)})
        self.dave.pragreg("pull", REPOSITORY, status=REFUSED)
        self.dave.pragreg("corpora", "list")
        self.alice.say("A root manifest that says what never was:")
        root = json.loads(self.server.read(REPOSITORY, "pragreg.json"))
        root["versions"][0]["message"] = "first state, as it never was"
        root["versions"][0]["digest"] = "0" * 64
        self.server.commit(REPOSITORY, {"pragreg.json": (json.dumps(root, indent=1, sort_keys=True) + "\n").encode()})
        self.alice.pragreg("pull", REPOSITORY, status=REFUSED)
        self.alice.pragreg("versions", "notes")
        self.alice.pragreg("verify", "--deep")

    def build(self, person: Transcript, message: str) -> None:
        """Build the corpus from the person's files."""
        person.pragreg(*BUILD, *self.options, "--message", message)

    def query(self, person: Transcript, question: str) -> None:
        """Ask the corpus."""
        person.pragreg("query", question, "--corpus", "notes", "--max-tokens", "16")


def _size_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    return arguments[arguments.index(option) + 1] if option in arguments else None


if __name__ == "__main__":
    main()
