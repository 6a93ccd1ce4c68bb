"""Verify finds every fault that is planted, as what it is, and nothing where there is none."""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cli.main import run as run_command
from registry.catalog.engine import open_catalog
from registry.catalog.names import sqlite_path
from registry.errors import StorageError
from registry.progress import Silent
from registry.settings import Home
from registry.store import PackStore
from registry.upkeep.findings import KINDS
from registry.upkeep.verify.resuming import PROGRESS_FILE
from registry.upkeep.verify.run import VerifyReport, VerifyRequest, verify
from tests.upkeep import faults
from tests.upkeep.faults import FAULTS, Fault

DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


def run(
    home: Home, *, packs: PackStore | None = None, progress: Silent | None = None, **request: object
) -> VerifyReport:
    with open_catalog(home.catalog_url) as catalog:
        asked = VerifyRequest(**request)  # type: ignore[arg-type]
        return verify(home, catalog, packs or PackStore(home.packs_url), asked, progress or Silent())


def planted() -> Iterator[Any]:
    for fault in FAULTS:
        for database in fault.databases:
            marks = [pytest.mark.postgres] if database == "postgres" else []
            yield pytest.param(fault, database, id=f"{fault.name}-{database}", marks=marks)


@pytest.mark.parametrize("database", DATABASES)
def test_a_sound_registry_has_no_finding(copy_registry: Callable[[str], Home], database: str) -> None:
    home = copy_registry(database)
    for deep in (False, True):
        report = run(home, deep=deep)
        assert report.findings == ()
        assert report.is_sound
        assert (report.counts.versions, report.counts.documents, report.counts.indexes) == (2, 8, 2)
        assert (report.counts.packs, report.counts.adapters) == (len(faults.packs_of(home)) + 1, 9)


def test_every_kind_is_planted() -> None:
    assert {fault.kind for fault in FAULTS} == KINDS.keys()


@pytest.mark.parametrize(("fault", "database"), list(planted()))
def test_a_fault_is_found_as_what_it_is(copy_registry: Callable[[str], Home], fault: Fault, database: str) -> None:
    home = copy_registry(database)
    fault.plant(home)
    for deep in [True] if fault.deep else [False, True] if database == "sqlite" else [False]:
        report = run(home, deep=deep)
        if KINDS[fault.kind][0] == "damage":
            assert {finding.kind for finding in report.damage} == {fault.kind}, report.damage
        else:
            assert {finding.kind for finding in report.findings} == {fault.kind}
            assert report.is_sound


def test_without_deep_no_content_is_read(copied: Home) -> None:
    for plant in (faults.alter_text, faults.flip_adapter, faults.flip_postings):
        plant(copied)
    assert run(copied, deep=False).findings == ()


def test_a_finding_says_what_is_touched(copied: Home) -> None:
    pack = faults.packs_of(copied)[0]
    faults.delete_pack(copied)
    (finding,) = run(copied).damage
    assert (finding.kind, finding.subject) == ("pack-missing", pack.digest)
    assert set(finding.digests) == {place.adapter_digest for place in pack.adapters}
    assert finding.versions == ("handbook@v1", "handbook@v2")


def test_of_a_damaged_pack_the_damaged_adapters_are_told(copied: Home) -> None:
    pack = faults.packs_of(copied)[0]
    faults.flip_adapter(copied)
    (finding,) = run(copied, deep=True).damage
    assert (finding.kind, finding.subject, finding.digests) == (
        "adapter-damaged",
        pack.digest,
        (pack.adapters[1].adapter_digest,),
    )


def test_of_a_truncated_pack_what_is_whole_is_not_called_damaged(copied: Home) -> None:
    pack = faults.packs_of(copied)[0]
    faults.truncate_pack(copied)
    (finding,) = run(copied).damage
    assert finding.digests == (pack.adapters[-1].adapter_digest,)


def test_a_flip_in_a_name_damages_no_adapter(copied: Home) -> None:
    faults.flip_header(copied)
    (finding,) = run(copied).damage
    assert (finding.kind, finding.digests) == ("pack-damaged", ())


def test_a_pack_that_is_in_no_table_but_holds_adapters_of_versions_is_no_leftover(copied: Home) -> None:
    pack = faults.packs_of(copied)[0]
    faults.forget_pack(copied)
    (finding,) = run(copied).findings
    assert (finding.kind, finding.subject) == ("pack-table", pack.digest)
    assert set(finding.digests) == {place.adapter_digest for place in pack.adapters}


