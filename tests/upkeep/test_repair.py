"""Repair ends with a registry that is whole again: the same versions, texts and adapters, byte for byte."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cli import main
from registry.catalog.aliases import aliases, rollback
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.members import members
from registry.catalog.references import list_versions
from registry.digests import sha256_hex
from registry.encoding.pool import encode_groups
from registry.errors import BusyError, NotFoundError
from registry.pipeline.build import build
from registry.pipeline.opened import opened
from registry.pipeline.repair import encode as repair_encode
from registry.pipeline.repair.run import Outcome, RepairReport, RepairRequest, repair
from registry.progress import Silent
from registry.records import EncodedAdapter
from registry.settings import Home
from registry.store import PackStore
from registry.store.files import storage_error
from registry.store.local import LocalPackFiles
from registry.upkeep.backup.backup import back_up
from registry.upkeep.findings import KINDS
from registry.upkeep.verify.run import VerifyReport, VerifyRequest, verify
from tests.upkeep import faults
from tests.upkeep.conftest import BuiltRegistry
from tests.upkeep.faults import CORPUS, FAULTS, Fault

LEFTOVERS = {kind for kind, (severity, _) in KINDS.items() if severity == "leftover"}
ENDED = {"build-abandoned", "staging-left"}
"""Leftovers that repair ends, since a build would do the same."""
OTHER_BYTES = {"adapter-foreign", "adapter-broken"}
"""Faults that are in a version's own adapters, so that no version with them can be made whole."""

OTHER_WAYS = {
    "garbled text",
    "exchanged members",
    "emptied pack",
    "flipped metadata",
    "swapped packs",
    "misnamed adapter",
}
OTHER_WAYS |= {"forgotten pack", "garbled meta.json", "deleted index file"}
ALIKE = {"document-altered", "augmentation-altered", "build-abandoned", "staging-left", "adapter-unused"}
"""Kinds that are not tried on both databases: the others have SQL of their own."""


@dataclass(frozen=True)
class State:
    """All that a registry is about: versions with their texts and adapters' bytes, names, augmentations, recipes."""

    versions: dict[str, tuple[str, int, str]]
    members: dict[str, dict[str, tuple[str, str, str]]]
    aliases: dict[str, int]
    rows: dict[str, list[Any]]


def state_of(home: Home) -> State:
    """Read the whole state, and every adapter with its digest checked."""
    with opened(home) as registry, registry.catalog.read() as session:
        versions = list_versions(session, CORPUS)
        held = {version.reference: list(members(session, version)) for version in versions}
        for adapter, data in registry.adapters({digest for own in held.values() for _, digest in own}).items():
            assert sha256_hex(data) == adapter
        named = aliases(session, CORPUS)
    queries = {
        "augmentations": "SELECT digest, generator, payload, rewrites, pairs FROM augmentations ORDER BY digest",
        "recipes": "SELECT digest, settings FROM recipes ORDER BY digest",
        "inputs": "SELECT augmentation_id, recipe_id, adapter_id FROM adapter_inputs ORDER BY 1, 2",
        "sizes": "SELECT number, size_bytes FROM versions ORDER BY number",
        "documents": "SELECT digest, characters FROM documents ORDER BY digest",
    }
    return State(
        versions={one.reference: (one.digest, one.documents, one.recipe_digest) for one in versions},
        members={
            reference: {document.digest: (document.title, document.text, adapter) for document, adapter in own}
            for reference, own in held.items()
        },
        aliases=named,
        rows={name: [tuple(map(_loaded, row)) for row in faults.ask(home, query)] for name, query in queries.items()},
    )


def _loaded(value: object) -> object:
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def run(home: Home, **request: Any) -> RepairReport:
    return repair(home, RepairRequest(**request), Silent())


def verified(home: Home) -> VerifyReport:
    packs = PackStore(home.packs_url)
    with open_catalog(home.catalog_url) as catalog:
        return verify(home, catalog, packs, VerifyRequest(deep=True), Silent())


def outcome(report: RepairReport, kind: str) -> Outcome:
    return next(one for one in report.outcomes if one.finding.kind == kind)


@pytest.fixture(scope="session")
def whole(built_registry: BuiltRegistry) -> State:
    return state_of(built_registry.home)


