"""Texts that were withheld: what is known without them, and how they come."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.catalog.adapters import add_pack
from registry.catalog.augmentations import add_augmentations, find_augmentations, find_withheld
from registry.catalog.builds import BuildCounts, finish_build, stage
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.listing import show_document
from registry.catalog.members import indexed_documents, members, withheld_documents
from registry.catalog.recipes import add_recipe
from registry.catalog.references import resolve
from registry.catalog.remotes.publishing import delta, member_records, withheld_texts
from registry.catalog.remotes.receiving import add_places, add_records, fill_documents
from registry.catalog.upkeep.checks import altered_augmentations, altered_documents, count_texts
from registry.catalog.upkeep.version_checks import counted_members, document_digests, version_states
from registry.catalog.versions import commit_version, set_alias
from registry.digests import text_key
from registry.errors import NotFoundError
from registry.pipeline.augment import augment
from registry.pipeline.encode import plan_adapters
from registry.pipeline.opened import Registry, opened
from registry.pipeline.search import search
from registry.pipeline.staging import look_up
from registry.progress import Silent
from registry.published import MemberRecord
from registry.recipe import Recipe
from registry.records import Augmentation, PlacedDocument, StagedDocument
from registry.reports.definitions import read_report
from registry.reports.running import run_report
from registry.settings import Home, create_home
from registry.upkeep.verify.run import VerifyRequest, verify
from tests.catalog.exchange import publish, receive
from tests.catalog.workshop import Workshop, augmentation_of, document, encoded_adapter, pack_of, placed

PLACED = [placed(number) for number in range(6)]
DIGESTS = [item.document.digest for item in PLACED]
SILENT = Silent()


@dataclass
class Scribe:
    """An augmenter that notes what it is asked; ``take`` makes it write something else."""

    take: str = ""
    is_costly: bool = True
    generator: str = "import"
    asked: list[str] = field(default_factory=list)

    def request_digest(self, staged: StagedDocument) -> str:
        return augmentation_of(staged.document).request_digest

    def augment(self, documents: Sequence[StagedDocument]) -> Iterator[Augmentation]:
        for staged in documents:
            self.asked.append(staged.document.digest)
            written = augmentation_of(staged.document)
            yield replace(written, rewrites=(f"{self.take}{written.rewrites[0]}",))

    def finish(self) -> None:
        pass


@pytest.fixture
def author(sqlite_template: Path, tmp_path: Path) -> Iterator[Workshop]:
    """Someone who publishes a corpus from a catalog of their own."""
    shutil.copyfile(sqlite_template, tmp_path / "author.sqlite")
    with open_catalog(f"sqlite:///{tmp_path / 'author.sqlite'}") as catalog:
        workshop = Workshop(catalog)
        workshop.build(PLACED)
        yield workshop


@pytest.fixture
def home(sqlite_template: Path, tmp_path: Path) -> Home:
    """A registry home with an empty catalog, which was copied."""
    home = create_home(tmp_path / "home")
    shutil.copyfile(sqlite_template, home.catalog_url.removeprefix("sqlite:///"))
    return home


@pytest.fixture
def registry(home: Home, author: Workshop) -> Iterator[Registry]:
    """A registry that has the author's corpus as ``shore``, but no text and no adapter of it."""
    with opened(home) as registry:
        receive(registry.catalog, "shore", publish(author.catalog, "handbook", withheld="all"), author.catalog)
        with registry.catalog.write() as session:
            set_alias(session, resolve(session, "shore@v1"), "latest", who="maud")
        yield registry


def staged(registry: Registry, recipe: Recipe, items: Sequence[PlacedDocument] = PLACED) -> int:
    workshop = Workshop(registry.catalog)
    workshop.recipe = recipe
    with registry.catalog.write() as session:
        add_recipe(session, recipe)
        build = workshop.begin(session, "shore")
        stage(session, build, items)
    return build


