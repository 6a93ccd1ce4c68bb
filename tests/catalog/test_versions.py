from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import func, select, update

from registry.catalog.builds import stage
from registry.catalog.listing import list_documents, show_document
from registry.catalog.members import documents_by_record
from registry.catalog.models import MembershipRow, PlaceRow, VersionRow, utc_now
from registry.catalog.versions import (
    AliasMove,
    alias_history,
    aliases,
    assign_adapters,
    changes,
    commit_version,
    latest_version,
    list_versions,
    members,
    members_by_document,
    resolve,
    resolve_open,
    rollback,
    set_alias,
    version_digest,
)
from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.records import Place, PlacedDocument, Version
from tests.catalog.workshop import Workshop, document, placed


def content(workshop: Workshop, version: Version) -> dict[str, str]:
    with workshop.catalog.read() as session:
        return {item.digest: adapter for item, adapter in members(session, version)}


def rows(workshop: Workshop) -> tuple[int, int]:
    """Count the rows of memberships and places."""
    with workshop.catalog.read() as session:
        counts = [session.scalar(select(func.count()).select_from(row)) for row in (MembershipRow, PlaceRow)]
    return counts[0] or 0, counts[1] or 0


def test_a_version_is_what_was_built(workshop: Workshop) -> None:
    version, created = workshop.build([placed(number) for number in range(5)])
    assert created
    assert (version.corpus, version.number, version.parent, version.documents) == ("handbook", 1, None, 5)
    assert version.recipe_digest == workshop.recipe.digest
    assert version.reference == "handbook@v1"
    with workshop.catalog.read() as session:
        found = list(members(session, version))
    assert [item for item, _ in found] == sorted(map(document, range(5)), key=lambda item: item.digest)
    # Independently of the code: the identity as it is documented.
    lines = [workshop.recipe.digest, *(f"{item.digest} {adapter}" for item, adapter in found)]
    assert version.digest == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_building_the_same_again_makes_no_version(workshop: Workshop) -> None:
    first, _ = workshop.build([placed(1), placed(2)])
    before = rows(workshop)
    again, created = workshop.build([placed(2), placed(1)])
    assert not created
    assert again == first
    assert rows(workshop) == before


def test_a_version_costs_rows_for_what_changed(workshop: Workshop) -> None:
    corpus = [placed(number) for number in range(200)]
    workshop.build(corpus)
    assert rows(workshop) == (200, 200)
    version, _ = workshop.build([*corpus[3:], placed(1000)])
    assert (version.number, version.parent, version.documents) == (2, 1, 198)
    assert rows(workshop) == (201, 201)
    workshop.build([*corpus[3:], placed(1000)], take=lambda item: int(item == document(50)))
    assert rows(workshop) == (202, 201)


def test_a_document_that_comes_back_has_a_second_range(workshop: Workshop) -> None:
    workshop.build([placed(1), placed(2)])
    workshop.build([placed(2)])
    workshop.build([placed(1), placed(2)])
    with workshop.catalog.read() as session:
        shown = show_document(session, document(1).digest)
    assert [(line.from_version, line.to_version) for line in shown.memberships] == [(1, 2), (3, None)]
    assert [(line.from_version, line.to_version) for line in shown.places] == [(1, 2), (3, None)]


def test_the_same_documents_at_other_places(workshop: Workshop) -> None:
    """No new version, since its content is the same; the newest version's places are brought up to date."""
    workshop.build([placed(1), placed(2)])
    workshop.build([placed(1), placed(2), placed(3)])
    version, created = workshop.build([placed(1, source="moved.jsonl"), placed(2), placed(3)])
    assert (version.number, created) == (2, False)
    with workshop.catalog.read() as session:
        old = {line.digest: line.source_uri for line in list_documents(session, reference="handbook@v1")}
        new = {line.digest: line.source_uri for line in list_documents(session, reference="handbook@v2")}
    assert old[document(1).digest] == "coast.jsonl"
    assert new[document(1).digest] == "moved.jsonl"
    # The place was valid from version 2 on, so nothing remains of it.
    workshop.build([placed(1), placed(2), placed(3)])
    with workshop.catalog.read() as session:
        places = show_document(session, document(1).digest).places
    assert [(line.source_uri, line.from_version, line.to_version) for line in places] == [
        ("coast.jsonl", 1, 2),
        ("coast.jsonl", 2, None),
    ]


