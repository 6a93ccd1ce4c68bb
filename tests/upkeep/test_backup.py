"""Backups: whole at any moment, incremental, and a registry again wherever they are restored."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from sqlalchemy import select

from registry.catalog import schema
from registry.catalog.builds import stage
from registry.catalog.engine import open_catalog
from registry.catalog.models import BuildItemRow, BuildRow, PackRow
from registry.catalog.transfer import snapshots
from registry.errors import BusyError, HomeError, InputError, NotFoundError, StorageError, UsageError
from registry.pipeline.restore import restore
from registry.progress import Silent
from registry.settings import Home, create_home
from registry.store.packs import PackStore
from registry.upkeep.backup import backup as backup_module
from registry.upkeep.backup.backup import back_up
from tests.catalog.everything import fill
from tests.catalog.workshop import placed
from tests.upkeep.press import held, pressing

STEPS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect", "shutil.copyfile"})


@pytest.fixture
def any_home(any_url: str, tmp_path: Path) -> Home:
    """A registry home with an empty catalog, on SQLite and on PostgreSQL."""
    return create_home(tmp_path / "any-home", catalog_url=any_url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def pack_files(folder: Path) -> dict[str, bytes]:
    return {
        path.name[:64]: path.read_bytes() for path in folder.rglob("*.safetensors") if "quarantine" not in str(path)
    }


def restored(folder: Path, path: Path, **places: str) -> Home:
    report = restore(folder, path, Silent(), **places)
    assert report.faults == ()
    return create_home(path)


def test_a_registry_comes_back_as_it_was(any_home: Home, folder: Path, tmp_path: Path) -> None:
    with pressing(any_home) as press:
        press.build(range(5))
        press.build(range(1, 6))
        press.build(range(3), corpus="mill")
    made = back_up(any_home, folder, Silent())
    assert (made.versions, made.packs, made.copied, made.present, made.faults) == (3, 7, 7, 0, ())
    home = restored(folder, tmp_path / "new")
    assert held(home) == held(any_home)
    assert pack_files(tmp_path / "new") == pack_files(Path(any_home.packs_url))
    assert schema.check(home.catalog_url) == []
    with pressing(home) as press:
        assert press.build(range(8)).number == 3, "builds go on"


def test_everything_in_the_catalog_comes_back(any_home: Home, folder: Path, tmp_path: Path) -> None:
    with open_catalog(any_home.catalog_url) as catalog:
        fill(catalog)
    made = back_up(any_home, folder, Silent())
    assert made.copied == 0
    assert {fault.is_missing for fault in made.faults} == {True}, "the workshop's packs are invented"
    other = create_home(tmp_path / "new")
    restore(folder, other.path, Silent())
    with open_catalog(other.catalog_url) as catalog, catalog.read() as session:
        builds = session.execute(select(BuildRow.status, BuildRow.error).order_by(BuildRow.id)).all()
        assert session.scalars(select(BuildItemRow.build_id)).all() == []
    assert builds[-1].status == "interrupted"
    assert "backup" in builds[-1].error
    assert "running" not in {status for status, _ in builds}


@pytest.mark.postgres
def test_a_backup_is_restored_into_postgresql(
    home: Home, folder: Path, tmp_path: Path, empty_postgres_url: str
) -> None:
    with pressing(home) as press:
        press.build(range(5))
    back_up(home, folder, Silent())
    url = empty_postgres_url
    packs = f"file://{tmp_path}/elsewhere"
    other = restored(folder, tmp_path / "new", catalog_url=url, packs_url=packs)
    assert held(other) == held(home)
    assert other.settings_path.stat().st_mode & 0o077 == 0, "its URL may have a password"
    with pressing(other) as press:
        assert press.build(range(6)).number == 2


def test_packs_on_another_storage(tmp_path: Path, folder: Path) -> None:
    home = create_home(tmp_path / "home", packs_url="memory://backups-test/packs")
    schema.upgrade(home.catalog_url)
    with pressing(home) as press:
        press.build(range(5))
    assert back_up(home, folder, Silent()).copied == 3
    other = restored(folder, tmp_path / "new", packs_url="memory://backups-test/restored")
    assert held(other) == held(home)


def test_only_what_is_new_is_copied(home: Home, folder: Path) -> None:
    with pressing(home) as press:
        press.build(range(4))
        first = back_up(home, folder, Silent())
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
        press.build(range(6))
    second = back_up(home, folder, Silent())
    third = back_up(home, folder, Silent())
    assert (first.copied, first.present) == (2, 0)
    assert (second.copied, second.present, second.copied_bytes) == (1, 2, second.copied_bytes)
    assert 10_000 < second.copied_bytes < 11_000
    assert (third.copied, third.present, third.copied_bytes) == (0, 3, 0)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}.items()


def test_packs_that_are_named_no_more_stay_until_they_are_pruned(home: Home, folder: Path) -> None:
    with pressing(home) as press:
        press.build(range(6))
        back_up(home, folder, Silent())
        new = press.combine()
    assert len(pack_files(folder)) == 3
    back_up(home, folder, Silent())
    assert len(pack_files(folder)) == 4
    assert back_up(home, folder, Silent(), prune=True).pruned == 3
    assert set(pack_files(folder)) == {new}


def damage(path: Path, offset: int = -10) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_damaged_pack_is_told_and_everything_else_saved(home: Home, folder: Path, tmp_path: Path) -> None:
    with pressing(home) as press:
        press.build(range(6))
    flipped, cut, lost = sorted(Path(home.packs_url).rglob("*.safetensors"))
    sound = pack_files(Path(home.packs_url))
    damage(flipped)
    cut.write_bytes(cut.read_bytes()[:-100])
    lost.unlink()
    made = back_up(home, folder, Silent())
    assert [fault.digest for fault in made.faults] == [path.name[:64] for path in (flipped, cut, lost)]
    assert [fault.is_missing for fault in made.faults] == [False, False, True]
    assert "is damaged in 1 of 2 adapters" in made.faults[0].detail
    assert pack_files(folder) == {}, "no damaged bytes under any name"
    assert json.loads((folder / "backup.json").read_text())["damaged_packs"] == sorted(sound)
    report = restore(folder, tmp_path / "new", Silent())
    assert (report.versions, len(report.faults)) == (1, 3), "the catalog is there, so all can be encoded again"


def test_a_damaged_pack_does_not_replace_a_sound_copy(home: Home, folder: Path, tmp_path: Path) -> None:
    with pressing(home) as press:
        press.build(range(4))
    whole = held(home)
    back_up(home, folder, Silent())
    flipped, cut = sorted(Path(home.packs_url).rglob("*.safetensors"))
    damage(flipped)
    cut.write_bytes(b"")
    assert back_up(home, folder, Silent(), check=True).faults == ()
    assert held(restored(folder, tmp_path / "new")) == whole


def test_checking_mends_what_is_damaged_in_the_backup(home: Home, folder: Path) -> None:
    with pressing(home) as press:
        press.build(range(4))
    back_up(home, folder, Silent())
    sound = pack_files(folder)
    one, other = sorted(folder.rglob("*.safetensors"))
    damage(one)
    other.write_bytes(other.read_bytes()[:-1])
    assert back_up(home, folder, Silent()).copied == 1, "a wrong size is seen at once"
    assert pack_files(folder) != sound
    assert back_up(home, folder, Silent(), check=True).copied == 1
    assert pack_files(folder) == sound


def test_packs_that_vanish_meanwhile(home: Home, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build combines its packs between the snapshot of the catalog and the copying, twice."""
    take = snapshots.take_snapshot
    combined: list[str] = []
    with pressing(home) as press:
        press.build(range(6))

        def taken(*arguments: object) -> object:
            snapshot = take(*arguments)  # type: ignore[arg-type]
            if len(combined) < 2:
                combined.append(press.combine())
                press.build([20 + len(combined)])
            return snapshot

        monkeypatch.setattr(backup_module, "take_snapshot", taken)
        made = back_up(home, folder, Silent())
        assert (len(combined), made.faults) == (2, ())
        assert held(restored(folder, tmp_path / "new")) == held(home)


