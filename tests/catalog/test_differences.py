from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from registry.catalog import schema
from registry.catalog.differences import KINDS, DocumentChange, compare, list_changes
from registry.catalog.engine import open_catalog
from registry.catalog.history import list_version_lines
from registry.catalog.lineage import Standing, match
from registry.catalog.versions import list_versions, members, resolve, rollback, version_digest
from registry.errors import UsageError
from registry.records import Document, Place, PlacedDocument, Version
from tests.catalog.workshop import Workshop


def doc(name: str, *, ordinal: int, record: str | None = None, source: str = "a.md", title: str = "") -> PlacedDocument:
    return PlacedDocument(Document.of(title, f"The text of {name}."), Place(source, ordinal, record))


def seen(workshop: Workshop, old: str, new: str) -> dict[str, list[tuple[str | None, str | None]]]:
    """Return the texts of every kind of change between two versions of handbook."""
    with workshop.catalog.read() as session:
        one, other = resolve(session, f"handbook@{old}"), resolve(session, f"handbook@{new}")
        difference = compare(session, one, other)
        changes = list_changes(session, difference)
    found: dict[str, list[tuple[str | None, str | None]]] = {kind: [] for kind in KINDS}
    for change in changes:
        found[change.kind].append((_name(change.old), _name(change.new)))
    counted = (difference.changed, difference.added, difference.removed, difference.reencoded)
    assert counted == tuple(len(found[kind]) for kind in KINDS)
    return {kind: pairs for kind, pairs in found.items() if pairs}


NAMES: dict[str, str] = {}


def _name(state: object) -> str | None:
    return None if state is None else NAMES[state.digest]  # type: ignore[attr-defined]


def build(workshop: Workshop, **items: PlacedDocument) -> Version:
    NAMES.update({item.document.digest: name for name, item in items.items()})
    return workshop.build(list(items.values()))[0]


def test_documents_are_matched_by_place_record_and_title(workshop: Workshop) -> None:
    build(
        workshop,
        kept=doc("kept", ordinal=0),
        place=doc("place", ordinal=1),
        record=doc("record", ordinal=2, record="r7", source="b.jsonl"),
        moved=doc("moved", ordinal=3, record="r8", source="b.jsonl"),
        titled=doc("titled", ordinal=9, title="On tides", source="c.md"),
        gone=doc("gone", ordinal=8, source="c.md"),
    )
    build(
        workshop,
        kept=doc("kept", ordinal=0),
        place2=doc("place, edited", ordinal=1),
        record2=doc("record, edited", ordinal=77, record="r7", source="b.jsonl"),
        moved2=doc("moved, edited", ordinal=5, record="r8", source="renamed.jsonl"),
        titled2=doc("titled, edited", ordinal=2, title="On tides", source="c.md"),
        new=doc("new", ordinal=0, source="d.md"),
    )
    changed = [("place", "place2"), ("record", "record2"), ("moved", "moved2"), ("titled", "titled2")]
    found = seen(workshop, "v1", "v2")
    assert sorted(found.pop("changed")) == sorted(changed)
    assert found == {"added": [(None, "new")], "removed": [("gone", None)]}
    back = seen(workshop, "v2", "v1")
    assert sorted(back.pop("changed")) == sorted((new, old) for old, new in changed)
    assert back == {"added": [(None, "gone")], "removed": [("new", None)]}
    assert seen(workshop, "v2", "v2") == {}


def test_an_edit_is_followed_through_many_versions_and_moves(workshop: Workshop) -> None:
    build(workshop, one=doc("one", ordinal=0), other=doc("other", ordinal=1))
    build(workshop, two=doc("two", ordinal=0), other=doc("other", ordinal=1))
    # A passage before it: the edit is at the place of the other now, and yet no edit of the other.
    build(workshop, first=doc("first", ordinal=0), two=doc("two", ordinal=1), other=doc("other", ordinal=2))
    build(workshop, first=doc("first", ordinal=0), three=doc("three", ordinal=1), other=doc("other", ordinal=2))
    assert seen(workshop, "v1", "v4") == {"changed": [("one", "three")], "added": [(None, "first")]}
    assert seen(workshop, "v4", "v2") == {"changed": [("three", "two")], "removed": [("first", None)]}


