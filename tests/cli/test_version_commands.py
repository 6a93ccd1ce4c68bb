"""The commands about versions, on a registry of three versions made without training."""

from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import update

from cli import versions as commands
from registry.catalog import schema
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.history import list_version_lines
from registry.catalog.models import VersionRow, utc_now
from registry.records import Document, Place, PlacedDocument, Version
from registry.settings import Home, create_home, open_home
from tests.catalog.workshop import Workshop
from tests.cli.conftest import Run

TIDES = "The organ plays at high tide. It was built by Mara Quint in 1903."
EDITED = "The organ plays at high tide. It was built by Odo Fenn in 1911."


def passage(title: str, text: str, ordinal: int) -> PlacedDocument:
    return PlacedDocument(Document.of(title, text), Place("notes.md", ordinal))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Version]]:
    """handbook@v1 to v3: an edit and an addition, then a removal and another adapter."""
    home = create_home(tmp_path_factory.mktemp("versions") / "home")
    schema.upgrade(home.catalog_url)
    organ, edited = passage("Organ", TIDES, 0), passage("Organ", EDITED, 0)
    kept, gone, new = (passage("", f"Passage {number}.", number) for number in (1, 2, 3))
    with open_catalog(home.catalog_url) as catalog:
        workshop = Workshop(catalog)
        versions = [
            workshop.build([organ, kept, gone])[0],
            workshop.build([edited, kept, gone, new])[0],
            workshop.build([edited, kept, new], take=lambda item: int(item == kept.document))[0],
        ]
    return home.path, versions


@pytest.fixture
def home(template: tuple[Path, list[Version]], tmp_path: Path) -> Home:
    """A copy of the template."""
    return open_home(shutil.copytree(template[0], tmp_path / "home"))


@pytest.fixture
def history(home: Home, template: tuple[Path, list[Version]]) -> tuple[Home, list[Version]]:
    """A home with three versions, and these."""
    return home, template[1]


def collect(catalog: Catalog, number: int) -> None:
    with catalog.write() as session:
        session.execute(update(VersionRow).where(VersionRow.number == number).values(collected_at=utc_now()))


def test_versions_newest_first(run: Run, history: tuple[Home, list[Version]]) -> None:
    home, versions = history
    run("alias", "set", "handbook@v1", "production", "--home", home.path)
    run("pin", "handbook@v1", "--reason", "audit", "--home", home.path)
    found = run("versions", "handbook", "--home", home.path, "--json").rows
    assert [(row["version"], row["aliases"], row["pinned"]) for row in found] == [
        (3, ["latest"], False),
        (2, [], False),
        (1, ["production"], True),
    ]
    assert found[0]["digest"] == versions[2].digest
    assert (found[0]["documents"], found[0]["size_bytes"], found[0]["collected_at"]) == (3, 3_000, None)
    table = run("versions", "--home", home.path, "--limit", "2")
    assert [line.split("\t")[:3] for line in table.out.splitlines()] == [
        ["corpus", "version", "aliases"],
        ["handbook", "v3", "latest"],
        ["handbook", "v2", "-"],
    ]
    assert table.err == "there are more versions; see --limit and --offset\n"
    assert run("versions", "cookbook", "--home", home.path).status == 5


def test_a_terminal_shows_the_columns_that_tell_something(
    catalog: Catalog, history: tuple[Home, list[Version]]
) -> None:
    with catalog.read() as session:
        lines = list_version_lines(session, "handbook")
    narrow = ["version", "aliases", "documents", "size_bytes", "message", "created_at"]
    assert commands.columns_of(lines, "handbook") == narrow
    assert commands.columns_of(lines, None) == ["corpus", *narrow]
    collect(catalog, 1)
    with catalog.read() as session:
        lines = list_version_lines(session, "handbook")
    assert commands.columns_of(lines, "handbook") == [*narrow, "collected_at"]


def test_show(run: Run, history: tuple[Home, list[Version]], catalog: Catalog) -> None:
    home, versions = history
    (found,) = run("show", "handbook@v2", "--home", home.path, "--json").rows
    assert (found["digest"], found["parent"], found["sources"], found["pin"]) == (versions[1].digest, 1, 1, None)
    assert {
        key: found["difference_to_parent"][key] for key in ("changed", "added", "removed", "reencoded", "kept")
    } == {
        "changed": 1,
        "added": 1,
        "removed": 0,
        "reencoded": 0,
        "kept": 2,
    }
    run("pin", "handbook@v2", "--reason", "audit", "--home", home.path)
    text = run("show", "handbook@v2", "--home", home.path).out
    assert versions[1].digest in text
    assert f"yes, by {getpass.getuser()}: audit" in text
    assert "1 changed, 1 added, 0 removed, 0 encoded again, 2 kept" in text
    collect(catalog, 1)
    (first,) = run("show", "handbook@v1", "--home", home.path, "--json").rows
    assert (first["parent"], first["difference_to_parent"]) == (None, None)
    assert first["collected_at"] is not None


