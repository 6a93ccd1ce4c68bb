"""Versions that go from one catalog to another: what is published of them, and what is made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from registry.catalog.adapters import add_pack, forget_packs, pack_digests
from registry.catalog.differences import DocumentChange, compare, list_changes
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.history import list_version_lines
from registry.catalog.members import member_digests
from registry.catalog.models import AdapterRow, MembershipRow
from registry.catalog.references import list_versions, resolve
from registry.catalog.remotes.publishing import (
    corpus_versions,
    delta,
    documents_of_incomplete_versions,
    local_locations,
    member_records,
    recipes_of,
)
from registry.catalog.remotes.receiving import add_records, append_version, check_versions, create_corpus
from registry.catalog.upkeep.checks import altered_augmentations, altered_documents
from registry.catalog.upkeep.collecting import forget_dead, plan_packs
from registry.catalog.upkeep.liveness import Protection
from registry.catalog.upkeep.retention import mark_collected
from registry.catalog.versions import rollback
from registry.errors import IntegrityError, UsageError
from registry.published import PublishedVersion, VersionDelta
from registry.records import Place, PlacedDocument, Version
from tests.catalog.everything import counts
from tests.catalog.exchange import REPOSITORY, Published, publish, receive
from tests.catalog.workshop import Workshop, document, pack_of, placed


@pytest.fixture(scope="module")
def history(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog with a corpus that has some history, to be copied."""
    path = tmp_path_factory.mktemp("author") / "catalog.sqlite"
    shutil.copyfile(sqlite_template, path)
    with open_catalog(f"sqlite:///{path}") as catalog:
        write_history(Workshop(catalog))
    return path


@pytest.fixture
def author(history: Path, tmp_path: Path) -> Iterator[Workshop]:
    """Someone who publishes that corpus, from a catalog of their own."""
    shutil.copyfile(history, tmp_path / "author.sqlite")
    with open_catalog(f"sqlite:///{tmp_path / 'author.sqlite'}") as catalog:
        yield Workshop(catalog)


def write_history(workshop: Workshop) -> None:
    file = "/home/ada/coast.jsonl"
    workshop.build([placed(number, source=file) for number in range(8)])
    # One is gone, one edited in its place, one encoded anew, one moved, one new.
    edited = PlacedDocument(document(100), Place(file, 3, "beacon-3"))
    second = [placed(number, source=file) for number in (0, 1, 4, 5, 6)]
    second += [edited, placed(7, source=file, ordinal=70), placed(9, source=file)]
    workshop.build(second, take=lambda item: int(item == document(4)))
    workshop.build([placed(number, source=file) for number in range(6)])
    workshop.build([*second, placed(3, source=file, ordinal=33)], take=lambda item: int(item == document(4)))


def standing(catalog: Catalog, version: Version) -> dict[str, object]:
    """Return the members of a version with what else its delta tells of them."""
    with catalog.read() as session:
        whole = delta(session, version.corpus, None, version.number, {})
    return {one.document_digest: one for one in whole.opened}


def test_a_received_corpus_is_the_one_that_was_published(author: Workshop, any_catalog: Catalog) -> None:
    receive(any_catalog, "shore", publish(author.catalog, "handbook"), author.catalog)
    with author.catalog.read() as ours, any_catalog.read() as theirs:
        own, received = list_versions(ours, "handbook"), list_versions(theirs, "shore")
        assert [replace(one, corpus="handbook") for one in received] == own
        lines = list_version_lines(theirs, "shore")
        assert [line.size_bytes for line in lines] == [line.size_bytes for line in list_version_lines(ours, "handbook")]
        assert [line.aliases for line in lines] == [()] * 4
        for old in range(4):
            for new in range(4):
                here = list_changes(ours, compare(ours, own[old], own[new]))
                there = list_changes(theirs, compare(theirs, received[old], received[new]))
                assert sorted(map(seen, here), key=str) == sorted(map(seen, there), key=str)
    for one, other in zip(own, received, strict=True):
        mine, theirs_ = standing(author.catalog, one), standing(any_catalog, other)
        assert mine.keys() == theirs_.keys()
        for digest, known in mine.items():
            there = theirs_[digest]
            assert [replace(place, source_uri="") for place in known.places] == [
                replace(place, source_uri="") for place in there.places
            ]
            assert {place.source_uri for place in there.places} == {f"hub:{REPOSITORY}/coast.jsonl"}
            assert (there.line, there.adapter_digest) == (known.line, known.adapter_digest)


def seen(change: DocumentChange) -> tuple[object, ...]:
    sides = (change.old, change.new)
    return (change.kind, *((side.digest, side.adapter_digest, side.ordinal) if side else None for side in sides))