def test_what_a_task_adapter_misses_touches_the_versions_that_start_from_it(copied: Home) -> None:
    ((digest,),) = faults.ask(copied, "SELECT digest FROM task_adapters")
    faults.lose_task_adapter(copied)
    (finding,) = run(copied).damage
    assert (finding.subject, finding.versions) == (digest, ())  # no recipe of a version names it


def test_many_faults_at_once_are_all_found(copied: Home) -> None:
    planted = (faults.flip_header, faults.alter_text, faults.flip_postings, faults.add_stranger, faults.leave_staging)
    for plant in planted:
        plant(copied)
    report = run(copied, deep=True)
    wanted = {"pack-damaged", "document-altered", "index-damaged", "pack-unknown", "staging-left"}
    assert {finding.kind for finding in report.findings} == wanted
    assert [finding.severity for finding in report.findings] == sorted(finding.severity for finding in report.findings)


def test_a_pack_that_cannot_be_read_is_one_finding(copied: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = faults.packs_of(copied)[0]
    whole = PackStore.stream

    def stream(self: PackStore, digest: str) -> Iterator[bytes]:
        for number, chunk in enumerate(whole(self, digest)):
            if digest == pack.digest and number == 0:
                yield chunk[: pack.adapters[1].offset + 10]
                raise StorageError(f"a pack cannot be read from here: {errno.EIO}")
            yield chunk

    monkeypatch.setattr(PackStore, "stream", stream)
    report = run(copied, deep=True)
    (finding,) = report.findings
    assert (finding.kind, finding.subject) == ("pack-damaged", pack.digest)
    assert finding.digests == tuple(place.adapter_digest for place in pack.adapters[1:])


def test_a_catalog_that_cannot_be_read_on_is_told_and_the_rest_is_checked(copied: Home) -> None:
    faults.damage_catalog(copied)
    _break_table(copied, "places")
    _break_table(copied, "aliases")
    faults.delete_pack(copied)
    report = run(copied, deep=True)
    assert {finding.kind for finding in report.damage} >= {"catalog-damaged", "pack-missing"}


def _break_table(home: Home, table: str) -> None:
    path = sqlite_path(home.catalog_url)
    assert path
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with Path(path).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)


def test_packs_on_a_remote_store_are_read_as_well(copied: Home) -> None:
    faults.flip_adapter(copied)
    url = "memory://verify/packs"
    files = MemoryFileSystem()
    try:
        for path in Path(copied.packs_url).glob("*/*.safetensors"):
            files.pipe_file(f"/verify/packs/{path.parent.name}/{path.name}", path.read_bytes())
        report = run(copied, packs=PackStore(url), deep=True, jobs=2)
        assert [finding.kind for finding in report.findings] == ["adapter-damaged"]
        assert report.bytes_read > 0
    finally:
        files.rm("/verify", recursive=True)


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_changed(copied: Home, deep: bool) -> None:
    for plant in (faults.truncate_pack, faults.truncate_index_file, faults.abandon_build, faults.leave_partial):
        plant(copied)
    before = state_of(copied.path)
    assert not run(copied, deep=deep).is_sound
    assert state_of(copied.path) == before


def state_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Return digest and time of change of every file and folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns if path.is_file() else 0,
        )
        for path in sorted(folder.rglob("*"))
    }


class StoppedAt(Silent):
    """A progress that stops the run when so many packs are done."""

    def __init__(self, count: int) -> None:
        self.left = count

    def start(self, step: str, total: int | None = None) -> None:
        self.step = step

    def advance(self, count: int = 1, *, note: str = "") -> None:
        if self.step.startswith("packs"):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_where_it_was(copied: Home) -> None:
    count = len(faults.packs_of(copied)) + 1
    with pytest.raises(KeyboardInterrupt):
        run(copied, deep=True, jobs=1, progress=StoppedAt(2))
    notes = copied.path / PROGRESS_FILE
    assert len(notes.read_text().splitlines()) == 2
    report = run(copied, deep=True, resume=True)
    assert (report.counts.passed_over, report.counts.packs) == (2, count)
    assert not notes.exists()
    assert run(copied, deep=True, resume=True).counts.passed_over == 0


