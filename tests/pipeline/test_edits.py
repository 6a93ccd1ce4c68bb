"""A corpus of files that are edited: what is encoded again, what leaves, and what a version keeps of its making."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from registry.catalog.adapters import forget_packs, pack_digests
from registry.catalog.members import members
from registry.documents import ReadOptions
from registry.errors import IntegrityError
from registry.pipeline.build import BuildSummary
from registry.pipeline.opened import opened
from registry.pipeline.search import search
from registry.progress import Silent
from registry.settings import Home
from registry.upkeep.gc.collect import delete_unnamed

Builder = Callable[..., BuildSummary]

GUIDE = """# Lanterns

The lantern of the quay burns whale oil. It is lit by the harbour master at dusk.

The lantern of the bridge burns pine resin. Children light it on the first of May.

# Bells

The bell of the market rings nine times. Merchants close their stalls when it does.
"""
LOG = "The mill turned for eleven days. Then the river froze.\n\nThe miller sold his mules. He kept the grey one."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "guide.md").write_text(GUIDE)
    (folder / "log.txt").write_text(LOG)
    return folder


@pytest.fixture
def run(run_build: Builder, folder: Path) -> Builder:
    """A function that builds the folder, cut into passages of a few sentences."""

    def run(**changes: object) -> BuildSummary:
        read = ReadOptions(words=15)
        return run_build(sources=(str(folder),), read=read, augmenter="none", settings={"epochs": 1}, **changes)

    return run


def texts_of(home: Home, reference: str) -> dict[str, str]:
    """Return the texts of a version's documents with their adapters."""
    with opened(home) as registry, registry.catalog.read() as session:
        return {document.text: adapter for document, adapter in members(session, registry.version(reference))}


def test_only_the_passages_whose_text_changed_are_encoded_again(home: Home, run: Builder, folder: Path) -> None:
    first = run()
    assert (first.documents, first.trained) == (5, 5)
    (folder / "guide.md").write_text(GUIDE.replace("pine resin", "fir resin"))
    second = run()
    assert (second.trained, second.reused, second.version.reference) == (1, 4, "default@v2")
    before, after = texts_of(home, "default@v1"), texts_of(home, "default@v2")
    (edited,) = after.keys() - before.keys()
    assert "fir resin" in edited
    assert all(after[text] == before[text] for text in before.keys() & after.keys())
    # The same edit in a file that was moved, and a touched one, change no text.
    (folder / "guide.md").rename(folder / "handbook.md")
    (folder / "log.txt").write_text(LOG)
    third = run()
    assert (third.trained, third.created) == (0, False)


def test_removed_sources_leave_the_next_version(home: Home, run: Builder, folder: Path) -> None:
    run()
    (folder / "log.txt").unlink()
    second = run()
    assert (second.trained, second.reused, second.documents) == (0, 3, 3)
    assert not any("mill" in text for text in texts_of(home, "default"))
    assert any("mill" in text for text in texts_of(home, "default@v1"))
    _, hits = search(home, "default@v1", "When did the mill turn?", 1)
    assert "eleven days" in hits[0].document.text
    _, hits = search(home, "default", "When did the mill turn?", 3)
    assert not any("mill" in hit.document.text for hit in hits)
    # What comes back is there still.
    (folder / "log.txt").write_text(LOG)
    third = run()
    assert (third.trained, third.version.reference) == (0, "default@v3")
    assert third.version.digest != second.version.digest


def test_the_message_is_kept(home: Home, run: Builder, folder: Path) -> None:
    assert run(message="As printed").version.message == "As printed"
    assert run(message="Nothing new").version.message == "As printed"
    (folder / "log.txt").unlink()
    run(message="The log is closed: «très tard» 🏮")
    with opened(home) as registry:
        assert registry.version("default").message == "The log is closed: «très tard» 🏮"
        assert registry.version("default@v1").message == "As printed"


def test_what_is_lost_under_a_running_build_is_encoded_when_it_is_run_again(
    home: Home, run: Builder, folder: Path
) -> None:
    run()
    (folder / "guide.md").write_text(GUIDE.replace("pine resin", "fir resin"))

    class Losing(Silent):
        def start(self, step: str, total: int | None = None) -> None:
            if step == "encoding":
                with opened(home) as registry:
                    with registry.catalog.write() as session:
                        forgotten = pack_digests(session)
                        forget_packs(session, forgotten)
                    delete_unnamed(registry.catalog, registry.packs, forgotten)

    with pytest.raises(IntegrityError, match="lies in no pack any more") as raised:
        run(progress=Losing())
    assert "run the same build again" in str(raised.value.hint)
    again = run()
    assert (again.trained, again.reused, again.version.reference) == (4, 1, "default@v2")
    with opened(home) as registry:
        registry.adapters(texts_of(home, "default").values())