def known_there(catalog: Catalog) -> list[tuple[object, ...]]:
    query = "SELECT digest, title, text, characters, text_key, withheld FROM documents ORDER BY id"
    with catalog.read() as session:
        return [tuple(row) for row in session.execute(text(query))]


def complete(items: Sequence[PlacedDocument]) -> list[tuple[object, ...]]:
    one = [item.document for item in items]
    return [(d.digest, d.title, d.text, len(d.text), text_key(d.text), False) for d in one]


def test_without_texts_all_but_texts_is_known(author: Workshop, any_catalog: Catalog) -> None:
    receive(any_catalog, "shore", publish(author.catalog, "handbook", withheld="all"), author.catalog)
    with any_catalog.read() as session:
        version = resolve(session, "shore@v1")
        assert withheld_documents(session, version) == withheld_texts(session, "shore", 1, 1) == 6
        assert list(indexed_documents(session, version)) == []
        assert {held.text for held, _ in members(session, version)} == {""}
        (state,) = version_states(session)
        assert document_digests(session, state) == []
        (counted,) = counted_members(session, [state]).values()
        assert (counted.documents, counted.withheld) == (6, 6)
        assert (list(altered_documents(session)), list(altered_augmentations(session))) == ([], [])
        assert count_texts(session) == (0, 0)
        request = augmentation_of(document(0)).request_digest
        assert find_augmentations(session, request, DIGESTS) == {}
        found = find_withheld(session, dict.fromkeys(DIGESTS, request))
        assert {digest: known.digest for digest, known in found.items()} == {
            item.document.digest: augmentation_of(item.document).digest for item in PLACED
        }
        assert found[DIGESTS[0]].pairs == 1
    with run_report(any_catalog.url, read_report("duplicates"), {}) as found_rows:
        assert list(found_rows) == []
    with run_report(any_catalog.url, read_report("storage"), {}) as found_rows:
        assert {(row[0], row[2], row[4]) for row in found_rows if row[0] != "packs"} == {
            ("corpus", 6, 0), ("recipe", 6, 0), ("base model", 6, 0),
        }  # fmt: skip


