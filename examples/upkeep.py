"""A changing corpus as a transcript in Markdown: edit, remove, another recipe, roll back, damage, repair, collect.

    python examples/upkeep.py DOCUMENTS.jsonl AUGMENTATIONS.jsonl --work FOLDER [-- BUILD-OPTION...] > transcript.md

Every command is run as it is shown. DOCUMENTS has `id`, `title` and `text`; each becomes a file of its own, so that
files can be edited and removed. No text of theirs is printed.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from transcript import HOME, Transcript, edit, parsed, parser_of, write_files

EDITED, REMOVED = 3, 2
BUILD = ("build", "notes", "--corpus", "notes", "--augmenter", "import:augmentations.jsonl")
IS_DAMAGE = 7
"""The status of `pragreg verify` where something is damaged."""


def main() -> None:
    """Write the transcript."""
    parser = parser_of(__doc__)
    options, further = parsed(parser, sys.argv[1:])
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
