"""Pushes of corpora that were made without training to a stand-in for the Hub: what is there is what is here."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest

from registry.catalog.aliases import rollback
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.evaluations import EvaluationRecord, ResultRecord, add_evaluation
from registry.catalog.remotes.remotes import find_remote, locate_remote
from registry.errors import NotFoundError, UsageError
from registry.hub.names import pack_path
from registry.recipe import Recipe
from registry.store.packs import PackStore
from tests.catalog.workshop import BASE_MODEL, placed
from tests.hub.server import HubServer
from tests.pipeline.pushed import PACK_BYTES, REPOSITORY, Push, check, every_text, held, takes
from tests.upkeep.corpus_maker import ADAPTER_BYTES, CorpusMaker, adapter_of


def test_first_push(hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push) -> None:
    crafted.build(takes(30))
    report = send()
    assert (report.state, report.created, report.versions, report.latest) == ("new", True, (1,), 1)
    assert (report.sent.adapters, report.sent.records, report.tags) == (30, 30, ("v1",))
    there = check(hub, catalog)
    state = hub.state(REPOSITORY)
    assert state.head == report.commit_id == state.tags["v1"]
    # The commit that makes a repository, and one push.
    assert len(state.commits) == 2
    assert not state.private
    assert (there.root.corpus, there.root.has_text, there.root.adapters) == ("handbook", True, 30)
    assert hub.counters()["requests"] <= 20
    with catalog.read() as session:
        known = find_remote(session, hub.endpoint, REPOSITORY, "handbook")
        locations = locate_remote(session, [row.adapter_digest for row in there.rows])
    assert known is not None
    assert (known.commit_id, known.root.encode()) == (report.commit_id, hub.read(REPOSITORY, "pragreg.json"))
    assert known.pushed_at is not None
    assert {row.adapter_digest: (row.pack, row.offset, row.size_bytes) for row in there.rows} == {
        digest: (place.pack, place.offset, place.size_bytes) for digest, place in locations.items()
    }


def test_push_of_nothing_new_asks_once_and_commits_nothing(hub: HubServer, crafted: CorpusMaker, send: Push) -> None:
    crafted.build(takes(10))
    first = send()
    again = send()
    assert (again.state, again.commit_id, again.versions, again.tags) == ("equal", None, (), ())
    assert hub.counters()["by_kind"] == {"GET refs 200": 1}
    assert hub.state(REPOSITORY).head == first.commit_id


def test_edits_send_what_is_new(hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push) -> None:
    crafted.build(takes(30))
    send()
    before = hub.state(REPOSITORY)
    crafted.build(takes(30, d3=1))
    crafted.build(takes(31, d3=1, d4=2))
    report = send()
    assert (report.state, report.versions, report.tags) == ("ahead", (2, 3), ("v2", "v3"))
    assert (report.sent.adapters, report.sent.reused) == (3, 0)
    there = check(hub, catalog)
    assert len(hub.state(REPOSITORY).commits) == 3
    assert hub.counters()["requests"] < 20
    added = hub.state(REPOSITORY).files.keys() - before.files.keys()
    assert sum(path.startswith("packs/") for path in added) == 1
    assert {path for path in before.files if not path.startswith("shards/")} <= hub.state(REPOSITORY).files.keys()
    # The old commit is as it was.
    assert held(hub, commit=before.head).pairs(1) == there.pairs(1)
    # Back to the first form: the repository has all of it already.
    crafted.build(takes(31, d4=2))
    report = send()
    assert (report.sent.adapters, report.sent.reused, report.sent.records) == (0, 1, 0)
    check(hub, catalog)


def test_many_versions_at_once_keep_their_parents(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    for number in range(1, 7):
        crafted.build(takes(12, d1=number))
    with catalog.write() as session:
        rollback(session, "handbook@v2")
    crafted.build(takes(12, d2=1))
    assert send().versions == (1, 2, 3, 4, 5, 6, 7)
    there = check(hub, catalog)
    assert [version.parent for version in there.root.versions] == [None, 1, 2, 3, 4, 5, 2]


def test_latest_moves_without_a_new_version(hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push) -> None:
    crafted.build(takes(5))
    crafted.build(takes(5, d1=1))
    first = send()
    with catalog.write() as session:
        rollback(session, "handbook@v1")
    moved = send()
    assert (moved.state, moved.versions, moved.latest) == ("equal", (), 1)
    assert moved.commit_id not in (None, first.commit_id)
    assert check(hub, catalog).root.latest == 1
    assert send().commit_id is None


def test_a_reference_pushes_up_to_that_version(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    versions = [crafted.build(takes(5, d1=number)) for number in range(3)]
    assert send(reference="handbook@v2").versions == (1, 2)
    assert check(hub, catalog).root.latest == 2
    assert send(reference=f"handbook@{versions[2].digest[:12]}").versions == (3,)
    assert send(reference="handbook@v1").versions == ()
    assert check(hub, catalog).root.latest == 1


def test_collected_versions_are_history_only(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(6))
    crafted.build(takes(6, d1=1))
    crafted.build(takes(6, d2=1))
    crafted.age()
    crafted.collect(keep_last=1)
    with pytest.raises(NotFoundError, match=r"handbook@v2 was collected"):
        send(reference="handbook@v2")
    assert not hub.counters()["commits"]
    send()
    there = check(hub, catalog)
    assert [version.is_complete for version in there.root.versions] == [True, False, True]
    lost = adapter_of(1, 1, crafted.recipe)
    (row,) = there.rows_of(lost.digest)
    assert (row.pack, row.offset) == (None, None)
    assert there.record(row).title == "Beacon 1"  # other versions have the document, too


def test_what_only_collected_versions_had_comes_without_its_text(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(5))
    crafted.build(takes(6))
    crafted.build(takes(5, d0=1))
    crafted.age()
    crafted.collect(keep_last=1)
    send()
    there = check(hub, catalog)
    gone = adapter_of(5, 0, crafted.recipe)
    (row,) = there.rows_of(gone.digest)
    record = there.record(row)
    assert (record.title, record.text, record.payload, row.places) == (None, None, None, ())
    assert not [path for path, text in every_text(hub) if "keeper number 5" in text or "beacon-5" in text]
    # Now a version has it again, and its adapter comes anew.
    crafted.build(takes(6, d0=1))
    send()
    again = check(hub, catalog)
    assert [version.is_complete for version in again.root.versions] == [True, False, True, True]
    assert [again.record(row).title for row in again.rows_of(gone.digest)] == [None, "Beacon 5"]


def test_packs_go_as_they_are_where_they_fit(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(7))  # a pack of its own, larger than a quarter and smaller than the whole
    crafted.build(takes(8))  # one adapter
    crafted.build(takes(9))  # and another
    crafted.build(takes(20))  # eleven, too many for a pack
    stored = {pack.size_bytes: pack.digest for pack in crafted.packs.list()}
    report = send(pack_size_bytes=PACK_BYTES)
    assert (report.sent.whole_packs, report.sent.composed_packs, report.sent.adapters) == (1, 2, 20)
    there = check(hub, catalog)
    sizes = sorted(len(data) for data in there.packs.values())
    assert stored[sizes[1]] in there.packs
    assert len(stored.keys() & set(sizes)) == 1
    assert sum(sizes) == report.sent.packs_bytes
    assert there.root.pack_size_bytes == PACK_BYTES
    # What is made of others is in order of the documents.
    made = [ref for digest, ref in {row.pack.digest: row.pack for row in there.rows if row.pack}.items()]
    order = [[row.offset for row in there.rows if row.pack == ref] for ref in made if ref.digest not in stored.values()]
    assert order == [sorted(filter(None, offsets)) for offsets in order]
    # The size that it was begun with stays.
    crafted.build(takes(32))
    assert send().sent.composed_packs == 2
    assert check(hub, catalog).root.pack_size_bytes == PACK_BYTES


def test_nothing_of_another_corpus_is_published(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(12), corpus="secrets")
    crafted.build(takes(6))  # lies in the same pack
    crafted.encode(None, {3: 5})  # of no version at all
    assert send(pack_size_bytes=20 * ADAPTER_BYTES).sent.whole_packs == 0
    there = check(hub, catalog)
    assert there.pairs(1).keys() == {adapter_of(number, 0, crafted.recipe).document_digest for number in range(6)}
    (pack,) = there.packs.values()
    assert len(pack) < 7 * ADAPTER_BYTES
    secrets = [adapter_of(number, 0, crafted.recipe) for number in range(6, 12)]
    assert not [path for path, text in every_text(hub) for one in secrets if one.digest in text]
    assert not [path for path, text in every_text(hub) if "keeper number 7" in text or "secrets" in text]


def test_without_texts_no_word_of_them_is_there(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(6))
    assert not send(has_text=False).has_text
    crafted.build(takes(7, d1=1))
    send(has_text=False)
    there = check(hub, catalog)
    assert not there.root.has_text
    records = list(there.records.values())
    assert all((record.title, record.text, record.payload) == (None, None, None) for record in records)
    assert {row.places for row in there.rows} == {()}
    for path, text in every_text(hub):
        assert "Ostrel" not in text, path
        assert "beacon" not in text.lower(), path
        assert "coast.jsonl" not in text, path
    with pytest.raises(UsageError, match="begun without texts") as refused:
        send()
    assert "--no-text" in str(refused.value.hint)


def test_a_repository_with_texts_takes_none_without(hub: HubServer, crafted: CorpusMaker, send: Push) -> None:
    crafted.build(takes(3))
    send()
    with pytest.raises(UsageError, match="begun with texts"):
        send(has_text=False)


def test_dry_run_says_what_then_happens(hub: HubServer, crafted: CorpusMaker, send: Push) -> None:
    crafted.build(takes(7))
    crafted.build(takes(12))
    said = send(dry_run=True, tag="good", pack_size_bytes=PACK_BYTES)
    assert hub.counters()["by_kind"] == {"GET refs 404": 1}
    with pytest.raises(RuntimeError, match="404"):
        hub.state(REPOSITORY)
    done = send(tag="good", pack_size_bytes=PACK_BYTES)
    nothing = {"records_bytes": None, "shards_bytes": None}
    assert replace(said.sent, **nothing) == replace(done.sent, **nothing)
    same = ("versions", "references", "latest", "tags", "created", "state")
    assert [getattr(said, name) for name in same] == [getattr(done, name) for name in same]
    assert said.commit_id is None
    crafted.build(takes(12, d1=1))
    before = hub.state(REPOSITORY)
    said = send(dry_run=True)
    assert (said.versions, said.sent.adapters, said.sent.shards, said.tags) == ((3,), 1, 1, ("v3",))
    assert hub.state(REPOSITORY) == before
    assert {row["method"] for row in hub.requests()} == {"GET"}


def test_paths_of_this_machine_are_not_published(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, source in enumerate(("/home/ada/projects/coast/north/a.jsonl", "https://ada:word@host/b.txt?key=word")):
        monkeypatch.setattr("tests.upkeep.corpus_maker.placed", partial(placed, source=source))
        crafted.build(takes(4, d0=number))
    send()
    there = check(hub, catalog)
    sources = {place.source_uri for row in there.rows for place in row.places}
    assert "a.jsonl" in sources
    assert len(sources) == 2
    for path, text in every_text(hub):
        assert "ada/projects" not in text, path
        assert "word@" not in text, path
        assert "key=word" not in text, path


def test_messages_cannot_drive_a_terminal(hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push) -> None:
    crafted.build(takes(3))
    send(message="first \x1b[31mred\x07\nand more")
    assert hub.state(REPOSITORY).commits[0][1] == "first  [31mred"
    assert "\x1b" not in hub.read(REPOSITORY, "README.md").decode()


def test_recipes_with_a_task_adapter_bring_it(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    pack = crafted.warm_up()
    digest = pack.adapters[0].adapter_digest
    started = Recipe(base_model=BASE_MODEL.fingerprint, task_adapter=digest)
    warm = CorpusMaker(crafted.home, catalog, crafted.packs, recipe=started)
    warm.build(takes(3))
    send()
    there = check(hub, catalog)
    (published,) = there.root.task_adapters
    assert (published.task_adapter.digest, published.pack.digest) == (digest, pack.digest)
    assert hub.read(REPOSITORY, pack_path(pack.digest)) == b"".join(crafted.packs.stream(pack.digest))
    # It is there once, whatever comes later.
    warm.build(takes(4))
    send()
    assert len(check(hub, catalog).root.task_adapters) == 1
    assert pack_path(pack.digest) not in {row["path"] for row in hub.requests() if row["method"] == "PUT"}


def test_packs_at_a_url_are_sent_too(hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push) -> None:
    home = replace(crafted.home, packs_url=f"memory://{crafted.home.path}/packs")
    far = CorpusMaker(home, catalog, PackStore(home.packs_url))
    far.build(takes(7))
    far.build(takes(8))
    report = send(home=home, pack_size_bytes=PACK_BYTES)
    assert (report.sent.whole_packs, report.sent.composed_packs) == (1, 1)
    check(hub, catalog)
    assert list((home.hub_path / "outgoing").iterdir()) == []


@pytest.mark.postgres
def test_a_catalog_on_postgresql(hub: HubServer, crafted: CorpusMaker, send: Push, postgres_url: str) -> None:
    home = replace(crafted.home, catalog_url=postgres_url)
    with open_catalog(postgres_url) as catalog:
        maker = CorpusMaker(home, catalog, crafted.packs)
        maker.build(takes(4))
        send(home=home)
        maker.build(takes(4, d1=1))
        assert send(home=home).versions == (2,)
        check(hub, catalog)
        assert send(home=home).commit_id is None
        assert hub.counters()["requests"] == 1


def test_the_card_tells_of_the_newest_evaluation(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    for number in range(2):
        crafted.build(takes(3, d0=number))
    with catalog.write() as session:
        for number, mean in ((1, 0.5), (2, 0.625)):
            add_evaluation(session, evaluation(f"handbook@v{number}", crafted.recipe.digest, mean))
    send(reference="handbook@v1", licence="mit")
    card = hub.read(REPOSITORY, "README.md").decode()
    assert "license: mit" in card
    assert ("0.500" in card, "0.625" in card) == (True, False)
    # The licence stays, the evaluation is the new version's.
    send()
    card = hub.read(REPOSITORY, "README.md").decode()
    assert "license: mit" in card
    assert "0.625" in card


def evaluation(version: str, recipe: str, mean: float) -> EvaluationRecord:
    scores = {name: (mean, mean, mean) for name in ("exact_match", "f1", "contains")}
    result = ResultRecord("prag", 3, "sum", "", 100, 10.0, 1.0, 2.0, scores)
    return EvaluationRecord(
        version=version,
        recipe_digest=recipe,
        questions_name="questions",
        questions_digest=recipe,
        questions=100,
        sample=None,
        seed=0,
        gold=False,
        dtype="float32",
        device="cpu",
        program_version="1",
        created_at=datetime.now(UTC),
        folder="out",
        results=(result,),
    )