def test_a_backup_while_builds_run(any_home: Home, folder: Path, tmp_path: Path) -> None:
    """Versions are committed and packs combined all the time; every backup is some whole state in between."""
    with pressing(any_home) as press:
        press.build(range(6))
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with pressing(any_home) as press:
                number = 0
                while not stop.is_set():
                    press.build(range(6 + number % 5, 12 + number % 5), take=number)
                    if number % 3 == 2:
                        press.combine()
                    number += 1
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    found = []
    try:
        for number in range(3):
            assert back_up(any_home, folder, Silent()).faults == ()
            found.append(held(restored(folder, tmp_path / f"new-{number}")))
    finally:
        stop.set()
        thread.join()
    assert failures == []
    final = held(any_home)
    for state in found:
        assert state.items() <= final.items()
    assert len(found[0]) < len(found[-1]) or len(found[0]) < len(final)


def killed_at(step: int, action: Callable[[], object]) -> bool:
    """Run ``action`` in a fork that dies before its ``step``-th access to a file; return whether it got to the end."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, _arguments: object) -> None:
            nonlocal left
            if event in STEPS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(count)
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "it failed instead of being killed"
    return os.WIFEXITED(status)


def versions_of(folder: Path) -> int:
    """Return how many versions a backup has, having hashed every pack that it names."""
    packs = PackStore(str(folder / "packs"))
    with open_catalog(f"sqlite:///{folder / 'catalog.sqlite'}") as catalog, catalog.read() as session:
        for digest in session.scalars(select(PackRow.digest)):
            packs.verify(digest)
    return snapshots.look_at(f"sqlite:///{folder / 'catalog.sqlite'}").versions


def test_a_backup_that_is_killed_leaves_the_one_before(home: Home, tmp_path: Path) -> None:
    first, folder = tmp_path / "first", tmp_path / "backup"
    with pressing(home) as press:
        press.build(range(4))
        back_up(home, first, Silent())
        press.build(range(6))
        press.combine()
    seen: list[int] = []
    step = 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(first, folder)
        if killed_at(step, lambda: back_up(home, folder, Silent(), prune=True)):
            break
        seen.append(versions_of(folder))
        step += 1
    assert step >= 20
    assert seen == sorted(seen), "once the new catalog is there, it stays"
    assert set(seen) == {1, 2}
    assert versions_of(folder) == 2
    assert not list(folder.rglob("*.partial"))


def test_the_backup_after_a_killed_one(home: Home, folder: Path) -> None:
    with pressing(home) as press:
        press.build(range(4))
    for step in range(0, 40, 4):
        killed_at(step, lambda: back_up(home, folder, Silent()))
    made = back_up(home, folder, Silent())
    assert versions_of(folder) == 1
    assert {path.name for path in folder.iterdir()} == {"backup.json", "backup.lock", "catalog.sqlite", "packs"}
    assert made.packs == len(list((folder / "packs").rglob("*.*"))) == 2


def test_a_restore_that_is_killed_goes_on(home: Home, folder: Path, tmp_path: Path) -> None:
    with pressing(home) as press:
        press.build(range(6))
    back_up(home, folder, Silent())
    new = tmp_path / "new"
    step = 0
    while not killed_at(step, lambda: restore(folder, new, Silent())):
        step += 3
        if (new / "catalog.sqlite").exists() and schema.current(f"sqlite:///{new / 'catalog.sqlite'}") is not None:
            assert held(create_home(new)) == held(home), "a catalog that is there is whole"
            shutil.rmtree(new)
    assert step > 15
    assert held(create_home(new)) == held(home)


def test_a_full_disk(
    home: Home, folder: Path, tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    with pressing(home) as press:
        press.build(range(4))
        back_up(home, folder, Silent())
        press.build(range(6))
    for size in (1, 10_200, 100_000):
        with largest_file(size), pytest.raises(StorageError):
            back_up(home, folder, Silent())
        assert versions_of(folder) == 1
        with largest_file(size), pytest.raises(StorageError):
            restore(folder, tmp_path / "new", Silent())
    back_up(home, folder, Silent())
    assert held(restored(folder, tmp_path / "new")) == held(home)


def test_a_damaged_catalog_does_not_replace_a_sound_one(home: Home, folder: Path) -> None:
    with pressing(home) as press:
        press.build(range(60))
    back_up(home, folder, Silent())
    with closing(sqlite3.connect(home.catalog_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'memberships'").fetchone()[0]
    with Path(home.catalog_url.removeprefix("sqlite:///")).open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(StorageError, match="is damaged"):
        back_up(home, folder, Silent())
    assert versions_of(folder) == 1


def test_folders_that_are_no_place_for_a_backup(home: Home, folder: Path, tmp_path: Path) -> None:
    for wrong in (home.path, create_home(tmp_path / "other").path):
        with pytest.raises(UsageError, match="is a registry home"):
            back_up(home, wrong, Silent())
    folder.mkdir()
    (folder / "thesis.tex").write_text("dear")
    with pytest.raises(UsageError, match=r"something else than a backup: thesis\.tex"):
        back_up(home, folder, Silent())
    with pytest.raises(UsageError, match="lies in the registry home"):
        back_up(home, home.index_path, Silent())
    (folder / "thesis.tex").unlink()
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        back_up(home, folder, Silent())


def test_the_log_of_who_wrote_into_a_backup_is_not_applied_to_the_next(home: Home, folder: Path) -> None:
    with pressing(home) as press:
        press.build(range(2))
        back_up(home, folder, Silent())
        (folder / "catalog.sqlite-journal").write_bytes(b"stale " * 1_000)
        press.build(range(3))
    back_up(home, folder, Silent())
    assert not (folder / "catalog.sqlite-journal").exists()
    assert versions_of(folder) == 2


def test_two_backups_into_one_folder(home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = snapshots.take_snapshot

    def taken(*arguments: object) -> object:
        with pytest.raises(BusyError, match="another backup"):
            back_up(home, folder, Silent())
        return take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backup_module, "take_snapshot", taken)
    back_up(home, folder, Silent())


def test_a_home_with_content_is_refused(home: Home, folder: Path, tmp_path: Path) -> None:
    with pressing(home) as press:
        press.build(range(2))
    back_up(home, folder, Silent())
    before = held(home)
    with pytest.raises(HomeError, match="is not empty"):
        restore(folder, home.path, Silent())
    assert held(home) == before
    with pytest.raises(UsageError, match="another place than --catalog"):
        restore(folder, home.path, Silent(), catalog_url=f"sqlite:///{tmp_path / 'x.sqlite'}")
    with pytest.raises(UsageError, match="another place than --packs"):
        restore(folder, home.path, Silent(), packs_url=str(tmp_path / "x"))


def test_a_home_that_is_empty_is_filled(any_home: Home, folder: Path, home: Home) -> None:
    with pressing(home) as press:
        press.build(range(3))
    back_up(home, folder, Silent())
    shutil.copytree(folder / "packs", any_home.packs_url, dirs_exist_ok=True)
    damaged = sorted(Path(any_home.packs_url).rglob("*.safetensors"))[0]
    damage(damaged)
    report = restore(folder, any_home.path, Silent())
    assert (report.copied, report.present) == (1, 1)
    assert held(any_home) == held(home)
    assert len(list(Path(any_home.packs_url).glob("quarantine/*"))) == 1, "damaged bytes are kept, too"


def test_folders_that_have_no_backup(home: Home, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no backup"):
        restore(folder, tmp_path / "new", Silent())
    back_up(home, folder, Silent())
    description = folder / "backup.json"
    for content in ("{}", '{"format": 2}', "[]", "nonsense"):
        description.write_text(content)
        with pytest.raises(InputError, match=r"backup\.json"):
            restore(folder, tmp_path / "new", Silent())
    description.write_text('{"format": 1}')
    for content in (b"", b"no database " * 1_000):
        (folder / "catalog.sqlite").write_bytes(content)
        with pytest.raises((HomeError, StorageError)):
            restore(folder, tmp_path / "new", Silent())
    assert not (tmp_path / "new" / "catalog.sqlite").exists()


def test_a_backup_of_an_older_schema_is_upgraded(home: Home, folder: Path, tmp_path: Path) -> None:
    with pressing(home) as press:
        press.build(range(3))
    back_up(home, folder, Silent())
    schema.downgrade(f"sqlite:///{folder / 'catalog.sqlite'}", "0002_task_adapters_evaluations")
    before = (folder / "catalog.sqlite").read_bytes()
    assert held(restored(folder, tmp_path / "new")) == held(home)
    assert (folder / "catalog.sqlite").read_bytes() == before, "the backup itself stays as it is"


def test_a_running_build_in_the_backup_is_over_in_the_registry(any_home: Home, folder: Path, tmp_path: Path) -> None:
    with pressing(any_home) as press:
        press.build(range(2))
        with press.catalog.write() as session:
            stage(session, press.workshop.begin(session), [placed(1)])
        back_up(any_home, folder, Silent())
        with pressing(restored(folder, tmp_path / "new")) as other, other.catalog.write() as session:
            assert session.scalars(select(BuildRow.status)).all() == ["finished", "interrupted"]
            other.workshop.begin(session, alive=True)


def test_what_the_description_says(home: Home, folder: Path) -> None:
    with pressing(home) as press:
        press.build(range(3))
    made = back_up(home, folder, Silent())
    described = json.loads((folder / "backup.json").read_text())
    assert described["format"] == 1
    assert described["schema"] == schema.head()
    assert described["versions"] == 1
    assert described["packs_bytes"] + described["catalog_bytes"] == made.size_bytes
    assert not list(folder.rglob("pragreg.toml"))
