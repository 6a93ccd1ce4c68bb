"""An index's folder through damage, kills, full disks, other users and other processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from registry.errors import IntegrityError, StorageError
from registry.index import VersionIndex
from registry.index.folders import nothing_built
from registry.records import Document

LAMP = Document.of("Harbour lamps", "The keeper of Orsk fills every lamp with whale oil before dusk.")
BELL = Document.of("Bell tower", "The tower's bell was cast in Velmor and rings for fog.")
FOG = Document.of("", "Fog covers Orsk for ninety days a year.")
LAMPS = [LAMP, BELL, FOG]


def digests(index: VersionIndex, question: str) -> list[str]:
    return [match.document_digest for match in index.search(question, 3)]


@pytest.fixture
def lamps(tmp_path: Path) -> VersionIndex:
    VersionIndex.build(tmp_path / "lamps", "en", LAMPS)
    return VersionIndex.open(tmp_path / "lamps")


def damage(folder: Path, how: str) -> None:
    segment = next(folder.glob("*.term"))
    description = folder / "version.json"
    match how:
        case "no folder":
            folder.rename(folder.with_name("elsewhere"))
        case "no description":
            description.unlink()
        case "no JSON":
            description.write_text("{")
        case "no object":
            description.write_text("[]")
        case "no segment":
            segment.unlink()
        case "cut segment":
            segment.write_bytes(segment.read_bytes()[:-1])
        case "garbled":
            (folder / "meta.json").write_bytes(b"x" * (folder / "meta.json").stat().st_size)
        case "other count":
            description.write_text(description.read_text().replace('"documents": 3', '"documents": 4'))
        case "other analyser":
            description.write_text(json.dumps(json.loads(description.read_text()) | {"analyser_version": 0}))


@pytest.mark.parametrize(
    "how",
    ["no folder", "no description", "no JSON", "no object", "no segment", "cut segment", "garbled", "other count",
     "other analyser"],
)  # fmt: skip
def test_a_damaged_index_is_reported(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "index"
    VersionIndex.build(folder, "en", LAMPS)
    damage(folder, how)
    with pytest.raises(IntegrityError, match=str(folder)) as caught:
        VersionIndex.open(folder)
    assert "pragreg build" in (caught.value.hint or "")
    VersionIndex.build(folder, "en", LAMPS)
    assert VersionIndex.open(folder).documents == 3


def test_an_open_index_survives_its_replacement(lamps: VersionIndex, tmp_path: Path) -> None:
    before = lamps.search("fog", 3)
    VersionIndex.build(tmp_path / "lamps", "en", [BELL])
    assert lamps.search("fog", 3) == before
    assert digests(VersionIndex.open(tmp_path / "lamps"), "fog") == [BELL.digest]
    assert [path.name for path in tmp_path.iterdir()] == ["lamps"]


def test_a_failing_source_leaves_the_old_index(tmp_path: Path) -> None:
    def documents() -> Iterator[Document]:
        yield LAMP
        raise ValueError("the source failed")

    VersionIndex.build(tmp_path / "index", "en", [FOG])
    with pytest.raises(ValueError, match="the source failed"):
        VersionIndex.build(tmp_path / "index", "en", documents())
    assert digests(VersionIndex.open(tmp_path / "index"), "fog") == [FOG.digest]
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


BUILD_SLOWLY = """
import sys, time
from pathlib import Path
from registry.index import VersionIndex
from registry.index.folders import nothing_built
from registry.records import Document
def documents():
    for number in range(10**9):
        if number == 500:
            print("writing", flush=True)
        yield Document.of("", f"lamp {number}")
VersionIndex.build(Path(sys.argv[1]), "en", documents())
"""


def test_a_killed_build_leaves_only_a_partial_folder(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "version"
    builder = subprocess.Popen([sys.executable, "-c", BUILD_SLOWLY, str(folder)], stdout=subprocess.PIPE)
    assert builder.stdout is not None
    builder.stdout.readline()
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    builder.stdout.close()
    assert [path.name for path in folder.parent.iterdir()] == ["version.partial"]
    with pytest.raises(IntegrityError, match="missing"):
        VersionIndex.open(folder)
    VersionIndex.build(folder, "en", LAMPS)
    assert [path.name for path in folder.parent.iterdir()] == ["version"]


BUILD = """
import sys
from pathlib import Path
from registry.index import VersionIndex
from registry.index.folders import nothing_built
from registry.records import Document
VersionIndex.build(Path(sys.argv[1]), "en", (Document.of("", f"lamp {number}") for number in range(3000)))
"""


def test_processes_may_build_the_same_index(tmp_path: Path) -> None:
    builders = [subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path / "corpus" / "version")]) for _ in range(3)]
    assert [builder.wait() for builder in builders] == [0, 0, 0]
    assert VersionIndex.open(tmp_path / "corpus" / "version").documents == 3000
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["version"]


def test_a_full_disk_is_reported_and_leaves_nothing(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    with pytest.raises(StorageError, match="File too large"), largest_file(20_000):
        VersionIndex.build(tmp_path / "index", "en", [Document.of("", f"lamp {n}") for n in range(5000)])
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        VersionIndex.build(tmp_path / "file" / "index", "en", LAMPS)


READ = """
import os, sys
from pathlib import Path
from registry.index import VersionIndex
from registry.index.folders import nothing_built
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(len(VersionIndex.open(Path(sys.argv[1])).search("fog", 3)))
"""


def test_an_index_that_may_only_be_read_is_searched() -> None:
    with tempfile.TemporaryDirectory() as place:  # others may not enter pytest's own folders
        Path(place).chmod(0o755)
        folder = Path(place) / "index"
        VersionIndex.build(folder, "en", LAMPS)
        folder.chmod(0o555)
        reader = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True)
        folder.chmod(0o755)
    assert (reader.stdout, reader.stderr) == ("2\n", "")


def test_a_parent_that_goes_while_its_child_waits_is_missing(lamps: VersionIndex, tmp_path: Path) -> None:
    caught: list[Exception] = []

    def derive() -> None:
        try:
            VersionIndex.derive(tmp_path / "lamps", tmp_path / "child", [], [FOG.digest])
        except IntegrityError as error:
            caught.append(error)

    with nothing_built(tmp_path) as alone:
        assert alone
        child = threading.Thread(target=derive)
        child.start()
        child.join(0.2)
        assert child.is_alive(), "it waits"
        with nothing_built(tmp_path) as alone:
            assert not alone
        shutil.rmtree(tmp_path / "lamps")
    child.join(10)
    assert ["is missing" in str(error) for error in caught] == [True]
    assert not (tmp_path / "child").exists()