def test_a_pack_that_was_touched_since_is_read_again(copied: Home) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(copied, deep=True, jobs=1, progress=StoppedAt(len(faults.packs_of(copied))))
    pack = faults.packs_of(copied)[0]
    faults.flip_adapter(copied)
    report = run(copied, deep=True, resume=True)
    assert [finding.subject for finding in report.damage] == [pack.digest]


def test_a_new_run_believes_no_notes(copied: Home) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(copied, deep=True, jobs=1, progress=StoppedAt(2))
    assert run(copied, deep=True).counts.passed_over == 0


def test_notes_that_are_cut_off_or_foreign_are_passed_over(copied: Home) -> None:
    (copied.path / PROGRESS_FILE).write_text('{"a": 1}\n[1, 2]\n["ab", 3, nul')
    assert run(copied, deep=True, resume=True).findings == ()


def test_a_home_that_cannot_be_written_is_verified_all_the_same(copied: Home) -> None:
    (copied.path / PROGRESS_FILE).mkdir()
    assert run(copied, deep=True).findings == ()


def test_a_pack_that_a_build_moved_meanwhile_is_not_missed(copied: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = faults.packs_of(copied)[0]

    def gone(self: PackStore, digest: str) -> Iterator[bytes]:
        if digest == pack.digest and faults.pack_path(copied, digest).exists():
            store = PackStore(copied.packs_url)
            faults.set_pack(copied, pack.digest, store.combine(pack.adapters[::-1]))
            store.delete(pack.digest)
        return whole(self, digest)

    whole = PackStore.stream
    monkeypatch.setattr(PackStore, "stream", gone)
    assert run(copied).findings == ()


def test_versions_that_were_collected_need_no_adapters(copied: Home) -> None:
    """After garbage collection took what only v1 had, nothing is missing."""
    faults.alter(copied, "DELETE FROM aliases WHERE name = 'production'")
    faults.alter(copied, "UPDATE versions SET collected_at = created_at WHERE number = 1")
    ((dead,),) = faults.ask(copied, "SELECT adapter_id FROM memberships WHERE to_version = 2")
    faults.alter(copied, "DELETE FROM adapter_locations WHERE adapter_id = :dead", dead=dead)
    report = run(copied, deep=True)
    assert report.is_sound
    # Its bytes still lie in the pack, and its index is there.
    assert {finding.kind for finding in report.leftovers} == {"adapter-unused", "index-unknown"}


def test_what_a_dead_build_had_staged_may_be_gone(copied: Home) -> None:
    faults.add_unused(copied)
    faults.abandon_build(copied)
    unused = "(SELECT max(id) FROM adapters)"
    faults.alter(
        copied,
        "INSERT INTO build_adapters (build_id, document_id, adapter_id) "
        f"SELECT (SELECT max(id) FROM builds), document_id, id FROM adapters WHERE id = {unused}",
    )
    assert {finding.kind for finding in run(copied).findings} == {"build-abandoned"}
    faults.alter(copied, f"DELETE FROM adapter_locations WHERE adapter_id = {unused}")
    report = run(copied)
    assert report.is_sound
    assert {finding.kind for finding in report.leftovers} == {"build-abandoned", "adapter-unused"}


def test_the_command_says_what_is_wrong_and_fails(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["verify", "--home", str(copied.path)]) == 0
    capsys.readouterr()
    faults.flip_header(copied)
    faults.leave_partial(copied)
    assert run_command(["verify", "--home", str(copied.path)]) == 7
    out, err = capsys.readouterr()
    assert "pack-damaged" in out
    assert "file-partial" in out
    assert "pragreg repair" in err
    assert "Traceback" not in err


def test_the_command_prints_one_finding_a_line_and_a_summary(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    faults.leave_partial(copied)
    capsys.readouterr()
    assert run_command(["verify", "--deep", "--jobs", "1", "--json", "--home", str(copied.path)]) == 0
    finding, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (finding["kind"], finding["severity"], finding["size_bytes"]) == ("file-partial", "leftover", 7)
    assert (summary["is_sound"], summary["damage"], summary["leftovers"]) == (True, 0, 1)
    assert summary["read_bytes"] == sum(pack.size_bytes for pack in PackStore(copied.packs_url).list())
