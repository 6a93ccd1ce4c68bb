"""Remotes: what is known of repositories, what lies there, and what sources are called there."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from registry.catalog import schema
from registry.catalog.adapters import find_adapters, find_locations, forget_packs, pack_digests
from registry.catalog.builds import stage
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.listing import show_adapter
from registry.catalog.remotes.remotes import (
    add_remote_locations,
    find_remote,
    list_remotes,
    locate_remote,
    save_remote,
)
from registry.catalog.remotes.source_names import local_uris, published_names, save_names
from registry.catalog.upkeep.collecting import plan_packs
from registry.catalog.upkeep.liveness import Protection
from registry.catalog.upkeep.pack_table import adapters_without_place
from registry.catalog.versions import commit_version
from registry.errors import IntegrityError, NotFoundError
from registry.published import FileRef, Member
from registry.records import Place, PlacedDocument
from tests.catalog.everything import counts, fill
from tests.catalog.workshop import Workshop, augmentation_of, document, encoded_adapter, placed

HUB = "https://hub.example"
FIRST = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 3, 2, 12, tzinfo=UTC)


def remember(
    workshop: Workshop, repository: str = "ada/coast", corpus: str = "handbook", **seen: datetime | bool | str
) -> int:
    known = {"commit_id": "0" * 40, "root": "{}", **seen}
    with workshop.catalog.write() as session:
        return save_remote(session, corpus=corpus, endpoint=HUB, repository=repository, **known)  # type: ignore[arg-type]


def member(number: int, pack: FileRef | None, workshop: Workshop, offset: int = 200) -> Member:
    adapter = encoded_adapter(augmentation_of(document(number)), workshop.recipe).digest
    digest = document(number).digest
    return Member(digest, adapter, 1, None, digest, False, (), 1_000, pack, offset if pack else None, FileRef("0", 1))


def test_a_remote_keeps_what_it_is_not_told_anew(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    first = remember(workshop, root='{"a": 1}', is_lazy=True, pulled_at=FIRST)
    again = remember(workshop, commit_id="1" * 40, pushed_at=LATER)
    assert first == again
    with workshop.catalog.read() as session:
        remote = find_remote(session, HUB, "ada/coast", "handbook")
        assert remote is not None
        assert (remote.commit_id, remote.root, remote.is_lazy) == ("1" * 40, "{}", True)
        assert (remote.pulled_at, remote.pushed_at) == (FIRST, LATER)
        assert list_remotes(session) == [remote]
        assert find_remote(session, HUB, "ada/coast", "mill") is None
        assert find_remote(session, "https://other.example", "ada/coast", None) is None


def test_of_several_corpora_the_one_seen_last_is_found(workshop: Workshop) -> None:
    for corpus, moment in (("handbook", LATER), ("mill", FIRST)):
        workshop.build([placed(1)], corpus=corpus)
        remember(workshop, corpus=corpus, pulled_at=moment)
    with workshop.catalog.read() as session:
        found = find_remote(session, HUB, "ada/coast", None)
        assert found is not None
        assert found.corpus == "handbook"
    with pytest.raises(NotFoundError, match="no corpus 'attic'"):
        remember(workshop, corpus="attic")


def test_adapters_are_located_in_the_repository_seen_last(workshop: Workshop) -> None:
    workshop.build([placed(number) for number in range(4)])
    old, new = FileRef("a" * 64, 5_000), FileRef("b" * 64, 6_000)
    first = remember(workshop, pulled_at=FIRST, commit_id="1" * 40)
    second = remember(workshop, "ada/other", pushed_at=LATER, commit_id="2" * 40)
    with workshop.catalog.write() as session:
        add_remote_locations(session, first, [member(number, old, workshop) for number in (0, 1, 0)])
        add_remote_locations(session, first, [member(0, old, workshop, 77), member(2, None, workshop)])
        add_remote_locations(session, second, [member(1, new, workshop, 9)])
    adapters = [member(number, None, workshop).adapter_digest for number in range(4)]
    with workshop.catalog.read() as session:
        found = locate_remote(session, [*adapters, "f" * 64])
    assert found.keys() == set(adapters[:2])
    zero, one = found[adapters[0]], found[adapters[1]]
    assert (zero.repository, zero.commit_id, zero.pack, zero.offset) == ("ada/coast", "1" * 40, old, 77)
    assert (one.repository, one.commit_id, one.pack, one.offset, one.size_bytes) == (
        *("ada/other", "2" * 40, new, 9),
        1_000,
    )
    with workshop.catalog.read() as session:
        assert show_adapter(session, adapters[1]).remote == one
        assert show_adapter(session, adapters[3]).remote is None
    with workshop.catalog.write() as session, pytest.raises(NotFoundError, match="adapter"):
        add_remote_locations(session, first, [member(9, old, workshop)])


def test_what_lies_in_a_repository_is_not_lost(workshop: Workshop) -> None:
    workshop.build([placed(0), placed(1)])
    remote = remember(workshop)
    pairs = [(document(number).digest, augmentation_of(document(number)).digest) for number in (0, 1)]
    with workshop.catalog.write() as session:
        add_remote_locations(session, remote, [member(0, FileRef("a" * 64, 5_000), workshop)])
        packs = pack_digests(session)
        assert len(find_adapters(session, workshop.recipe.digest, pairs)) == 2
        assert find_adapters(session, workshop.recipe.digest, pairs, lost_packs=packs).keys() == {pairs[0]}
        forget_packs(session, packs)
        assert find_adapters(session, workshop.recipe.digest, pairs).keys() == {pairs[0]}
        assert adapters_without_place(session) == [member(1, None, workshop).adapter_digest]
        assert find_locations(session, [member(0, None, workshop).adapter_digest]) == {}
    for number, is_lost in ((0, False), (1, True)):
        adapters = {document(number).digest: member(number, None, workshop).adapter_digest}
        with workshop.catalog.write() as session:
            build = workshop.begin(session, f"mill-{number}")
            stage(session, build, [placed(number)])
            expected = pytest.raises(IntegrityError, match="lies in no pack") if is_lost else nullcontext()
            with expected:
                commit_version(session, build, adapters, recipe_digest=workshop.recipe.digest, message="")


def test_a_version_whose_adapters_lie_in_a_repository_loses_nothing_to_gc(workshop: Workshop) -> None:
    workshop.build([placed(0)])
    workshop.build([placed(1)])
    nothing_young = Protection(lambda *_: False, LATER.replace(year=9999))
    with workshop.catalog.scratch() as session:
        before = plan_packs(session, nothing_young, {("handbook", 1)})
    remote = remember(workshop)
    with workshop.catalog.write() as session:
        add_remote_locations(session, remote, [member(0, FileRef("a" * 64, 5_000), workshop)])
    with workshop.catalog.scratch() as session:
        after = plan_packs(session, nothing_young, {("handbook", 1)})
    assert before.losing == {("handbook", 1)}
    assert after.losing == frozenset()
    assert [use.digest for use in after.dead] == [use.digest for use in before.dead]
    assert len(after.dead) == 1


def sourced(workshop: Workshop, uris: list[str], corpus: str = "handbook") -> None:
    workshop.build([PlacedDocument(document(number), Place(uri, 0)) for number, uri in enumerate(uris)], corpus=corpus)


def names(workshop: Workshop, remote: int | None = None, repository: str = "ada/coast") -> dict[str, str]:
    with workshop.catalog.read() as session:
        return published_names(session, "handbook", repository, remote)


def test_no_name_tells_where_a_file_lies(workshop: Workshop) -> None:
    sourced(
        workshop,
        [
            "/home/ada/secret project/coast/people.jsonl#L3",
            "/home/ada/secret project/coast/people.jsonl#L4",
            "/home/ada/secret project/mill/notes.txt",
            "../ada/other.txt",
            "data/coast.txt",
            "https://maud:pass@web.example/page?token=abc",
            "https://web.example/page?token=def",
            "s3://bucket/*.txt",
            "-",
        ],
    )
    given = names(workshop)
    assert given["data/coast.txt"] == "data/coast.txt"
    assert given["-"] == "-"
    assert given["s3://bucket/*.txt"] == "s3://bucket/*.txt"
    assert given["/home/ada/secret project/coast/people.jsonl"].endswith("coast/people.jsonl")
    published = " ".join(given.values())
    for private in ("/home/ada", "..", "maud", "pass@", "abc", "def"):
        assert private not in published
    assert len(set(given.values())) == len(given) == 8


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        (["/a/b/people.jsonl"], ["people.jsonl"]),
        (["/a/b/x.txt", "/a/b/y.txt"], ["x.txt", "y.txt"]),
        (["/a/b/x.txt", "/a/c/x.txt"], ["b/x.txt", "c/x.txt"]),
        (["file:///a/b/x.txt", "/a/b/d/x.txt"], ["d/x.txt", "x.txt"]),
        (["hub:maud/mill/data/x.txt"], ["data/x.txt"]),
        (["hub:ada/coast/https://web.example/x?masked-1f"], ["https://web.example/x?masked-1f"]),
    ],
)
def test_files_are_named_below_their_common_folder(workshop: Workshop, uris: list[str], expected: list[str]) -> None:
    sourced(workshop, uris)
    assert sorted(names(workshop).values()) == expected


def test_a_name_once_given_stays(workshop: Workshop) -> None:
    sourced(workshop, ["/a/b/x.txt"])
    remote = remember(workshop)
    with workshop.catalog.write() as session:
        save_names(session, remote, published_names(session, "handbook", "ada/coast", remote))
    sourced(workshop, ["/a/b/x.txt", "/a/c/x.txt", "/a/y.txt"])
    assert names(workshop, remote) == {"/a/b/x.txt": "x.txt", "/a/c/x.txt": "c/x.txt", "/a/y.txt": "y.txt"}
    with workshop.catalog.read() as session:
        found = local_uris(session, "ada/coast", remote, ["x.txt#L7", "z.txt", "c/x.txt"])
    assert found == {"x.txt#L7": "/a/b/x.txt#L7", "z.txt": "hub:ada/coast/z.txt", "c/x.txt": "hub:ada/coast/c/x.txt"}


def test_the_migration_keeps_what_a_filled_catalog_has(any_url: str) -> None:
    kept = "SELECT id, digest, title, text, characters, text_key FROM documents ORDER BY id"
    with open_catalog(any_url) as catalog:
        fill(catalog)
        before = counts(catalog)
        documents = rows(catalog, kept)
        shown = rows(catalog, "SELECT document_digest, text FROM v_documents ORDER BY document_digest")
    schema.downgrade(any_url, "0004_views")
    schema.upgrade(any_url)
    assert schema.check(any_url) == []
    with open_catalog(any_url) as catalog:
        gone = {name for name in before if name.startswith("remote") or name == "api_keys"}
        assert counts(catalog) == {name: 0 if name in gone else count for name, count in before.items()}
        assert rows(catalog, kept) == documents
        assert rows(catalog, "SELECT document_digest, text FROM v_documents ORDER BY document_digest") == shown
        assert rows(catalog, "SELECT count(*) FROM documents WHERE withheld") == [(0,)]


def rows(catalog: Catalog, query: str) -> list[tuple[object, ...]]:
    with catalog.read() as session:
        return [tuple(row) for row in session.execute(text(query))]


def test_the_view_counts_what_lies_there(workshop: Workshop) -> None:
    workshop.build([placed(0), placed(1)])
    remote = remember(workshop, is_lazy=True, pulled_at=FIRST)
    with workshop.catalog.write() as session:
        add_remote_locations(session, remote, [member(n, FileRef("a" * 64, 5_000), workshop) for n in (0, 1)])
    query = "SELECT corpus, repository, is_lazy, adapters, adapters_bytes FROM v_remotes"
    assert rows(workshop.catalog, query) == [("handbook", "ada/coast", True, 2, 2_000)]