def test_diff(run: Run, history: tuple[Home, list[Version]]) -> None:
    home, versions = history
    (found,) = run("diff", "handbook@v1", "v3", "--home", home.path, "--json").rows
    assert (found["old"], found["new"], found["new_digest"]) == ("handbook@v1", "handbook@v3", versions[2].digest)
    assert (found["changed"], found["added"], found["removed"], found["reencoded"], found["kept"]) == (1, 1, 1, 1, 0)
    changed, added, removed, again = found["changes"]
    assert (changed["kind"], changed["old"]["digest"]) == ("changed", Document.of("Organ", TIDES).digest)
    assert (changed["new"]["title"], changed["new"]["source_uri"], changed["new"]["ordinal"]) == (
        "Organ",
        "notes.md",
        0,
    )
    assert (added["kind"], added["old"], removed["kind"], removed["new"]) == ("added", None, "removed", None)
    assert (again["kind"], again["old"]["digest"]) == ("re-encoded", again["new"]["digest"])
    assert again["old"]["adapter_digest"] != again["new"]["adapter_digest"]
    lines = run("diff", "handbook@v1", "@latest", "--home", home.path).out.splitlines()
    assert "1 changed, 1 added, 1 removed, 1 encoded again, 0 kept" in lines[2]
    rows = [line.split("\t") for line in lines if "\t" in line]
    assert [row[0] for row in rows] == ["what", "changed", "added", "removed", "what", "re-encoded"]
    assert rows[1][1:3] == ["Organ", "notes.md#0"]


def test_diff_with_texts(run: Run, history: tuple[Home, list[Version]]) -> None:
    home, _ = history
    out = run("diff", "handbook@v1", "handbook@v2", "--text", "--home", home.path).out
    assert out[out.index("---") :].splitlines() == [
        "--- handbook@v1 notes.md#0",
        "+++ handbook@v2 notes.md#0",
        "@@ -1,3 +1,3 @@",
        " Organ",
        " The organ plays at high tide.",
        "-It was built by Mara Quint in 1903.",
        "+It was built by Odo Fenn in 1911.",
    ]
    (found,) = run("diff", "handbook@v1", "handbook@v2", "--text", "--home", home.path, "--json").rows
    assert found["changes"][0]["text_diff"][-1] == "+It was built by Odo Fenn in 1911."
    assert "text_diff" not in found["changes"][1]


def test_diff_takes_the_parent_and_pages(run: Run, history: tuple[Home, list[Version]]) -> None:
    home, _ = history
    (found,) = run("diff", "handbook@v2", "--home", home.path, "--json").rows
    assert (found["old"], found["new"]) == ("handbook@v1", "handbook@v2")
    page = run("diff", "handbook@v1", "v3", "--limit", "1", "--offset", "2", "--home", home.path, "--json")
    assert [change["kind"] for change in page.rows[0]["changes"]] == ["removed"]
    assert run("diff", "handbook@v1", "v3", "--limit", "1", "--home", home.path).err == (
        "there are more changes; see --limit and --offset\n"
    )
    assert run("diff", "handbook@v2", "@v2", "--home", home.path).out.count("\n") == 4


MISTAKES = (
    (("diff", "handbook@v1"), 2, "handbook@v1 has no parent"),
    (("diff", "handbook@v1", "other"), 2, "different corpora"),
    (("diff", "handbook@v1", "v9"), 5, "no version 'v9'"),
    (("diff", "cookbook", "v1"), 5, "no corpus 'cookbook'"),
    (("show", "handbook@nothing"), 5, "no version 'nothing'"),
    (("rollback", "handbook", "v9"), 5, "no version 'v9'"),
    (("rollback", "handbook", "other@v1"), 2, "other@v1 is no version of 'handbook'"),
    (("alias", "set", "handbook@v1", "v7"), 2, "'v7' cannot be an alias"),
    (("alias", "remove", "handbook", "latest"), 2, "'latest' cannot be removed"),
    (("alias", "remove", "handbook", "production"), 5, "no alias 'production'"),
    (("alias", "history", "handbook", "production"), 5, "never had an alias 'production'"),
    (("pin", "handbook@v9"), 5, "no version 'v9'"),
)