def test_corpora_are_apart(workshop: Workshop) -> None:
    workshop.build([placed(1), placed(2)], corpus="one")
    workshop.build([placed(2), placed(3)], corpus="two")
    workshop.build([placed(3)], corpus="one")
    with workshop.catalog.read() as session:
        assert content(workshop, resolve(session, "two")).keys() == {document(2).digest, document(3).digest}
        assert content(workshop, resolve(session, "one@v1")).keys() == {document(1).digest, document(2).digest}
        assert content(workshop, resolve(session, "one@v2")).keys() == {document(3).digest}


def test_another_recipe_is_another_version(workshop: Workshop) -> None:
    first, _ = workshop.build([placed(1)])
    workshop.recipe = replace(workshop.recipe, epochs=9)
    workshop.__post_init__()
    second, created = workshop.build([placed(1)])
    assert created
    assert second.digest != first.digest
    assert second.recipe_digest == workshop.recipe.digest


def test_every_document_needs_an_adapter_of_its_own_build(workshop: Workshop) -> None:
    recipe = workshop.recipe.digest
    with workshop.catalog.write() as session:
        build_id = workshop.begin(session)
        stage(session, build_id, [placed(1), placed(2)])
        adapters = workshop.encode(session, [document(1), document(2)])
    one = {document(1).digest: adapters[document(1).digest]}
    with workshop.catalog.write() as session, pytest.raises(NotFoundError, match=f"{document(2).digest}.*no adapter"):
        commit_version(session, build_id, one, recipe_digest=recipe, message="")
    with workshop.catalog.write() as session:
        stage(session, workshop.begin(session, "elsewhere"), [placed(3)])
        stranger = workshop.encode(session, [document(3)])
    with pytest.raises(IntegrityError, match="did not read"), workshop.catalog.write() as session:
        commit_version(session, build_id, adapters | stranger, recipe_digest=recipe, message="")
    with pytest.raises(NotFoundError, match="adapter"), workshop.catalog.write() as session:
        commit_version(session, build_id, {document(1).digest: "f" * 64}, recipe_digest=recipe, message="")
    with pytest.raises(NotFoundError, match="recipe"), workshop.catalog.write() as session:
        commit_version(session, build_id, adapters, recipe_digest="0" * 64, message="")
    with workshop.catalog.read() as session:
        assert list_versions(session, "handbook") == []
        assert aliases(session, "handbook") == {}


def test_adapters_may_be_assigned_before_the_commit(workshop: Workshop) -> None:
    with workshop.catalog.write() as session:
        build_id = workshop.begin(session)
        stage(session, build_id, [placed(1), placed(2)])
        first = workshop.encode(session, [document(1), document(2)])
        second = workshop.encode(session, [document(1)], take=1)
    with workshop.catalog.write() as session:
        assign_adapters(session, build_id, first)
        assign_adapters(session, build_id, second.items())
    with workshop.catalog.write() as session:
        version, _ = commit_version(session, build_id, {}, recipe_digest=workshop.recipe.digest, message="two steps")
    assert version.message == "two steps"
    assert content(workshop, version) == first | second


