from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from registry.catalog.aliases import set_alias
from registry.catalog.builds import stage
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.models import BuildItemRow, BuildRow
from registry.catalog.pins import pin
from registry.catalog.references import resolve_open
from registry.catalog.versions import assign_adapters
from registry.errors import NotFoundError
from registry.index import VersionIndex
from registry.progress import Silent
from registry.recipe import Recipe
from registry.records import Document
from registry.settings import create_home
from registry.store.packs import PackStore
from registry.upkeep.gc.collect import delete_unnamed
from registry.upkeep.gc.collection import CollectReport
from registry.upkeep.readers import reading
from tests.catalog.workshop import BASE_MODEL, document, placed
from tests.upkeep.corpus_maker import ADAPTER_BYTES, CorpusMaker, adapter_of, files_below, size_below

OLD = 10 * 86_400.0


@pytest.fixture
def maker(tmp_path: Path, any_catalog: Catalog) -> Iterator[CorpusMaker]:
    home = create_home(tmp_path / "home")
    packs = PackStore(home.packs_url)
    yield CorpusMaker(home, any_catalog, packs)
    packs.close()


@pytest.fixture
def small(tmp_path: Path, sqlite_template: Path) -> Iterator[CorpusMaker]:
    """On SQLite alone, for what does not depend on the database."""
    home = create_home(tmp_path / "home")
    shutil.copyfile(sqlite_template, home.path / "catalog.sqlite")
    packs = PackStore(home.packs_url)
    with open_catalog(home.catalog_url) as catalog:
        yield CorpusMaker(home, catalog, packs)
    packs.close()


def freed(report: CollectReport) -> dict[str, int]:
    return {item.kind: item.count for item in report.freed if item.count}


def whole(maker: CorpusMaker) -> dict[str, bool]:
    found = maker.state()["whole"]
    assert isinstance(found, dict)
    return found


def three_versions(maker: CorpusMaker) -> None:
    """v1 has ten documents of one pack; v2 changes two of them; v3 all but one of the rest."""
    maker.build(dict.fromkeys(range(10), 0))
    maker.build(dict.fromkeys(range(10), 0) | {0: 1, 1: 1})
    maker.build(dict.fromkeys(range(9), 1) | {9: 0})
    maker.age()


def test_all_versions_are_kept_by_default(small: CorpusMaker) -> None:
    three_versions(small)
    before = small.state()
    report = small.collect()
    assert (report.done, report.size_bytes, report.collected, report.spared) == (True, 0, (), ())
    assert [item.version for item in report.kept] == ["handbook@v1", "handbook@v2", "handbook@v3"]
    assert small.state() == before


def test_a_dry_run_tells_what_gc_then_does(maker: CorpusMaker) -> None:
    three_versions(maker)
    before = maker.state()
    told = maker.collect(yes=False, keep_last=1)
    assert maker.state() == before
    assert all(whole(maker).values())
    done = maker.collect(keep_last=1)
    assert (told.done, done.done) == (False, True)
    assert replace(done, done=False, freed=(), elapsed_seconds=0) == replace(told, freed=(), elapsed_seconds=0)
    assert done.collected == ("handbook@v1", "handbook@v2")
    assert freed(done) == freed(told) == {"adapters": 9, "packs rewritten": 1}
    # The header gets shorter too, which is not foretold.
    assert 9 * ADAPTER_BYTES == told.size_bytes < done.size_bytes < told.size_bytes + 9 * 200


def test_what_is_freed_is_gone_from_the_disk_and_nothing_else(maker: CorpusMaker) -> None:
    three_versions(maker)
    before = size_below(Path(maker.home.packs_url))
    report = maker.collect(keep_last=1)
    assert before - size_below(Path(maker.home.packs_url)) == report.size_bytes
    assert whole(maker) == {"handbook@v1": False, "handbook@v2": False, "handbook@v3": True}
    for reference in ("handbook@v1", "handbook@v2"):
        assert maker.version(reference).documents == 10  # it can be looked at
        with maker.catalog.read() as session, pytest.raises(NotFoundError, match="was collected on"):
            resolve_open(session, reference)
    again = maker.collect(keep_last=1)
    assert (again.size_bytes, again.collected) == (0, ())


