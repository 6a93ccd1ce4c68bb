"""Members through many versions: shards change where documents do, and say what every version was."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from registry.errors import IntegrityError
from registry.hub.manifest import members as members_module
from registry.hub.manifest.counts import check_counts, count
from registry.hub.manifest.limits import SHARD_ROWS
from registry.hub.manifest.members import Counts, Members, Placement, deltas
from registry.hub.manifest.root import read_root, write_root
from registry.hub.manifest.shards import bits_for, read_shard, shard_number, write_shard
from registry.published import FileRef, Member, Root, Standing, VersionDelta
from registry.records import Place
from tests.hub.manifests import ADAPTER_BYTES, History, digest, reopened

NOTHING = VersionDelta(frozenset(), (), {})


def nowhere(_: Standing) -> Placement:
    raise AssertionError("nothing was to be placed")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 rows, so that a small corpus has many."""
    monkeypatch.setattr("registry.hub.manifest.shards.SHARD_ROWS", 16)
    monkeypatch.setattr(members_module, "SHARD_ROWS", 16)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("small_shards")
def test_shards_of_a_random_history_say_what_every_version_was(seed: int) -> None:
    draw = random.Random(seed)
    history, files = History(draw), dict[str, bytes]()
    history.advance(added=60)
    for _ in range(6):
        for _ in range(draw.randrange(1, 4)):
            history.advance(
                added=draw.randrange(20),
                removed=draw.randrange(5),
                encoded_anew=draw.randrange(5),
                moved=draw.randrange(5),
                back=draw.randrange(3),
            )
        root = history.publish(files)
        assert read_root(write_root(root), repository="r") == root
        shards = list(reopened(root, files).walk())
        found = Members(root.shard_bits, root.shards, lambda number, shards=shards: list(shards[number]))
        check_counts(root, found)
        assert count(shards) == history.members.counts
        for number, version in enumerate(history.versions, start=1):
            pairs = list(found.version_pairs(number))
            assert pairs == sorted((one.document_digest, one.adapter_digest) for one in version.values())
        for document, standing in history.versions[-1].items():
            row = history.members.of_document(document)[-1]
            assert members_module.standing_of(row) == standing
    assert root.shard_bits > 2


@pytest.mark.usefixtures("small_shards")
def test_deltas_make_every_version_from_the_one_before() -> None:
    history, files = History(random.Random(4)), dict[str, bytes]()
    history.advance(added=50)
    for _ in range(5):
        history.advance(added=5, removed=3, encoded_anew=4, moved=6, back=1)
    root = history.publish(files)
    rows = [row for shard in reopened(root, files).walk() for row in shard]
    for after in range(5):
        now = dict(history.versions[after - 1]) if after else {}
        steps = deltas(rows, after, 6)
        assert len(steps) == 6 - after
        for number, step in enumerate(steps, start=after + 1):
            assert step.closed <= now.keys()
            for document in step.closed:
                del now[document]
            assert not {one.document_digest for one in step.opened} & now.keys()
            now |= {one.document_digest: one for one in step.opened}
            for document, places in step.moved.items():
                now[document] = replace(now[document], places=places)
            pairs = {document: one.adapter_digest for document, one in now.items()}
            assert pairs == {document: one.adapter_digest for document, one in history.versions[number - 1].items()}
        assert now == history.versions[-1]
    assert [step.opened for step in deltas(rows, 0, 2)] == [step.opened for step in deltas(rows, 0, 6)[:2]]


def test_one_changed_document_changes_one_shard() -> None:
    history, files = History(random.Random(5)), dict[str, bytes]()
    history.advance(added=5_000)
    first = history.publish(files)
    assert first.shard_bits == bits_for(5_000) == 2
    history.advance(added=0, encoded_anew=1)
    (changed,) = history.members.changed_shards()
    written = history.members.write()
    assert len(written.files) == 1
    assert [number for number in range(4) if written.entries[number] != first.shards[number]] == [changed]
    assert sum(map(len, written.files.values())) < 85 * 5_000 / 4


def test_nothing_changed_writes_nothing() -> None:
    history, files = History(random.Random(6)), dict[str, bytes]()
    history.advance(added=100)
    root = history.publish(files)
    again = history.members
    moved = next(iter(history.versions[-1].values()))
    again.apply(2, replace(NOTHING, moved={moved.document_digest: moved.places[::-1]}), nowhere)
    written = again.write()
    assert (written.bits, written.entries, written.files) == (root.shard_bits, root.shards, {})
    assert again.changed_shards() == ()