def test_references(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    two, _ = workshop.build([placed(2)])
    three, _ = workshop.build([placed(1)])
    assert one.digest == three.digest
    with workshop.catalog.write() as session:
        assert set_alias(session, one, "production", who="ada")
    with workshop.catalog.read() as session:
        assert resolve(session, "handbook") == three
        assert resolve(session, "handbook@latest") == three
        assert resolve(session, "handbook@v2") == two
        assert resolve(session, "handbook@production") == one
        assert resolve(session, f"handbook@sha256:{two.digest[:6]}") == two
        assert resolve(session, f"handbook@sha256:{one.digest}") == three
        assert latest_version(session, "handbook") == three
        assert list_versions(session, "handbook") == [one, two, three]


def test_unknown_references_say_what_there_is(workshop: Workshop) -> None:
    with workshop.catalog.read() as session, pytest.raises(NotFoundError, match="no corpus 'handbook'") as caught:
        resolve(session, "handbook")
    assert caught.value.hint == "pragreg build SOURCE... --corpus handbook"
    with workshop.catalog.write() as session:
        workshop.begin(session)
    with workshop.catalog.read() as session:
        assert latest_version(session, "handbook") is None
        with pytest.raises(NotFoundError, match="no version yet"):
            resolve(session, "handbook")
    workshop.build([placed(1)])
    workshop.build([placed(2)])
    for reference in ("handbook@v3", "handbook@v0", "handbook@production", "handbook@sha256:", "handbook@v"):
        with workshop.catalog.read() as session, pytest.raises(NotFoundError) as caught:
            resolve(session, reference)
        assert caught.value.hint == "it has v1 to v2, latest (v2)"
    with workshop.catalog.read() as session, pytest.raises(NotFoundError) as caught:
        resolve(session, "cookbook@v1")
    assert caught.value.hint == "there are: handbook"


def test_every_move_of_an_alias_is_kept(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    two, _ = workshop.build([placed(2)])
    with workshop.catalog.write() as session:
        assert set_alias(session, two, "production", who="ada")
        assert set_alias(session, one, "production", who="bo")
        assert not set_alias(session, one, "production", who="cy")
        assert set_alias(session, two, "production")
    with workshop.catalog.read() as session:
        assert aliases(session, "handbook") == {"latest": 2, "production": 2}
        moves = alias_history(session, "handbook", "production")
        assert [(move.from_version, move.to_version, move.who) for move in moves] == [
            (None, 2, "ada"),
            (2, 1, "bo"),
            (1, 2, ""),
        ]
        assert all(isinstance(move, AliasMove) and move.moved_at.tzinfo for move in moves)
        assert [move.name for move in alias_history(session, "handbook")] == ["latest", "latest", *["production"] * 3]
    for name in ("v7", "", "a b", "a@b"):
        with workshop.catalog.write() as session, pytest.raises(UsageError, match="alias"):
            set_alias(session, one, name)


def test_a_build_brings_the_latest_alias_back(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    two, _ = workshop.build([placed(2)])
    with workshop.catalog.write() as session:
        set_alias(session, one, "latest", who="ada")
    assert workshop.build([placed(2)]) == (two, False)
    with workshop.catalog.read() as session:
        assert resolve(session, "handbook") == two


def test_a_rolled_back_corpus_that_is_built_as_it_is_stays_there(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1), placed(2)])
    workshop.build([placed(2)])
    with workshop.catalog.write() as session:
        rollback(session, "handbook@v1", who="ada")
    before = rows(workshop)
    # At another place: the places of an old version are not amended, for their ranges end in its middle.
    assert workshop.build([placed(1, source="moved.jsonl"), placed(2)]) == (one, False)
    assert rows(workshop) == before
    with workshop.catalog.read() as session:
        assert resolve(session, "handbook") == one
        places = {line.digest: line.source_uri for line in list_documents(session, reference="handbook@v1")}
        assert places[document(1).digest] == "coast.jsonl"
        assert {line.source_uri for line in list_documents(session, reference="handbook@v2")} == {"coast.jsonl"}


def test_a_build_after_a_rollback_descends_from_what_it_was_rolled_back_to(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1), placed(2)])
    two, _ = workshop.build([placed(2)])
    with workshop.catalog.write() as session:
        rollback(session, "handbook@v1", who="ada")
    three, created = workshop.build([placed(1), placed(2), placed(3)])
    assert (three.number, three.parent, created) == (3, 1, True)
    contents = [{1, 2}, {2}, {1, 2, 3}]
    for version, numbers in zip((one, two, three), contents, strict=True):
        assert content(workshop, version).keys() == {document(number).digest for number in numbers}
    with workshop.catalog.read() as session:
        assert resolve(session, "handbook") == three
        added, removed = changes(session, "handbook", 1, 3)
        assert ([item.digest for item in added], removed) == ([document(3).digest], [])