def test_some_texts_may_be_withheld(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook", withheld=DIGESTS[:2])
    receive(any_catalog, "shore", published, author.catalog)
    pairs = [(one.document_digest, one.adapter_digest) for one in published.records]
    with any_catalog.read() as session:
        version = resolve(session, "shore@v1")
        assert withheld_documents(session, version) == 2
        assert {held.digest for held in indexed_documents(session, version)} == set(DIGESTS[2:])
        assert list(member_records(session, pairs)) == published.records
        assert not any(altered_documents(session))
        for digest, withheld in zip(DIGESTS, [True] * 2 + [False] * 4, strict=True):
            shown = show_document(session, digest)
            assert (shown.withheld, [one.withheld for one in shown.augmentations]) == (withheld, [withheld])


def test_texts_that_come_later_are_filled_in(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook", withheld="all")
    receive(any_catalog, "shore", published, author.catalog)
    with any_catalog.write() as session:
        assert fill_documents(session, [document(0), document(0), document(99)]) == 1
    with any_catalog.read() as session:
        assert withheld_documents(session, resolve(session, "shore@v1")) == 5
        (record,) = member_records(session, [pair(published.records, document(0).digest)])
        assert (record.title, record.payload) == (document(0).title, None), "its augmentation is withheld still"
    with any_catalog.write() as session:
        add_records(session, publish(author.catalog, "handbook").records)
        add_records(session, published.records)
    assert sorted(known_there(any_catalog)) == sorted(complete(PLACED))
    with any_catalog.read() as session:
        request = augmentation_of(document(0)).request_digest
        found = find_augmentations(session, request, DIGESTS)
        assert found == {item.document.digest: augmentation_of(item.document) for item in PLACED}
        assert not any(altered_augmentations(session))


def test_places_come_with_the_texts(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook", withheld="all")
    (opened_,) = published.deltas
    nowhere = replace(
        opened_, opened=tuple(replace(one, places=()) for one in opened_.opened[:-1]) + opened_.opened[-1:]
    )
    receive(any_catalog, "shore", replace(published, deltas=[nowhere]), author.catalog)
    twice = [*PLACED, placed(0, source="again.txt"), placed(99)]
    with any_catalog.write() as session:
        add_places(session, "shore", twice)
        add_places(session, "shore", [placed(1, source="never.txt")])
    with any_catalog.read() as session:
        held = {one.document_digest: one.places for one in delta(session, "shore", None, 1, {}).opened}
    known = opened_.opened[-1].document_digest
    assert {place.source_uri for place in held.pop(known)} == {"hub:ada/coast/coast.jsonl"}
    expected = {
        digest: tuple(sorted((item.place for item in twice if item.document.digest == digest), key=str))
        for digest in DIGESTS
        if digest != known
    }
    assert {digest: tuple(sorted(places, key=str)) for digest, places in held.items()} == expected


def pair(records: Sequence[MemberRecord], digest: str) -> tuple[str, str]:
    return next((one.document_digest, one.adapter_digest) for one in records if one.document_digest == digest)


def test_a_build_brings_the_texts_and_trains_nothing(registry: Registry, author: Workshop) -> None:
    build, scribe = staged(registry, author.recipe), Scribe()
    augment(registry, build, scribe, author.recipe.digest, SILENT)
    plan = plan_adapters(registry, build, scribe, author.recipe.digest)
    assert (scribe.asked, plan.missing, plan.documents) == ([], [], 6)
    assert (plan.augmentations.pairs, plan.augmentations.dropped_pairs) == (6, 12)
    with registry.catalog.write() as session:
        version, is_new = commit_version(session, build, {}, recipe_digest=author.recipe.digest, message="")
        finish_build(session, build, status="finished", counts=BuildCounts())
    assert (version.reference, is_new) == ("shore@v1", False)
    assert sorted(known_there(registry.catalog)) == sorted(complete(PLACED))


def test_another_recipe_has_them_augmented_anew(registry: Registry, author: Workshop) -> None:
    other, scribe = replace(author.recipe, epochs=7), Scribe(take="otherwise: ")
    build = staged(registry, other)
    augment(registry, build, scribe, other.digest, SILENT)
    assert sorted(scribe.asked) == sorted(DIGESTS)
    plan = plan_adapters(registry, build, scribe, other.digest)
    assert sorted(digest for _, digest in plan.missing) == sorted(DIGESTS)
    assert set(plan.sample) == set(DIGESTS)
    with registry.catalog.read() as session:
        made = find_augmentations(session, augmentation_of(document(0)).request_digest, DIGESTS)
    assert {one.rewrites[0][:9] for one in made.values()} == {"otherwise"}
    # What the first recipe gave is found as before, and nobody is asked again.
    again = staged(registry, author.recipe)
    augment(registry, again, scribe, author.recipe.digest, SILENT)
    assert plan_adapters(registry, again, scribe, author.recipe.digest).missing == []
    assert len(scribe.asked) == 6


def test_a_document_more_is_all_that_is_asked_for(registry: Registry, author: Workshop) -> None:
    build, scribe = staged(registry, author.recipe, [*PLACED, placed(7)]), Scribe()
    augment(registry, build, scribe, author.recipe.digest, SILENT)
    plan = plan_adapters(registry, build, scribe, author.recipe.digest)
    assert scribe.asked == [digest for _, digest in plan.missing] == plan.sample == [document(7).digest]


@pytest.mark.parametrize("is_costly", [True, False])
def test_what_a_build_would_find_is_told_beforehand(registry: Registry, author: Workshop, is_costly: bool) -> None:
    documents = [StagedDocument(item.document) for item in [*PLACED, placed(7)]]
    scribe = Scribe(is_costly=is_costly)
    (known,) = look_up(registry, scribe, author.recipe.digest, documents)
    assert [one.adapter_digest is None for one in known] == [False] * 6 + [True]
    assert scribe.asked == ([] if is_costly else [document(7).digest])
    (known,) = look_up(registry, scribe, replace(author.recipe, epochs=7).digest, documents)
    assert {one.adapter_digest for one in known} == {None}
    assert {one.augmentation is None for one in known} == {is_costly}


def test_the_same_answer_with_its_content_fills_what_was_withheld(registry: Registry) -> None:
    written = [augmentation_of(item.document) for item in PLACED]
    with registry.catalog.write() as session:
        add_augmentations(session, written)
    with registry.catalog.read() as session:
        assert find_withheld(session, {one.document_digest: one.request_digest for one in written}) == {}
        found = find_augmentations(session, written[0].request_digest, DIGESTS)
        assert found == {one.document_digest: one for one in written}
        assert not any(altered_augmentations(session))


def test_search_says_that_texts_are_lacking(registry: Registry, home: Home) -> None:
    with pytest.raises(NotFoundError, match=r"nothing can be found in 6 of the 6 documents of shore@v1") as caught:
        search(home, "shore", "Who lit beacon 2?", 3)
    assert "pragreg build SOURCE... --corpus shore" in str(caught.value.hint)
    assert sound(registry)
    with registry.catalog.write() as session:
        fill_documents(session, [document(2), document(3)])
    version, hits = search(home, "shore", "Who lit beacon 2?", 3)
    assert hits[0].document.title == "Beacon 2"
    with pytest.raises(NotFoundError, match="4 of the 6 documents"):
        search(home, "shore", "windmills", 3)
    assert sound(registry)
    with registry.catalog.write() as session:
        fill_documents(session, [item.document for item in PLACED])
    assert {hit.document.title for hit in search(home, "shore", "beacon coast", 9)[1]} == {
        item.document.title for item in PLACED
    }
    assert search(home, "shore", "windmills", 3) == (version, ())
    assert sound(registry)


def sound(registry: Registry) -> bool:
    report = verify(registry.home, registry.catalog, registry.packs, VerifyRequest(deep=True, jobs=1), SILENT)
    assert [finding.kind for finding in report.findings] == []
    return report.is_sound


def test_builds_beside_each_other_fill_in_the_same_texts(author: Workshop, any_catalog: Catalog) -> None:
    receive(any_catalog, "shore", publish(author.catalog, "handbook", withheld="all"), author.catalog)
    workshop = Workshop(any_catalog)
    with any_catalog.write() as session:
        builds = [workshop.begin(session, corpus) for corpus in ("mill", "press")]
    failures: list[BaseException] = []

    def run(build: int, items: Sequence[PlacedDocument]) -> None:
        try:
            for _ in range(5):
                with any_catalog.write() as session:
                    stage(session, build, items)
        except BaseException as error:
            failures.append(error)

    more = [placed(number) for number in range(6, 40)]
    threads = [
        threading.Thread(target=run, args=(build, items))
        for build, items in zip(builds, ([*PLACED, *more], [*reversed(more), *reversed(PLACED)]), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(known_there(any_catalog)) == sorted(complete([*PLACED, *more]))


def test_an_adapter_here_and_there_is_found_whoever_made_it(registry: Registry, author: Workshop) -> None:
    """Where the author's adapter of a document is known, the reader's own of another recipe stands beside it."""
    other = replace(author.recipe, epochs=7)
    build = staged(registry, other)
    written = [augmentation_of(item.document) for item in PLACED]
    adapters = [encoded_adapter(one, other) for one in written]
    with registry.catalog.write() as session:
        add_augmentations(session, written)
        add_pack(session, pack_of([one.digest for one in adapters]), adapters, build)
    for recipe in (author.recipe, other):
        plan = plan_adapters(registry, staged(registry, recipe), Scribe(), recipe.digest)
        assert plan.missing == []