def test_what_comes_back_beside_its_edit_is_the_same_document(workshop: Workshop) -> None:
    old, edit = doc("old", ordinal=0), doc("edit", ordinal=0)
    build(workshop, old=old)
    build(workshop, edit=edit)
    build(workshop, edit=edit, old=doc("old", ordinal=1))
    build(workshop, old=doc("old", ordinal=1))
    assert seen(workshop, "v1", "v2") == {"changed": [("old", "edit")]}
    assert seen(workshop, "v1", "v3") == {"added": [(None, "edit")]}
    assert seen(workshop, "v3", "v2") == {"removed": [("old", None)]}
    assert seen(workshop, "v1", "v4") == {}
    assert seen(workshop, "v4", "v2") == {"changed": [("old", "edit")]}


def test_a_build_after_a_rollback_is_compared_with_what_it_was_rolled_back_to(workshop: Workshop) -> None:
    a, b = doc("a", ordinal=0), doc("b", ordinal=1)
    build(workshop, a=a, b=b)
    build(workshop, a=a)
    with workshop.catalog.write() as session:
        rollback(session, "handbook@v1", who="ada")
    third = build(workshop, a=a, b2=doc("b, edited", ordinal=1))
    assert third.parent == 1
    assert seen(workshop, "v1", "v3") == {"changed": [("b", "b2")]}


def test_other_adapters_of_the_same_documents(workshop: Workshop) -> None:
    items = [doc("a", ordinal=0), doc("b", ordinal=1)]
    NAMES.update({item.document.digest: str(number) for number, item in enumerate(items)})
    workshop.build(items)
    workshop.build(items, take=lambda item: int(item == items[0].document))
    workshop.build(items)
    assert seen(workshop, "v1", "v2") == {"re-encoded": [("0", "0")]}
    assert seen(workshop, "v3", "v2") == {"re-encoded": [("0", "0")]}
    assert seen(workshop, "v1", "v3") == {}
    with workshop.catalog.read() as session:
        one, two, _ = list_versions(session, "handbook")
        (change,) = list_changes(session, compare(session, one, two))
    assert change.old is not None
    assert change.new is not None
    assert change.old.digest == change.new.digest
    assert change.old.adapter_digest != change.new.adapter_digest
    assert (change.new.source_uri, change.new.ordinal) == ("a.md", 0)


def test_versions_of_different_corpora_have_no_difference(workshop: Workshop) -> None:
    one, _ = workshop.build([doc("a", ordinal=0)], corpus="one")
    two, _ = workshop.build([doc("a", ordinal=0)], corpus="two")
    with workshop.catalog.read() as session, pytest.raises(UsageError, match="different corpora"):
        compare(session, one, two)


def test_versions_of_an_older_schema_are_compared_without_knowing_edits(any_url: str) -> None:
    with open_catalog(any_url) as catalog:
        workshop = Workshop(catalog)
        build(workshop, a=doc("a", ordinal=0), b=doc("b", ordinal=1))
        build(workshop, a2=doc("a, edited", ordinal=0), b=doc("b", ordinal=1))
        assert seen(workshop, "v1", "v2") == {"changed": [("a", "a2")]}
    schema.downgrade(any_url, "0002_task_adapters_evaluations")
    schema.upgrade(any_url)
    with open_catalog(any_url) as catalog:
        workshop = Workshop(catalog)
        assert seen(workshop, "v1", "v2") == {"added": [(None, "a2")], "removed": [("a", None)]}
        build(workshop, a3=doc("a, edited again", ordinal=0), b=doc("b", ordinal=1))
        assert seen(workshop, "v2", "v3") == {"changed": [("a2", "a3")]}
        with catalog.read() as session:
            assert [line.size_bytes for line in list_version_lines(session, "handbook")] == [2_000] * 3


def test_every_line_goes_to_one_document() -> None:
    gone = [Standing(1, 1, 0, 0, None, "T"), Standing(2, 2, 0, 5, "r", "T"), Standing(2, 2, 0, 6, "r", "T")]
    new = [
        Standing(10, 10, 0, 0, "r", "T"),  # the record's, though it stands where 1 stood
        Standing(11, 11, 0, 6, None, "T"),  # the place of 2 is taken with it; the title of 1 is left
        Standing(12, 12, 0, 7, None, "T"),
    ]
    assert match(new, gone) == {10: 2, 11: 1}


@dataclass
class History:
    """What every version of a corpus must be: adapters' takes by document digest."""

    contents: list[dict[str, int]] = field(default_factory=list)
    latest: int = 0

    def build(self, content: dict[str, int]) -> tuple[int, bool]:
        for number in (self.latest, len(self.contents)):
            if number and self.contents[number - 1] == content:
                self.latest = number
                return number, False
        self.contents.append(content)
        self.latest = len(self.contents)
        return self.latest, True