@pytest.mark.usefixtures("small_shards")
def test_shards_are_cut_anew_only_when_they_are_twice_as_full() -> None:
    history, files = History(random.Random(7)), dict[str, bytes]()
    history.advance(added=32)
    assert history.publish(files).shard_bits == 1
    history.advance(added=32)  # 64 rows in 2 shards for 16
    assert history.publish(files).shard_bits == 1
    history.advance(added=1)
    root = history.publish(files)
    assert root.shard_bits == 3
    check_counts(root, reopened(root, files))
    assert all(
        shard_number(row.document_digest, 3) == number
        for number, rows in enumerate(history.members.walk())
        for row in rows
    )


def test_only_the_shards_of_changed_documents_are_read() -> None:
    history, files = History(random.Random(8)), dict[str, bytes]()
    history.advance(added=SHARD_ROWS * 2 + 1)
    root = history.publish(files)
    read = list[int]()

    def load(number: int) -> list[Member]:
        read.append(number)
        entry = root.shards[number]
        assert entry is not None
        return read_shard(files[entry.file.digest], entry, number=number, bits=root.shard_bits)

    found = Members(root.shard_bits, root.shards, load, counts=Counts())
    document = min(history.versions[0])
    assert found.of_document(document)
    assert found.placement_of(document, "0" * 64) is None
    assert found.of_document(document)[0].records is not None
    found.apply(2, replace(NOTHING, closed=frozenset({document})), nowhere)
    found.write()
    assert read == [0]


def test_an_adapter_that_lies_nowhere_has_no_placement_but_a_record() -> None:
    members, records = Members(), FileRef(digest("records"), 9)
    standing = Standing(digest("d"), digest("a"), digest("d"), False, ())
    members.apply(1, replace(NOTHING, opened=(standing,)), lambda _: Placement(5, None, None, records))
    assert members.placement_of(digest("d"), digest("a")) is None
    assert [(row.adapter_digest, row.records) for row in members.of_document(digest("d"))] == [(digest("a"), records)]
    assert members.counts == Counts(1, 0, 0, 0)
    pack = FileRef(digest("pack"), 100)
    members.apply(2, replace(NOTHING, closed=frozenset({digest("d")})), nowhere)
    members.apply(3, replace(NOTHING, opened=(standing,)), lambda _: Placement(5, pack, 20, records))
    assert members.placement_of(digest("d"), digest("a")) == Placement(5, pack, 20, records)
    assert members.counts == Counts(1, 1, 1, 100) == count(members.walk())


def test_packs_that_the_repository_has_are_not_counted_again() -> None:
    pack = FileRef(digest("pack"), 100)
    standing = Standing(digest("d"), digest("a"), digest("d"), False, ())
    members = Members(counts=Counts(1, 1, 1, 100), known_packs={pack.digest})
    placement = Placement(5, pack, 20, FileRef(digest("records"), 9))
    members.apply(1, replace(NOTHING, opened=(standing,)), lambda _: placement)
    assert members.counts == Counts(2, 2, 1, 100)


def test_places_are_put_in_order_and_kept_once() -> None:
    places = (Place("b", 1), Place("a", 10), Place("a", 2, "x"), Place("b", 1, "y"))
    standing = Standing(digest("d"), digest("a"), digest("d"), False, places)
    members = Members()
    placement = Placement(5, None, None, FileRef(digest("records"), 9))
    members.apply(1, replace(NOTHING, opened=(standing,)), lambda _: placement)
    (row,) = members.of_document(digest("d"))
    assert [(place.source_uri, place.ordinal) for place in row.places] == [("a", 2), ("a", 10), ("b", 1)]
    write_shard([row])


@pytest.mark.parametrize(
    "delta",
    [
        replace(NOTHING, closed=frozenset({digest("unknown")})),
        replace(NOTHING, moved={digest("unknown"): ()}),
        replace(NOTHING, closed=frozenset({digest("gone")})),
        replace(NOTHING, opened=(Standing(digest("there"), digest("b"), digest("there"), False, ()),)),
    ],
)
def test_a_delta_that_does_not_fit_is_refused(delta: VersionDelta) -> None:
    members, placement = Members(), Placement(5, None, None, FileRef(digest("records"), 9))
    opened = tuple(Standing(digest(name), digest("a"), digest(name), False, ()) for name in ("there", "gone"))
    members.apply(1, replace(NOTHING, opened=opened), lambda _: placement)
    members.apply(2, replace(NOTHING, closed=frozenset({digest("gone")})), nowhere)
    with pytest.raises(IntegrityError, match="the newest version of the repository"):
        members.apply(3, delta, lambda _: placement)