def test_records_arrive_as_they_were(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook")
    receive(any_catalog, "shore", published, author.catalog)
    before = counts(any_catalog)
    with any_catalog.write() as session:
        add_records(session, published.records)
        add_records(session, reversed(published.records[:3]))
    assert counts(any_catalog) == before
    pairs = [(one.document_digest, one.adapter_digest) for one in published.records]
    with any_catalog.read() as session:
        assert list(member_records(session, pairs)) == published.records
        assert not any(altered_documents(session))
        assert not any(altered_augmentations(session))
        assert session.scalars(select(AdapterRow.build_id).distinct()).all() == [None]


def test_a_round_trip_changes_nothing_and_new_versions_follow(author: Workshop, any_catalog: Catalog) -> None:
    reader = Workshop(any_catalog)
    receive(any_catalog, "shore", publish(author.catalog, "handbook"), author.catalog)
    assert publish(any_catalog, "shore", after=4).versions == []
    # The reader builds from a file of their own, which has the same name there.
    own = [placed(number, source="/home/maud/copies/coast.jsonl") for number in (0, 1, 2, 50)]
    reader.build(own, corpus="shore")
    sent = publish(any_catalog, "shore", after=4)
    (change,) = sent.deltas
    assert {place.source_uri for one in change.opened for place in one.places} == {"coast.jsonl"}
    assert document(0).digest not in change.moved, "it stands where it stood, as the repository calls it"
    receive(author.catalog, "handbook", sent, any_catalog)
    with author.catalog.read() as session:
        newest = resolve(session, "handbook@v5")
        (new,) = [
            one
            for one in list_changes(session, compare(session, resolve(session, "handbook@v4"), newest))
            if one.new and one.new.digest == document(50).digest
        ]
        assert new.new is not None
        assert new.new.source_uri == "/home/ada/coast.jsonl"
    with any_catalog.read() as session:
        assert newest.digest == resolve(session, "shore@v5").digest


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1), (1, 4), (4, 1), (1, 3), (3, 2), (2, 4)])
def test_a_delta_makes_one_version_of_the_other(author: Workshop, numbers: tuple[int, int]) -> None:
    before, after = numbers
    with author.catalog.read() as session:
        change = delta(session, "handbook", before, after, {})
        states = {number: delta(session, "handbook", None, number, {}).opened for number in numbers}
    made = {one.document_digest: one for one in states[before]}
    for digest in change.closed:
        del made[digest]
    for digest, places in change.moved.items():
        assert made[digest].places != places
        made[digest] = replace(made[digest], places=places)
    for one in change.opened:
        assert one.document_digest not in made
        made[one.document_digest] = one
    expected = {one.document_digest: one for one in states[after]}
    assert {key: replace(one, shares_line=False) for key, one in made.items()} == {
        key: replace(one, shares_line=False) for key, one in expected.items()
    }


def test_a_version_that_lacks_adapters_is_received_as_collected(author: Workshop, any_catalog: Catalog) -> None:
    with author.catalog.write() as session:
        mark_collected(session, [resolve(session, "handbook@v1")], datetime.now(UTC))
        published = corpus_versions(session, "handbook")
        assert [one.is_complete for one in published] == [False, True, True, True]
        alone = documents_of_incomplete_versions(session, "handbook", published)
        assert alone == set()  # the third version has all of the first, but 6 and 7, which the second has
        assert documents_of_incomplete_versions(session, "handbook", [replace(published[0])]) == {
            document(number).digest for number in range(8)
        }
    sent = publish(author.catalog, "handbook")
    receive(any_catalog, "shore", sent, author.catalog)
    with any_catalog.read() as session:
        assert [one.collected_at is None for one in list_version_lines(session, "shore")] == [True, True, True, False]
    with author.catalog.write() as session:
        forget_packs(session, pack_digests(session))
    assert not any(one.is_complete for one in publish(author.catalog, "handbook").versions)
    assert [one.number for one in sent.versions] == [1, 2, 3, 4]


def test_recipes_and_places_of_adapters_are_told(author: Workshop) -> None:
    with author.catalog.read() as session:
        recipes, models = recipes_of(session, corpus_versions(session, "handbook"))
        adapters = [adapter for _, adapter in member_digests(session, resolve(session, "handbook@v1"))]
        found = list(local_locations(session, [*adapters, "f" * 64]))
    assert recipes == [author.recipe]
    assert [model.fingerprint for model in models] == [author.recipe.base_model]
    assert {one.adapter_digest for one in found} == set(adapters)