def test_a_pack_of_which_nothing_is_needed_goes_whole(small: CorpusMaker) -> None:
    small.build({0: 0, 1: 0})
    small.build({0: 1, 1: 1})
    small.age()
    told = small.collect(yes=False, keep_last=1)
    done = small.collect(keep_last=1)
    assert freed(done) == freed(told) == {"adapters": 2, "packs deleted": 1}
    assert done.size_bytes == told.size_bytes
    assert len(list(small.packs.list())) == 1


def test_what_is_less_than_a_quarter_of_its_pack_stays_and_can_be_used_again(maker: CorpusMaker) -> None:
    maker.build(dict.fromkeys(range(10), 0))
    maker.build(dict.fromkeys(range(10), 0) | {0: 1, 1: 1})
    maker.age()
    before = maker.state()
    report = maker.collect(keep_last=1)
    assert (report.collected, report.spared, freed(report)) == ((), ("handbook@v1",), {})
    assert report.resting_bytes == 2 * ADAPTER_BYTES
    assert maker.state() == before
    with maker.catalog.read() as session:
        assert resolve_open(session, "handbook@v1").number == 1
    assert maker.is_there(0, 0)


def test_a_version_that_was_spared_is_collected_when_more_of_its_pack_dies(small: CorpusMaker) -> None:
    small.build(dict.fromkeys(range(10), 0))
    small.build(dict.fromkeys(range(10), 0) | {0: 1, 1: 1})
    small.age()
    assert small.collect(keep_last=1).spared == ("handbook@v1",)
    small.build(dict.fromkeys(range(2, 10), 0) | {0: 2, 1: 1, 2: 1})
    small.age()
    report = small.collect(keep_last=1)
    assert report.collected == ("handbook@v1", "handbook@v2")
    assert whole(small) == {"handbook@v1": False, "handbook@v2": False, "handbook@v3": True}


def test_a_version_that_shares_all_with_those_that_are_kept_is_not_marked(small: CorpusMaker) -> None:
    small.build({0: 0, 1: 0})
    small.build({0: 0, 1: 0, 2: 0})
    small.build({0: 0, 2: 0})
    small.age()
    with small.catalog.write() as session:
        pin(session, small.version("handbook@v2"))
    report = small.collect(keep_last=1)
    assert (report.collected, report.spared, report.size_bytes) == ((), ("handbook@v1",), 0)
    assert all(whole(small).values())


def test_sparse_packs_of_a_corpus_are_written_into_one(maker: CorpusMaker) -> None:
    for first in (0, 10, 20):
        maker.build(dict.fromkeys(range(first + 10), 0))
    maker.build({number: 0 for number in range(30) if number % 2})
    maker.age()
    assert len(list(maker.packs.list())) == 3
    report = maker.collect(keep_last=1)
    assert freed(report) == {"adapters": 15, "packs rewritten": 3}
    assert len(list(maker.packs.list())) == 1
    assert whole(maker)["handbook@v4"]


def test_new_packs_are_no_larger_than_the_home_wants(small: CorpusMaker) -> None:
    for first in (0, 10, 20):
        small.build(dict.fromkeys(range(first + 10), 0))
    small.build({number: 0 for number in range(30) if number % 2})
    small.age()
    small.home = replace(small.home, pack_size_bytes=11 * ADAPTER_BYTES)
    small.collect(keep_last=1)
    assert len(list(small.packs.list())) == 2
    assert whole(small)["handbook@v4"]


def test_the_corpora_that_are_named_are_those_of_which_versions_go(maker: CorpusMaker) -> None:
    for corpus, first in (("handbook", 0), ("almanac", 10)):
        maker.build({first: 0}, corpus=corpus)
        maker.build({first: 1}, corpus=corpus)
    maker.age()
    report = maker.collect(keep_last=1, corpora=("almanac",))
    assert report.collected == ("almanac@v1",)
    assert all(whole(maker).values())
    with pytest.raises(NotFoundError, match="there is no corpus 'atlas'"):
        maker.collect(keep_last=1, corpora=("atlas",))