def test_what_cannot_be_is_said_with_what_to_do(
    run: Run, history: tuple[Home, list[Version]], catalog: Catalog
) -> None:
    home, _ = history
    Workshop(catalog).build([passage("", "Elsewhere.", 0)], corpus="other")
    for arguments, status, message in MISTAKES:
        found = run(*arguments, "--home", home.path)
        assert (found.status, found.out) == (status, "")
        assert message in found.err
        assert "\ntry: " in found.err


def test_rollback_says_what_moved_and_what_comes_next(run: Run, history: tuple[Home, list[Version]]) -> None:
    home, versions = history
    found = run("rollback", "handbook", "v1", "--home", home.path)
    assert (found.status, found.out) == (0, "")
    assert found.err == (
        "handbook went from v3 back to v1, 3 documents (a build)\n"
        "the next build starts from v1 and its recipe; `pragreg rollback handbook v3` undoes it\n"
    )
    search = ("search", "Mara Quint", "--corpus", "handbook", "--home", home.path, "--json")
    assert run(*search).rows[0]["version"] == "handbook@v1"
    (corpus,) = run("corpora", "list", "--home", home.path, "--json").rows
    assert (corpus["version"], corpus["versions"], corpus["digest"]) == (1, 3, versions[0].digest)
    for reference in ("v1", "latest", versions[0].digest[:8], f"sha256:{versions[0].digest}", "handbook@v1", "@v1"):
        assert run("rollback", "handbook", reference, "--home", home.path).err == "handbook is at handbook@v1 already\n"
    forward = run("rollback", "handbook", "v3", "--home", home.path).err
    assert forward.startswith("handbook went from v1 on to v3, 3 documents (a build)\n")
    moves = run("alias", "history", "handbook", "latest", "--home", home.path, "--json").rows
    assert [move["to_version"] for move in moves] == [1, 2, 3, 1, 3]
    assert moves[-1]["who"] == getpass.getuser()


def test_aliases(run: Run, history: tuple[Home, list[Version]]) -> None:
    home, _ = history
    where = ("--home", home.path)
    assert run("alias", "set", "handbook@v1", "production", *where).err == "handbook@production is handbook@v1 now\n"
    again = run("alias", "set", "handbook@v1", "production", *where)
    assert again.err == "handbook@production is handbook@v1 already\n"
    moved = run("alias", "set", "handbook", "production", *where)
    assert moved.err == "handbook@production is handbook@v3 now, it was v1\n"
    listed = run("alias", "list", *where, "--json").rows
    assert [(row["corpus"], row["name"], row["version"]) for row in listed] == [
        ("handbook", "latest", 3),
        ("handbook", "production", 3),
    ]
    assert run("alias", "remove", "handbook", "production", *where).err == "removed handbook@production, it was v3\n"
    history_lines = run("alias", "history", "handbook", "production", *where).out.splitlines()
    assert [line.split("\t")[:3] for line in history_lines] == [
        ["name", "from version", "to version"],
        ["production", "-", "1"],
        ["production", "1", "3"],
        ["production", "3", "-"],
    ]


def test_pins(run: Run, history: tuple[Home, list[Version]]) -> None:
    home, _ = history
    where = ("--home", home.path)
    said = [
        run(*arguments, *where).err
        for arguments in (
            ("pin", "handbook", "--reason", "audit"),
            ("pin", "handbook@v3"),
            ("unpin", "handbook@v3"),
            ("unpin", "handbook@v3"),
        )
    ]
    assert said == [
        "handbook@v3 is pinned\n",
        "handbook@v3 is pinned already\n",
        "handbook@v3 is pinned no more\n",
        "handbook@v3 was not pinned\n",
    ]


def test_a_collected_version_cannot_be_asked(
    run: Run, history: tuple[Home, list[Version]], catalog: Catalog, tmp_path: Path
) -> None:
    home, _ = history
    collect(catalog, 1)
    where = ("--home", home.path)
    for arguments in (
        ("search", "Who?", "--corpus", "handbook@v1"),
        ("rollback", "handbook", "v1"),
        ("alias", "set", "handbook@v1", "production"),
        ("pin", "handbook@v1"),
    ):
        found = run(*arguments, *where)
        assert (found.status, found.out) == (5, "")
        assert "handbook@v1 was collected on" in found.err
        assert "try: " in found.err
    assert run("diff", "handbook@v1", "v2", *where).status == 0
    assert len(run("documents", "list", "--corpus", "handbook@v1", *where, "--json").rows) == 3
    (line,) = (row for row in run("versions", "handbook", *where, "--json").rows if row["version"] == 1)
    assert json.dumps(line["collected_at"]) != "null"