def test_a_version_that_is_built_again_is_collected_no_more(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    two, _ = workshop.build([placed(2)])
    with workshop.catalog.write() as session:
        rollback(session, "handbook@v1")
        session.execute(update(VersionRow).where(VersionRow.number == 2).values(collected_at=utc_now()))
    with workshop.catalog.read() as session:
        assert resolve(session, "handbook@v2") == two
        with pytest.raises(NotFoundError, match=r"handbook@v2 was collected on .*; its adapters are gone") as caught:
            resolve_open(session, "handbook@v2")
        assert "build its sources again" in str(caught.value.hint)
        assert resolve_open(session, "handbook") == one
    assert workshop.build([placed(2)]) == (two, False)
    with workshop.catalog.read() as session:
        assert resolve_open(session, "handbook") == two


def test_digests_may_be_given_bare(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    two, _ = workshop.build([placed(2)])
    prefix = two.digest[:8]
    with workshop.catalog.read() as session:
        assert resolve(session, f"handbook@{prefix}") == two
        assert resolve(session, f"handbook@{two.digest}") == two
        for wrong in (two.digest[:3], prefix + "g", prefix.upper() + "A", "0000"):
            with pytest.raises(NotFoundError, match="has no version"):
                resolve(session, f"handbook@{wrong}")
    with workshop.catalog.write() as session:
        set_alias(session, one, prefix)
    with workshop.catalog.read() as session:
        assert resolve(session, f"handbook@{prefix}") == one
        assert resolve(session, f"handbook@sha256:{prefix}") == two


def test_a_digest_that_several_versions_begin_with_says_so(workshop: Workshop) -> None:
    for number in range(3):
        workshop.build([placed(number)])
    with workshop.catalog.write() as session:
        for number in (1, 3):
            digest = "beef" + str(number) * 60
            session.execute(update(VersionRow).where(VersionRow.number == number).values(digest=digest))
    with workshop.catalog.read() as session:
        for reference in ("handbook@beef", "handbook@sha256:beef"):
            with pytest.raises(NotFoundError, match="the beginning of several versions' digests") as caught:
                resolve(session, reference)
            assert caught.value.hint == "give more digits: 2 versions match, v3, v1"
        assert resolve(session, "handbook@beef1").number == 1


def test_changes_need_known_versions(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    with workshop.catalog.read() as session:
        for start, end in ((None, 2), (2, 1), (1, 7)):
            with pytest.raises(NotFoundError, match="no version v"):
                changes(session, "handbook", start, end)


def test_the_digest_does_not_depend_on_how_pairs_are_chunked() -> None:
    pairs = [(f"{number:064x}", f"{number + 1:064x}") for number in range(2_345)]
    text = "".join(["r\n", *(f"{one} {two}\n" for one, two in pairs)])
    assert version_digest("r", iter(pairs)) == hashlib.sha256(text.encode()).hexdigest()
    assert version_digest("r", []) == hashlib.sha256(b"r\n").hexdigest()


def test_documents_by_the_names_of_their_records(workshop: Workshop) -> None:
    unnamed = [
        PlacedDocument(document(8), Place("/data/notes.txt", 0)),
        PlacedDocument(document(9), Place("b_t.md", 1)),
    ]
    split = PlacedDocument(document(2), Place("coast.jsonl", 90, "beacon-1"))
    workshop.build([placed(1), split, *unnamed])
    version, _ = workshop.build([placed(1), split, *unnamed, placed(3)])
    with workshop.catalog.read() as session:
        names = ["beacon-1", "beacon-3", "notes.txt#0", "b_t.md#1", "bxt.md#1", "notes.txt#7", "nothing"]
        assert documents_by_record(session, version, names) == {
            "beacon-1": [document(1).digest, document(2).digest],
            "beacon-3": [document(3).digest],
            "notes.txt#0": [document(8).digest],
            "b_t.md#1": [document(9).digest],
        }
        assert documents_by_record(session, resolve(session, "handbook@v1"), ["beacon-3"]) == {}


@dataclass
class Model:
    """What the versions of a corpus must be: plain sets, one of each for every version."""

    contents: list[dict[str, int]] = field(default_factory=list)
    places: list[set[tuple[Place, str]]] = field(default_factory=list)

    def build(self, items: list[PlacedDocument], takes: dict[str, int]) -> bool:
        documents = {item.document.digest: takes[item.document.digest] for item in items}
        first_at: dict[tuple[str, int], tuple[Place, str]] = {}
        for item in items:
            first_at.setdefault((item.place.source_uri, item.place.ordinal), (item.place, item.document.digest))
        created = not self.contents or self.contents[-1] != documents
        if created:
            self.contents.append(documents)
            self.places.append(set())
        self.places[-1] = set(first_at.values())
        return created


def random_corpus(chance: random.Random, pool: int) -> list[PlacedDocument]:
    items = []
    for number in range(pool):
        for _ in range(chance.choice((0, 1, 1, 2))):
            record = chance.choice((None, "a", "b"))
            place = Place(f"source-{chance.randrange(3)}", chance.randrange(pool), record)
            items.append(PlacedDocument(document(number), place))
    taken: set[tuple[str, int]] = set()
    kept = []
    for item in items:
        key = (item.place.source_uri, item.place.ordinal)
        if key not in taken:
            taken.add(key)
            kept.append(item)
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_against_plain_sets(workshop: Workshop, seed: int) -> None:
    chance = random.Random(seed)
    model = Model()
    takes = {document(number).digest: 0 for number in range(12)}
    items = random_corpus(chance, 12)
    for _ in range(10):
        match chance.randrange(4):
            case 0:
                items = random_corpus(chance, 12)
            case 1:
                items = [item for item in items if chance.random() < 0.8]
            case 2:
                takes[document(chance.randrange(12)).digest] = chance.randrange(2)
        version, created = workshop.build(items, take=lambda item: takes[item.digest])
        assert created == model.build(items, takes)
        assert version.number == len(model.contents)
    _compare(workshop, model, chance)


def _compare(workshop: Workshop, model: Model, chance: random.Random) -> None:
    digests = [document(number).digest for number in range(12)]
    with workshop.catalog.read() as session:
        versions = list_versions(session, "handbook")
        assert [version.documents for version in versions] == [len(content) for content in model.contents]
        shown = {digest: show_document(session, digest).places for content in model.contents for digest in content}
        for version, wanted, places in zip(versions, model.contents, model.places, strict=True):
            found = {item.digest: adapter for item, adapter in members(session, version)}
            assert found.keys() == wanted.keys()
            assert version.digest == version_digest(version.recipe_digest, sorted(found.items()))
            some = members_by_document(session, version, digests[::2])
            assert {key: adapter for key, (_, adapter) in some.items()} == {
                key: found[key] for key in digests[::2] if key in found
            }
            number = version.number
            standing = {
                (Place(line.source_uri, line.ordinal, line.record_id), digest)
                for digest, lines in shown.items()
                for line in lines
                if line.from_version <= number and (line.to_version is None or line.to_version > number)
            }
            assert standing == places
        pairs = [(start, end) for start in (None, *versions) for end in versions]
        for start, end in chance.sample(pairs, min(25, len(pairs))):
            _compare_changes(workshop, model, start, end)


def _compare_changes(workshop: Workshop, model: Model, start: Version | None, end: Version) -> None:
    before = model.contents[start.number - 1].keys() if start else set()
    after = model.contents[end.number - 1].keys()
    with workshop.catalog.read() as session:
        added, removed = changes(session, "handbook", start.number if start else None, end.number)
        assert [item.digest for item in added] == sorted(after - before)
        assert removed == sorted(before - after)