def name(maker: CorpusMaker, alias: str) -> None:
    with maker.catalog.write() as session:
        set_alias(session, maker.version("handbook@v1"), alias)


def test_what_is_named_is_kept(maker: CorpusMaker) -> None:
    maker.build({0: 0})
    maker.build({0: 1})
    maker.build({0: 2})
    with maker.catalog.write() as session:
        pin(session, maker.version("handbook@v2"))
    name(maker, "production")
    maker.age()
    report = maker.collect(keep_last=1)
    assert {item.version: item.reasons for item in report.kept} == {
        "handbook@v1": ("alias production",),
        "handbook@v2": ("pinned",),
        "handbook@v3": ("alias latest", "newest"),
    }
    assert all(whole(maker).values())


def test_what_was_named_lately_is_kept_for_the_grace_period(maker: CorpusMaker) -> None:
    maker.build({0: 0})
    name(maker, "production")
    maker.build({0: 1})
    maker.age()
    with maker.catalog.write() as session:
        set_alias(session, maker.version("handbook@v2"), "production")
    report = maker.collect(keep_last=1, grace_seconds=3_600.0)
    assert report.kept[0].reasons == ("was production lately",)
    assert maker.collect(keep_last=1, grace_seconds=0.0).collected == ("handbook@v1",)


def test_versions_made_since_a_date_are_kept(maker: CorpusMaker) -> None:
    maker.build({0: 0})
    middle = datetime.now(UTC)
    maker.build({0: 1})
    maker.build({0: 2})
    maker.age()
    report = maker.collect(keep_since=middle)
    assert report.collected == ("handbook@v1",)
    assert whole(maker) == {"handbook@v1": False, "handbook@v2": True, "handbook@v3": True}
    later = maker.collect(keep_since=datetime.now(UTC) + timedelta(days=1))
    assert later.collected == ("handbook@v2",), "the newest stays, however old it is"


def test_what_is_being_read_is_kept_until_it_is_no_more(small: CorpusMaker) -> None:
    small.build({0: 0})
    small.build({0: 1})
    small.age()
    with reading(small.home, small.version("handbook@v1")):
        report = small.collect(keep_last=1)
        assert report.kept[0].reasons == ("being read",)
        assert all(whole(small).values())
    assert small.collect(keep_last=1).collected == ("handbook@v1",)


class At(Silent):
    """Does something the first time that a step of gc begins."""

    def __init__(self, step: str, then: Callable[[], object]) -> None:
        self._step, self._then = step, then

    def start(self, step: str, total: int | None = None) -> None:
        if step == self._step:
            self._step = ""
            self._then()


@pytest.mark.parametrize(("documents", "step"), [(2, "deleting packs"), (9, "rewriting packs")])
def test_a_build_that_begins_meanwhile_keeps_what_it_may_use(maker: CorpusMaker, documents: int, step: str) -> None:
    maker.build(dict.fromkeys(range(documents), 0))
    maker.build(dict.fromkeys(range(2), 1) | dict.fromkeys(range(6, documents), 0))
    maker.age()
    build_id = 0

    def begin() -> None:
        nonlocal build_id
        build_id = maker.begin()

    report = maker.collect(keep_last=1, progress=At(step, begin))
    assert freed(report) == {}
    assert report.collected == ("handbook@v1",)  # that was decided before
    assert maker.is_there(0, 0)
    maker.end(build_id)
    assert freed(maker.collect())["adapters"] == min(documents, 6)
    assert whole(maker)["handbook@v2"]