@pytest.fixture(scope="session")
def backup(built_registry: BuiltRegistry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backup") / "backup"
    back_up(built_registry.home, folder, Silent())
    return folder


def assert_whole(home: Home, whole: State) -> None:
    assert verified(home).damage == ()
    assert state_of(home) == whole


def with_databases() -> list[Any]:
    """One fault of every kind, and other ways that are mended otherwise; on PostgreSQL those in the catalog."""
    chosen: list[Any] = []
    seen: set[str] = set()
    for fault in FAULTS:
        if fault.kind in {"catalog-damaged", *OTHER_BYTES} or (fault.kind in seen and fault.name not in OTHER_WAYS):
            continue
        if "postgres" in fault.databases and fault.kind not in seen:
            chosen.append(pytest.param(fault, "postgres", id=f"{fault.name}-postgres", marks=pytest.mark.postgres))
        if "postgres" not in fault.databases or fault.kind not in ALIKE:
            chosen.append(pytest.param(fault, "sqlite", id=f"{fault.name}-sqlite"))
        seen.add(fault.kind)
    return chosen


def test_every_kind_is_mended_here() -> None:
    mended = {parameters.values[0].kind for parameters in with_databases()}
    assert mended | OTHER_BYTES | {"catalog-damaged"} == KINDS.keys()


@pytest.mark.parametrize(("fault", "database"), with_databases())
def test_every_fault_is_mended_with_a_backup(
    copy_registry: Callable[[str], Home], backup: Path, whole: State, fault: Fault, database: str
) -> None:
    home = copy_registry(database)
    fault.plant(home)
    if fault.kind == "adapter-unused":  # it came with an augmentation
        whole = state_of(home)
    report = run(home, backup=backup)
    assert report.is_whole, [one for one in report.outcomes if one.result == "not mended"]
    expected = "left" if fault.kind in LEFTOVERS - ENDED else "mended"
    assert outcome(report, fault.kind).result == expected
    assert {one.result for one in report.outcomes} == {expected}
    assert state_of(home) == whole


def test_what_is_lost_everywhere_is_encoded_again_with_the_same_digest(
    copied: Home, built_registry: BuiltRegistry, whole: State
) -> None:
    """Several faults at once, none of them with a backup: of packs, texts, rows, names, builds and indexes."""
    packs = faults.packs_of(copied)
    faults.pack_path(copied, packs[-1].digest).unlink()
    for plant in (
        faults.flip_adapter,
        faults.alter_text,
        faults.miscount_version,
        faults.overlap,
        faults.unname,
        faults.dangle,
        faults.abandon_build,
        faults.leave_staging,
        faults.delete_index,
    ):
        plant(copied)
    report = run(copied)
    assert {one.result for one in report.outcomes} == {"mended"}
    assert "came from encoding again" in outcome(report, "adapter-damaged").text
    assert "came from encoding again" in outcome(report, "pack-missing").text
    assert "its source, read again" in outcome(report, "document-altered").text
    assert_whole(copied, whole)
    (damaged,) = (copied.path / "packs" / "quarantine").iterdir()
    assert damaged.name == f"{packs[0].digest}.safetensors"
    assert damaged.stat().st_size == packs[0].size_bytes
    (rows,) = (copied.path / "quarantine").iterdir()
    kept = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert {one["table"] for one in kept} == {"adapter_inputs"}
    assert {one["row"]["adapter_id"] for one in kept} == {99999999}
    assert run(copied).outcomes == ()


def test_a_registry_that_lost_all_packs_is_encoded_again(copied: Home, whole: State) -> None:
    """But for the task adapter, which is none of the versions' here."""
    packs = faults.packs_of(copied)
    for pack in packs:
        faults.pack_path(copied, pack.digest).unlink()
    report = run(copied)
    found = [(one.finding.kind, one.finding.subject) for one in report.outcomes]
    assert sorted(found) == sorted(("pack-missing", pack.digest) for pack in packs), "nothing is left to a second round"
    assert report.is_whole
    assert state_of(copied) == whole


def test_what_was_altered_is_not_encoded_again(copied: Home, whole: State) -> None:
    """Not even in company of what is: it would be another adapter."""
    faults.alter_augmentation(copied)
    altered = {one.finding.subject for one in run(copied, dry_run=True).outcomes}
    for pack in faults.packs_of(copied):
        faults.pack_path(copied, pack.digest).unlink()
    report = run(copied)
    query = "SELECT adapters.digest FROM adapters JOIN augmentations ON augmentations.id = adapters.augmentation_id"
    concerned = faults.ask(copied, f"{query} WHERE augmentations.digest = :digest", digest=altered.pop())
    missing = outcome(report, "adapter-missing")
    assert set(missing.finding.digests) == {digest for (digest,) in concerned}
    assert "was altered" in missing.text
    assert report.instead == ()


def test_packs_under_each_others_names_lose_nothing(
    copied: Home, whole: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_encode, "encode_groups", lambda *_, **__: pytest.fail("nothing has to be encoded again"))
    faults.swap_packs(copied)
    report = run(copied)
    assert report.is_whole
    assert "came from a file in quarantine" in outcome(report, "pack-damaged").text
    assert state_of(copied) == whole


@pytest.mark.parametrize("name", ["altered augmentation", "altered recipe", "exchanged members", "lost task adapter"])
def test_what_needs_a_backup_is_told_without_one(copied: Home, name: str) -> None:
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    fault.plant(copied)
    before = state_of_files(copied)
    report = run(copied)
    told = outcome(report, fault.kind)
    assert (told.result, report.is_whole) == ("not mended", False)
    assert ("pragreg warmup" if name == "lost task adapter" else "pragreg repair --from BACKUP") in told.hint
    assert state_of_files(copied) == before


def state_of_files(home: Home) -> dict[str, bytes]:
    return {
        str(path.relative_to(home.path)): path.read_bytes()
        for path in sorted(home.path.rglob("*"))
        if path.is_file() and path.name.endswith((".safetensors", ".json", ".jsonl", ".toml"))
    }


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_rows_of_history_come_from_the_backup(
    copy_registry: Callable[[str], Home], backup: Path, whole: State, database: str
) -> None:
    home = copy_registry(database)
    for table in ("documents", "augmentations", "recipes", "builds", "sources"):
        faults.alter(home, f"DELETE FROM {table} WHERE id = (SELECT min(id) FROM {table})")
    faults.alter(home, "DELETE FROM adapters WHERE id = (SELECT max(id) FROM adapters)")
    first = {one.finding.subject for one in run(home, dry_run=True).outcomes if one.finding.kind == "dangling-row"}
    assert {"memberships", "adapters", "versions", "places"} <= first
    report = run(home, backup=backup)
    assert report.is_whole
    assert {one.result for one in report.outcomes} == {"mended"}
    assert "came from the backup" in outcome(report, "dangling-row").text
    assert state_of(home) == whole


def test_rows_of_history_stay_without_a_backup(copied: Home) -> None:
    faults.alter(copied, "DELETE FROM builds")
    faults.alter(copied, "DELETE FROM sources WHERE id = (SELECT min(id) FROM sources)")
    places = faults.ask(copied, "SELECT * FROM places")
    report = run(copied)
    results = {one.finding.subject: one.result for one in report.outcomes if one.finding.kind == "dangling-row"}
    assert results == {"adapters": "mended", "packs": "mended", "versions": "mended", "places": "not mended"}
    assert faults.ask(copied, "SELECT * FROM places") == places
    (rows,) = (copied.path / "quarantine").iterdir()
    kept = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert {one["table"] for one in kept} == {"adapters", "packs", "versions"}
    assert {one["row"]["build_id"] for one in kept} == {1, 2}


def test_latest_names_what_it_named_last(copied: Home) -> None:
    """After a rollback that is not the newest version."""
    with open_catalog(copied.catalog_url) as catalog, catalog.write() as session:
        rollback(session, f"{CORPUS}@v1")
    faults.unname(copied)
    assert run(copied).is_whole
    assert state_of(copied).aliases["latest"] == 1


def test_a_dry_run_changes_nothing(copied: Home) -> None:
    for plant in (faults.truncate_pack, faults.unname, faults.leave_partial, faults.delete_index):
        plant(copied)
    files, found = state_of_files(copied), verified(copied).findings
    report = run(copied, dry_run=True)
    assert {one.finding for one in report.outcomes} == set(found)
    assert not report.is_whole
    assert {one.result for one in report.outcomes if one.finding.severity == "damage"} == {"planned"}
    assert "encoded again" in outcome(report, "pack-damaged").text
    assert "pragreg gc" in outcome(report, "file-partial").text
    assert state_of_files(copied) == files
    assert verified(copied).findings == found


@pytest.mark.parametrize("name", ["NaN", "another rank"])
def test_an_adapter_that_was_never_of_use_is_made_anew(
    copied: Home, built_registry: BuiltRegistry, whole: State, name: str
) -> None:
    """A version that has it stays incomplete; the next build takes the right one, which is not trained again."""
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    right, _ = faults.an_adapter(copied)
    fault.plant(copied)
    report = run(copied)
    ((_, new),) = report.instead
    assert new == right
    told = outcome(report, fault.kind)
    assert (told.result, report.is_whole) == ("not mended", False)
    assert "pragreg build" in told.hint
    assert [one.finding.versions for one in report.outcomes if one.finding.kind == "adapter-missing"] == [
        (f"{CORPUS}@v1", f"{CORPUS}@v2")
    ]
    summary = build(
        copied, built_registry.request(built_registry.sample.documents.with_name("changed.jsonl")), Silent()
    )
    assert (summary.trained, summary.version.number) == (0, 3)
    with opened(copied) as registry, registry.catalog.read() as session:
        built = {document.digest: adapter for document, adapter in members(session, summary.version)}
        assert set(registry.adapters(built.values())) == set(built.values())
    assert built == {document: adapter for document, (_, _, adapter) in whole.members[f"{CORPUS}@v2"].items()}
    again = run(copied)
    assert again.instead == report.instead
    assert not again.is_whole


def test_another_machine_gives_another_adapter(
    copied: Home, built_registry: BuiltRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {place.adapter_digest for place in faults.packs_of(copied)[0].adapters}
    faults.delete_pack(copied)
    monkeypatch.setattr(repair_encode, "encode_groups", other_numbers)
    report = run(copied)
    assert {old for old, _ in report.instead} == lost
    told = outcome(report, "pack-missing")
    assert (told.result, report.is_whole) == ("not mended", False)
    assert "gave another adapter" in told.text
    assert "pragreg build" in told.hint
    stored = list(PackStore(copied.packs_url).list())
    assert run(copied).instead == report.instead
    assert list(PackStore(copied.packs_url).list()) == stored
    summary = build(copied, built_registry.request(), Silent())
    assert (summary.trained, summary.version.number) == (0, 3)
    # On the machine that made them they can still be had, and then all versions are whole.
    monkeypatch.undo()
    assert run(copied).is_whole


def other_numbers(*arguments: Any, **keywords: Any) -> Iterator[list[EncodedAdapter]]:
    """Encode as always, but for the last bit of the last number, as another processor may."""
    for adapters in encode_groups(*arguments, **keywords):
        changed = [item.data[:-4] + bytes([item.data[-4] ^ 1]) + item.data[-3:] for item in adapters]
        yield [replace(item, data=data, digest=sha256_hex(data)) for item, data in zip(adapters, changed, strict=True)]


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


@pytest.mark.parametrize("plant", [faults.flip_padding, faults.flip_adapter, faults.lose_task_adapter])
def test_a_repair_that_was_killed_goes_on(
    copy_registry: Callable[[str], Home],
    backup: Path,
    whole: State,
    plant: faults.Plant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed before one writing step or another, it ends as an undisturbed one when it is run again."""
    left = 0

    def killing(wrapped: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return wrapped(*arguments, **keywords)

        return call

    for owner, name in ((PackStore, "write"), (PackStore, "quarantine"), (Catalog, "write")):
        monkeypatch.setattr(owner, name, killing(getattr(owner, name)))
    for moment in count(1, step=2 if plant is faults.flip_adapter else 1):
        home = copy_registry("sqlite")
        plant(home)
        left = moment
        try:
            run(home, backup=backup)
        except Killed:
            left = 0
            assert run(home, backup=backup).is_whole
            assert state_of(home) == whole
            continue
        break
    assert moment >= 3
    assert_whole(home, whole)


def test_of_two_repairs_at_once_the_second_is_told_so(copied: Home) -> None:
    class Second(Silent):
        errors: ClassVar[list[str]] = []

        def start(self, step: str, total: int | None = None) -> None:
            with pytest.raises(BusyError) as caught:
                run(copied)
            self.errors.append(caught.value.message)

    assert repair(copied, RepairRequest(), Second()).is_whole
    assert "another repair" in Second.errors[0]


def test_a_repair_beside_a_build_harms_neither(
    copied: Home, built_registry: BuiltRegistry, backup: Path, tmp_path: Path
) -> None:
    source = tmp_path / "more.jsonl"
    record = {"id": "tower", "title": "The Tower", "text": "The tower of Ems leans to the south by nine feet."}
    source.write_text(built_registry.sample.documents.read_text() + json.dumps(record) + "\n", encoding="utf-8")

    class Beside(Silent):
        reports: ClassVar[list[RepairReport]] = []

        def start(self, step: str, total: int | None = None) -> None:
            if step == "encoding":
                faults.flip_adapter(copied)
                self.reports.append(run(copied, backup=backup))

    summary = build(copied, built_registry.request(source), Beside())
    assert [report.is_whole for report in Beside.reports] == [True]
    assert (summary.version.number, summary.trained) == (3, 1)
    assert verified(copied).damage == ()


def test_members_after_the_backup_stay_as_they_are(
    copied: Home, built_registry: BuiltRegistry, backup: Path, tmp_path: Path
) -> None:
    """The backup has v1 and v2; v3 came since, and shares rows with them that were altered."""
    lines = built_registry.sample.documents.read_text(encoding="utf-8").splitlines(keepends=True)
    source = tmp_path / "fewer.jsonl"
    source.write_text("".join(lines[:-2]), encoding="utf-8")
    build(copied, built_registry.request(source), Silent())
    before = state_of(copied)
    faults.exchange_members(copied)
    assert len([finding for finding in verified(copied).damage if finding.kind == "version-altered"]) >= 2
    assert run(copied, backup=backup).is_whole
    assert state_of(copied) == before


def test_a_disk_that_does_not_give_some_bytes(
    copied: Home, backup: Path, whole: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can still be read is kept; the file goes to quarantine."""
    pack = faults.packs_of(copied)[0]
    bad = pack.adapters[0].offset + 100
    path = faults.pack_path(copied, pack.digest)
    number = path.stat().st_ino
    read = os.preadv

    def preadv(descriptor: int, buffers: Any, offset: int) -> int:
        size = sum(map(len, buffers))
        if os.fstat(descriptor).st_ino == number and offset <= bad < offset + size:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, buffers, offset)

    def stream(self: LocalPackFiles, digest: str) -> Iterator[bytes]:
        if digest == pack.digest and path.exists() and path.stat().st_ino == number:
            raise storage_error("a pack cannot be read from", "here", OSError(errno.EIO, "Input/output error")) from (
                OSError(errno.EIO, "Input/output error")
            )
        return streamed(self, digest)

    streamed = LocalPackFiles.stream
    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(LocalPackFiles, "stream", stream)
    report = run(copied, backup=backup)
    assert report.is_whole
    kept = len(pack.adapters) - 1
    assert f"{kept} adapter" in outcome(report, "pack-damaged").text
    assert "came from the backup" in outcome(report, "pack-damaged").text
    assert state_of(copied) == whole


def test_nothing_is_written_to_a_damaged_database(copied: Home) -> None:
    faults.damage_catalog(copied)
    faults.delete_pack(copied)
    catalog = copied.path / "catalog.sqlite"
    before = catalog.read_bytes(), state_of_files(copied)
    report = run(copied)
    assert not report.is_whole
    assert {one.result for one in report.outcomes} == {"not mended"}
    assert "pragreg restore" in outcome(report, "catalog-damaged").hint
    assert (catalog.read_bytes(), state_of_files(copied)) == before


def test_there_must_be_a_backup_where_one_is_named(copied: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no backup"):
        run(copied, backup=tmp_path)


def test_the_command_says_what_was_done(copied: Home, backup: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults.alter_recipe(copied)
    faults.leave_partial(copied)
    command = ["repair", "--home", str(copied.path)]
    assert main.run(command) == 7
    told = capsys.readouterr()
    assert "not mended" in told.out
    assert "pragreg repair --from BACKUP" in told.err
    assert main.run([*command, "--from", str(backup), "--json"]) == 0
    *outcomes, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert {(one["finding"]["kind"], one["result"]) for one in outcomes} == {
        ("recipe-altered", "mended"),
        ("file-partial", "left"),
    }
    assert (summary["is_whole"], summary["mended"], summary["left"], summary["damage"]) == (True, 1, 1, 0)