def test_what_a_pull_brought_is_safe_until_its_versions_are_made(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook")
    long_ago = [replace(one, created_at=datetime(2001, 1, 1, tzinfo=UTC)) for one in published.records]
    Workshop(any_catalog)
    with any_catalog.write() as session:
        add_records(session, long_ago)
        add_pack(session, pack_of(sorted({one.adapter_digest for one in long_ago})), (), None)
    now = datetime.now(UTC)
    for since, is_kept in ((now - timedelta(hours=1), True), (now + timedelta(hours=1), False)):
        protection = Protection(lambda *_: False, since)
        with any_catalog.scratch() as session:
            plan = plan_packs(session, protection)
        assert (plan.dead == ()) == is_kept
        with any_catalog.write() as session:
            packs = [use.pack_id for use in plan.dead]
            assert len(forget_dead(session, protection, packs)) == (not is_kept)


Forge = Callable[[PublishedVersion, VersionDelta], tuple[PublishedVersion, VersionDelta]]

REFUSED: dict[str, tuple[str, Forge]] = {
    "a digest": ("another digest", lambda version, change: (replace(version, digest="f" * 64), change)),
    "documents": ("documents, not 99", lambda version, change: (replace(version, documents=99), change)),
    "bytes": ("bytes, not 7", lambda version, change: (replace(version, size_bytes=7), change)),
    "closed": (
        "not in the newest version",
        lambda version, change: (version, replace(change, closed=change.closed | {document(2).digest})),
    ),
    "moved": (
        "not in the newest version",
        lambda version, change: (version, replace(change, moved={document(2).digest: ()})),
    ),
    "opened": (
        "is in the newest version already",
        lambda version, change: (version, replace(change, closed=frozenset())),
    ),
    "twice": (
        "comes into a version twice",
        lambda version, change: (version, replace(change, opened=change.opened * 2)),
    ),
    "moved and gone": (
        "both moves and goes",
        lambda version, change: (version, replace(change, moved={min(change.closed): ()})),
    ),
}


def test_deltas_that_do_not_fit_are_refused(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook")
    first = Published(published.versions[:2], published.deltas[:2], published.records)
    receive(any_catalog, "shore", first, author.catalog)
    with any_catalog.read() as session:
        assert document(2).digest not in dict(member_digests(session, resolve(session, "shore@v2")))
    before = counts(any_catalog)
    for message, forge in REFUSED.values():
        version, change = forge(published.versions[2], published.deltas[2])
        with pytest.raises(IntegrityError, match=message), any_catalog.write() as session:
            append_version(session, "shore", version, parent=2, delta=change, repository=REPOSITORY)
        assert counts(any_catalog) == before
    with any_catalog.write() as session:
        version, change = published.versions[2], published.deltas[2]
        made = append_version(session, "shore", version, parent=2, delta=change, repository=REPOSITORY)
    assert made.reference == "shore@v3"


def test_adapters_that_lie_nowhere_are_refused(author: Workshop, any_catalog: Catalog) -> None:
    with pytest.raises(IntegrityError, match="neither in a pack nor in a repository"):
        receive(any_catalog, "shore", publish(author.catalog, "handbook"), author.catalog, lies=False)
    receive(any_catalog, "shore", publish(author.catalog, "handbook"), author.catalog)


def test_a_corpus_has_one_language(any_catalog: Catalog) -> None:
    with any_catalog.write() as session:
        assert create_corpus(session, "shore", "en") == create_corpus(session, "shore", "en")
        with pytest.raises(UsageError, match="is in language 'en'"):
            create_corpus(session, "shore", "de")


def test_check_versions_names_the_one_that_is_not_right(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook")
    wrong = [replace(one, digest="f" * 64) if one.number == 3 else one for one in published.versions]
    with pytest.raises(IntegrityError, match="shore@v3 is not what it was published as"):
        receive(any_catalog, "shore", replace(published, versions=wrong), author.catalog)
    receive(any_catalog, "shore", published, author.catalog)
    with any_catalog.read() as session:
        check_versions(session, "shore", [1, 2, 3, 4])


def test_two_documents_at_one_place_are_no_obstacle(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook")
    place = (Place("coast.jsonl", 0),)
    first = replace(published.deltas[0], opened=tuple(replace(one, places=place) for one in published.deltas[0].opened))
    receive(any_catalog, "shore", Published(published.versions[:1], [first], published.records), author.catalog)
    with any_catalog.read() as session:
        held = delta(session, "shore", None, 1, {}).opened
    assert [one.document_digest for one in held if one.places] == [held[0].document_digest]


def test_telling_places_that_did_not_change_changes_nothing(author: Workshop, any_catalog: Catalog) -> None:
    published = publish(author.catalog, "handbook")
    receive(any_catalog, "shore", published, author.catalog)
    again = replace(published.versions[3], number=5, parent=4)
    with author.catalog.read() as session:
        places = {"/home/ada/coast.jsonl": "coast.jsonl"}
        moved = {one.document_digest: one.places for one in delta(session, "handbook", None, 4, places).opened}
    before = counts(any_catalog)
    receive(any_catalog, "shore", Published([again], [VersionDelta(frozenset(), (), moved)], []), author.catalog)
    assert counts(any_catalog) == before | {"versions": 5}
    with any_catalog.read() as session:
        assert (
            session.scalar(select(func.count()).select_from(MembershipRow).where(MembershipRow.from_version == 5)) == 0
        )


def test_a_version_after_a_rollback_has_its_own_parent(author: Workshop, any_catalog: Catalog) -> None:
    with author.catalog.write() as session:
        rollback(session, "handbook@v1", who="ada")
    author.build([placed(1), placed(60)])
    receive(any_catalog, "shore", publish(author.catalog, "handbook"), author.catalog)
    with any_catalog.read() as session:
        assert [one.parent for one in list_versions(session, "shore")] == [None, 1, 2, 3, 1]