def test_an_alias_that_is_set_meanwhile_keeps_its_version(small: CorpusMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    small.build({0: 0})
    small.build({0: 1})
    small.age()
    from registry.upkeep.gc import collect as module

    decide = module._decide

    def decide_slowly(run: object) -> object:
        decision = decide(run)  # type: ignore[arg-type]
        assert [version.reference for version in decision.collected] == ["handbook@v1"]
        name(small, "production")
        return decision

    monkeypatch.setattr(module, "_decide", decide_slowly)
    report = small.collect(keep_last=1)
    assert (report.collected, freed(report)) == ((), {})
    assert whole(small) == {"handbook@v1": True, "handbook@v2": True}


def a_dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("alive", [True, False])
def test_a_running_build_protects_its_recipe_while_its_process_lives(maker: CorpusMaker, alive: bool) -> None:
    maker.build({0: 0})
    maker.build({0: 1})
    maker.age()
    maker.begin("almanac", pid=os.getpid() if alive else a_dead_process())
    report = maker.collect(keep_last=1)
    assert maker.is_there(0, 0) is alive
    assert report.collected == (() if alive else ("handbook@v1",))


def test_a_build_of_another_recipe_protects_what_it_was_given(maker: CorpusMaker) -> None:
    maker.build({0: 0, 1: 0})
    maker.build({0: 1, 1: 1})
    maker.age()
    other = Recipe(base_model=BASE_MODEL.fingerprint, epochs=7)
    build_id = maker.begin("almanac", recipe=other)
    with maker.catalog.write() as session:
        stage(session, build_id, [placed(0)])
        assign_adapters(session, build_id, {document(0).digest: adapter_of(0, 0, maker.recipe).digest})
    maker.collect(keep_last=1)
    assert (maker.is_there(0, 0), maker.is_there(1, 0)) == (True, False)


def test_young_adapters_that_no_version_has_are_kept(small: CorpusMaker) -> None:
    small.build({0: 0})
    small.age()
    small.encode(None, {0: 1})
    assert freed(small.collect(grace_seconds=3_600.0)) == {}
    assert freed(small.collect()) == {"adapters": 1, "packs deleted": 1}


def test_task_adapters_stay(maker: CorpusMaker) -> None:
    maker.build({0: 0})
    pack = maker.warm_up()
    maker.age()
    assert freed(maker.collect(keep_last=1)) == {}
    assert maker.packs.check(pack.digest).is_sound


def test_unknown_packs_go_when_they_are_old(small: CorpusMaker) -> None:
    small.build({0: 0})
    data = adapter_of(5, 0, small.recipe)
    stranger = small.packs.write([(data.digest, data.data)])
    young = small.collect(grace_seconds=3_600.0)
    assert (freed(young), young.young) == ({}, 1)
    small.age()
    told = small.collect(yes=False, grace_seconds=3_600.0)
    assert small.packs.exists(stranger.digest)
    done = small.collect(grace_seconds=3_600.0)
    assert freed(told) == freed(done) == {"unknown packs": 1}
    assert told.size_bytes == done.size_bytes == stranger.size_bytes
    assert not small.packs.exists(stranger.digest)


def test_quarantine_is_never_touched(small: CorpusMaker) -> None:
    data = adapter_of(5, 0, small.recipe)
    pack = small.packs.write([(data.digest, data.data)])
    path = Path(small.packs.quarantine(pack.digest))
    small.age()
    assert freed(small.collect(keep_last=1)) == {}
    assert path.stat().st_size == pack.size_bytes


def test_what_killed_writers_left_goes(small: CorpusMaker) -> None:
    small.build({0: 0})
    partial = Path(small.home.packs_url) / "99-00.partial"
    partial.write_bytes(bytes(1_000))
    assert small.collect(grace_seconds=3_600.0).young == 1
    small.age()
    report = small.collect(grace_seconds=3_600.0)
    assert (freed(report), report.size_bytes) == ({"partial files": 1}, 1_000)
    assert not partial.exists()


def test_what_interrupted_pulls_left_goes_when_nobody_went_on_from_it(small: CorpusMaker) -> None:
    small.build({0: 0})
    arrived = small.home.incoming_path / f"{'ab' * 32}.safetensors"
    arrived.parent.mkdir(parents=True)
    arrived.write_bytes(bytes(1_000))
    assert small.collect(grace_seconds=3_600.0).young == 1
    small.age()
    assert freed(small.collect(grace_seconds=3_600.0, yes=False)) == {"partial files": 1}
    assert arrived.exists()
    report = small.collect(grace_seconds=3_600.0)
    assert (freed(report), report.size_bytes) == ({"partial files": 1}, 1_000)
    assert not arrived.exists()


def test_a_damaged_pack_is_left_as_it_is(small: CorpusMaker) -> None:
    small.build(dict.fromkeys(range(10), 0))
    small.build({9: 0, 8: 0})
    small.age()
    (pack,) = small.packs.list()
    path = Path(small.packs.path_of(pack.digest))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    report = small.collect(keep_last=1)
    assert "has other bytes than its digest says" in report.notes[0]
    assert freed(report) == {}
    assert path.read_bytes() == content


def test_a_pack_that_is_named_is_never_deleted(maker: CorpusMaker) -> None:
    maker.build({0: 0})
    (named,) = maker.packs.list()
    data = adapter_of(5, 0, maker.recipe)
    stranger = maker.packs.write([(data.digest, data.data)])
    assert delete_unnamed(maker.catalog, maker.packs, [named.digest, stranger.digest, "ab" * 32]) == [stranger.digest]
    assert maker.packs.exists(named.digest)


def test_staging_rows_of_builds_that_are_over_go(maker: CorpusMaker) -> None:
    running, over = maker.begin("almanac"), maker.begin("handbook")
    with maker.catalog.write() as session:
        stage(session, running, [placed(0)])
        stage(session, over, [placed(1)])
        ended = update(BuildRow).where(BuildRow.id == over)
        session.execute(ended.values(status="failed", finished_at=datetime.now(UTC)))
    assert freed(maker.collect(yes=False)) == freed(maker.collect()) == {"staging rows": 1}
    with maker.catalog.read() as session:
        assert [row.build_id for row in session.query(BuildItemRow)] == [running]


def test_indexes_go_with_their_versions(small: CorpusMaker) -> None:
    for takes in ({0: 0}, {0: 1}, {0: 2}):
        small.build(takes)
    small.age()
    folders = [small.home.index_folder(small.version(f"handbook@v{number}")) for number in (1, 2, 3)]
    documents: list[Document] = [document(0)]
    for folder in folders:
        VersionIndex.build(folder, "en", documents)
    stranger = folders[0].parent / ("ab" * 32)
    shutil.copytree(folders[0], stranger)
    partial = folders[0].parent / (("cd" * 32) + ".partial")
    partial.mkdir()
    note = folders[0].parent / "note"
    note.mkdir()
    before = size_below(small.home.index_path)
    told = small.collect(yes=False, keep_last=2)
    assert size_below(small.home.index_path) == before
    done = small.collect(keep_last=2)
    assert freed(told)["indexes"] == freed(done)["indexes"] == 3
    size_bytes = next(item.size_bytes for item in done.freed if item.kind == "indexes")
    assert before - size_below(small.home.index_path) == size_bytes
    assert [path.exists() for path in (*folders, stranger, partial, note)] == [False, True, True, False, False, True]


def test_indexes_that_are_being_built_are_left_alone(small: CorpusMaker) -> None:
    from registry.index.folders import built_beside

    version = small.build({0: 0})
    folder = small.home.index_folder(version)
    with built_beside(folder) as partial:
        (partial / "file").write_text("half")
        report = small.collect()
        assert "is being built" in report.notes[0]
        assert (partial / "file").exists()
    assert files_below(folder) == [folder / "file"]
    assert small.collect().notes == ()


def test_packs_on_a_remote_store_are_collected_too(small: CorpusMaker) -> None:
    small.packs = PackStore("memory://gc/packs")
    small.home = replace(small.home, packs_url="memory://gc/packs")
    three_versions(small)
    report = small.collect(keep_last=1)
    assert freed(report) == {"adapters": 9, "packs rewritten": 1}
    assert whole(small)["handbook@v3"]
    for pack in list(small.packs.list()):
        small.packs.delete(pack.digest)