def pool(chance: random.Random) -> list[PlacedDocument]:
    """Return documents whose places, records and titles collide in every way."""
    found = []
    for number in range(20):
        document = Document.of(chance.choice(("", "T", "U")), f"Text {number} of {chance.randrange(10**6)}.")
        found.append(PlacedDocument(document, Place("?", 0)))
    return found


def standing(chance: random.Random, documents: list[Document]) -> list[PlacedDocument]:
    """Put documents at places, some of them at two."""
    items: dict[tuple[str, int], PlacedDocument] = {}
    for document in documents:
        for _ in range(chance.choice((1, 1, 1, 2))):
            place = Place(f"s{chance.randrange(2)}", chance.randrange(40), chance.choice((None, "x", "y", "z")))
            items.setdefault((place.source_uri, place.ordinal), PlacedDocument(document, place))
    return list(items.values())


@pytest.mark.parametrize("seed", range(2))
def test_random_builds_and_rollbacks_against_plain_sets(workshop: Workshop, seed: int) -> None:
    chance = random.Random(seed)
    documents = [item.document for item in pool(chance)]
    history = History()
    versions: list[Version] = []
    for _ in range(11):
        if versions and chance.random() < 0.3:
            number = chance.randrange(len(versions)) + 1
            with workshop.catalog.write() as session:
                moved = rollback(session, f"handbook@v{number}", who="ada")
            assert (moved.from_version.number, moved.to_version.number) == (history.latest, number)
            history.latest = number
        items = standing(chance, chance.sample(documents, chance.randrange(4, 12)))
        if versions and chance.random() < 0.3:  # the content of an old version, at other places
            number = chance.choice((history.latest, chance.randrange(len(versions)) + 1))
            chosen = [document for document in documents if document.digest in history.contents[number - 1]]
            takes = history.contents[number - 1]
            items = [PlacedDocument(document, Place("all", place)) for place, document in enumerate(chosen)]
        else:
            takes = {document.digest: chance.randrange(2) for document in documents}
        parent = history.latest or None
        content = {item.document.digest: takes[item.document.digest] for item in items}
        version, created = workshop.build(items, take=lambda document, takes=takes: takes[document.digest])
        assert (version.number, created) == history.build(content)
        if created:
            assert version.parent == parent
            versions.append(version)
    check_all(workshop, history, chance)


def check_all(workshop: Workshop, history: History, chance: random.Random) -> None:
    with workshop.catalog.read() as session:
        versions = list_versions(session, "handbook")
        assert len(versions) == len(history.contents)
        for number, version in enumerate(versions):
            found = {item.digest: adapter for item, adapter in members(session, version)}
            assert found.keys() == history.contents[number].keys()
            assert version.digest == version_digest(version.recipe_digest, sorted(found.items()))
        for old in versions:
            for new in chance.sample(versions, min(4, len(versions))):
                difference = compare(session, old, new)
                changes = list_changes(session, difference)
                before, after = history.contents[old.number - 1], history.contents[new.number - 1]
                check_difference(changes, before, after)
                counts = (difference.changed, difference.added, difference.removed, difference.reencoded)
                assert counts == tuple(sum(change.kind == kind for change in changes) for kind in KINDS)
                assert difference.kept == sum(after.get(digest) == take for digest, take in before.items())
        old, new = chance.sample(versions, 2)
        difference = compare(session, old, new)
        changes = list_changes(session, difference)
        pages = [
            change
            for offset in range(0, len(changes) + 3, 3)
            for change in list_changes(session, difference, limit=3, offset=offset)
        ]
        assert pages == changes


def check_difference(changes: list[DocumentChange], before: dict[str, int], after: dict[str, int]) -> None:
    olds = [change.old.digest for change in changes if change.old and change.kind != "re-encoded"]
    news = [change.new.digest for change in changes if change.new and change.kind != "re-encoded"]
    assert sorted(olds) == sorted(before.keys() - after.keys())
    assert sorted(news) == sorted(after.keys() - before.keys())
    again = [change.new.digest for change in changes if change.new and change.kind == "re-encoded"]
    assert sorted(again) == sorted(digest for digest in before.keys() & after.keys() if before[digest] != after[digest])
    for change in changes:
        assert (change.old is None, change.new is None) == {
            "changed": (False, False),
            "added": (True, False),
            "removed": (False, True),
            "re-encoded": (False, False),
        }[change.kind]