Change = Callable[[Root, list[Member]], tuple[Root, list[Member]]]


def _root(**changes: Any) -> Change:
    return lambda root, rows: (replace(root, **changes), rows)


def _version(at: int, **changes: Any) -> Change:
    def change(root: Root, rows: list[Member]) -> tuple[Root, list[Member]]:
        versions = list(root.versions)
        versions[at] = replace(versions[at], **changes)
        return replace(root, versions=tuple(versions)), rows

    return change


def _row(**changes: Any) -> Change:
    return lambda root, rows: (root, [replace(rows[0], **changes), *rows[1:]])


CONTRADICTIONS: list[tuple[str, Change, str]] = [
    ("documents", _root(documents=9), "counts 9 documents"),
    ("adapters", _root(adapters=9), "and 9 adapters"),
    ("packs", _root(packs=3), "in 3 packs"),
    ("bytes of packs", _root(packs_bytes=7), "of 7 bytes"),
    ("documents of a version", _version(1, documents=9), "version 2 in .* counts 9 documents"),
    ("bytes of a version", _version(0, size_bytes=9), "version 1 in .* 9 bytes"),
    ("digest of a version", _version(1, digest=digest("x")), "version 2 in .* another digest"),
    ("recipe of a version", _version(0, recipe_digest=digest("x")), "version 1 in .* another digest"),
    ("a version that lacks nothing", _version(0, is_complete=False), "version 1 in .* lacks 0 adapters"),
    ("another adapter", _row(adapter_digest=digest("x")), "another digest"),
    ("a document left out", lambda root, rows: (root, rows[1:]), "counts 10 documents"),
    ("a document that is there for longer", _row(from_version=2), "counts"),
    ("a version that is not there yet", _row(from_version=5), "in versions after the 2th"),
    ("an end that is not there yet", _row(to_version=3), "in versions after the 2th"),
    ("a pack of two sizes", _row(pack=FileRef(digest("pack", 1), 10**9 + 1)), "has two sizes"),
    ("records of two sizes", _row(records=FileRef(digest("records", 1), 7)), "has two sizes"),
    ("an adapter that is not there", _row(pack=None, offset=None), "adapters"),
    ("a line from nowhere", _row(line=digest("x")), "a line that begins with"),
    ("another size", _row(size_bytes=ADAPTER_BYTES - 1), "version 1 in .* bytes"),
]


@pytest.mark.parametrize(
    ("change", "says"), [case[1:] for case in CONTRADICTIONS], ids=[case[0] for case in CONTRADICTIONS]
)
def test_a_root_that_lies_about_its_shards_is_refused(change: Change, says: str) -> None:
    history = History(random.Random(9))
    history.advance(added=8)
    history.advance(added=2, moved=1)
    root = history.publish({})
    rows = sorted(
        (row for document in history.versions[0] for row in history.members.of_document(document)),
        key=lambda row: row.document_digest,
    )
    rows += [
        row
        for document in history.versions[1].keys() - history.versions[0].keys()
        for row in history.members.of_document(document)
    ]
    rows.sort(key=lambda row: row.from_version)
    root, rows = change(root, rows)
    rows.sort(key=lambda row: (row.document_digest, row.from_version))
    with pytest.raises(IntegrityError, match=says) as caught:
        check_counts(root, Members(0, root.shards, lambda _: rows))
    assert "ada/handbook" in caught.value.message


def test_digests_of_versions_are_checked_where_it_is_asked() -> None:
    history, files = History(random.Random(10)), dict[str, bytes]()
    history.advance(added=5)
    history.advance(added=1)
    root, _ = _version(0, digest=digest("x"))(history.publish(files), [])
    check_counts(root, reopened(root, files), versions=[2])
    with pytest.raises(IntegrityError, match=r"version 1 in .* another digest"):
        check_counts(root, reopened(root, files), versions=[1, 2])
