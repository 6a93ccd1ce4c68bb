"""Searching without SQLAlchemy: the same results and errors as with it, from a process that starts for one question."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.catalog.aliases import set_alias
from registry.catalog.dialect import parse_url, sqlite_file
from registry.catalog.engine import Catalog
from registry.catalog.recipes import add_base_model
from registry.errors import HomeError, PragregError
from registry.pipeline.opened import opened
from registry.pipeline.search import search
from registry.records import Hit, Version
from registry.retrieval import hits_of
from registry.settings import Home
from tests.catalog.workshop import BASE_MODEL, Workshop, placed

QUESTION = "Which keeper lit beacon 7?"
K = 5
SEARCH = """
import json, sys
from cli.main import run
status = run(sys.argv[1:])
print(json.dumps([status, sorted(set(sys.modules) & {"sqlalchemy", "alembic", "torch", "transformers", "rich"})]))
"""


@dataclass(frozen=True)
class Beacons:
    """A registry with two versions of one corpus, and a second corpus; every version is indexed."""

    home: Home
    versions: list[Version]

    @property
    def file(self) -> Path:
        file = sqlite_file(parse_url(self.home.catalog_url))
        assert file is not None
        return file

    def ordinary(self, reference: str) -> tuple[Version, tuple[Hit, ...]]:
        """Search through SQLAlchemy; this also makes the index of a version that has none."""
        with opened(self.home) as registry:
            version = registry.version(reference)
            matches = registry.index(version).search(QUESTION, K)
            return version, hits_of([matches], registry.members(version))[0]


@pytest.fixture
def beacons(home: Home, catalog: Catalog) -> Beacons:
    workshop = Workshop(catalog)
    first, _ = workshop.build([placed(number) for number in range(20)])
    # Beacon 7 stays and gets another adapter, 0 to 4 go, 20 to 24 come.
    second, _ = workshop.build(
        [placed(number) for number in range(5, 25)], take=lambda document: document.title == "Beacon 7"
    )
    other, _ = workshop.build([placed(number) for number in range(6, 9)], corpus="coast")
    with catalog.write() as session:
        set_alias(session, first, "production")
    made = Beacons(home, [first, second, other])
    for version in made.versions:
        made.ordinary(version.reference)
    return made


@pytest.fixture
def without_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ordinary way fail."""

    def refuse(_home: Home) -> None:
        raise AssertionError("the search took the ordinary way")

    monkeypatch.setattr("registry.pipeline.opened.opened", refuse)


REFERENCES: dict[str, Callable[[list[Version]], str]] = {
    "latest": lambda _: "handbook",
    "empty reference": lambda _: "handbook@",
    "alias": lambda _: "handbook@production",
    "alias latest": lambda _: "handbook@latest",
    "number": lambda _: "handbook@v1",
    "newest number": lambda _: "handbook@v2",
    "digest": lambda versions: f"handbook@sha256:{versions[0].digest}",
    "prefix": lambda versions: f"handbook@sha256:{versions[1].digest[:10]}",
    "another corpus": lambda _: "coast",
}


@pytest.mark.parametrize("named", REFERENCES)
def test_it_finds_what_the_ordinary_way_finds(beacons: Beacons, named: str, request: pytest.FixtureRequest) -> None:
    reference = REFERENCES[named](beacons.versions)
    expected = beacons.ordinary(reference)
    request.getfixturevalue("without_sqlalchemy")
    found = search(beacons.home, reference, QUESTION, K)
    assert found == expected
    assert found[0].created_at.tzinfo is not None
    assert found[1][0].document.title == "Beacon 7"


def test_the_same_content_again_is_its_newest_version(
    beacons: Beacons, catalog: Catalog, request: pytest.FixtureRequest
) -> None:
    again, created = Workshop(catalog).build([placed(number) for number in range(20)])
    assert created
    reference = f"handbook@sha256:{again.digest[:12]}"
    expected = beacons.ordinary(reference)
    request.getfixturevalue("without_sqlalchemy")
    assert search(beacons.home, reference, QUESTION, K) == expected
    assert expected[0].number == again.number == 3


@pytest.mark.parametrize(
    "reference",
    ["nothing", "", "@v1", "handbook@v9", "handbook@v0", "handbook@staging", "handbook@sha256:", "handbook@sha256:0"],
)
def test_unknown_references_have_the_same_errors(beacons: Beacons, reference: str) -> None:
    with pytest.raises(PragregError) as expected:
        beacons.ordinary(reference)
    with pytest.raises(type(expected.value)) as caught:
        search(beacons.home, reference, QUESTION, K)
    assert (caught.value.message, caught.value.hint) == (expected.value.message, expected.value.hint)


def test_an_ambiguous_prefix_is_refused(beacons: Beacons, catalog: Catalog) -> None:
    # Among 17 versions two begin with the same digit.
    workshop = Workshop(catalog)
    versions = [workshop.build([placed(number)], corpus="many")[0] for number in range(17)]
    firsts = [version.digest[0] for version in versions]
    prefix = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(PragregError, match="beginning of several"):
        search(beacons.home, f"many@sha256:{prefix}", QUESTION, K)


@pytest.mark.parametrize("revision", ["0000_earlier", "9999_later", None])
def test_another_schema_is_refused_as_ever(beacons: Beacons, revision: str | None) -> None:
    with sqlite3.connect(beacons.file) as connection:
        connection.execute(
            "UPDATE alembic_version SET version_num = ?" if revision else "DROP TABLE alembic_version",
            (revision,) if revision else (),
        )
    connection.close()
    with pytest.raises(HomeError) as expected:
        beacons.ordinary("handbook")
    with pytest.raises(HomeError) as caught:
        search(beacons.home, "handbook", QUESTION, K)
    assert (caught.value.message, caught.value.hint) == (expected.value.message, expected.value.hint)


def test_a_missing_catalog_is_not_made(beacons: Beacons, catalog: Catalog) -> None:
    catalog.close()
    beacons.file.unlink()
    with pytest.raises(HomeError, match="there is no catalog"):
        search(beacons.home, "handbook", QUESTION, K)
    assert not beacons.file.exists()


@pytest.mark.parametrize("harm", ["missing", "cut off", "foreign"])
def test_a_missing_or_damaged_index_is_made_anew(beacons: Beacons, harm: str) -> None:
    expected = beacons.ordinary("handbook")
    folder = beacons.home.index_folder(expected[0])
    if harm == "cut off":
        max(folder.iterdir(), key=lambda path: path.stat().st_size).write_bytes(b"")
    else:
        shutil.rmtree(folder)
    if harm == "foreign":
        shutil.copytree(beacons.home.index_folder(beacons.versions[2]), folder)
        (folder / "version.json").unlink()
    assert search(beacons.home, "handbook", QUESTION, K) == expected
    assert (folder / "version.json").exists()


@pytest.mark.usefixtures("without_sqlalchemy")
def test_it_reads_beside_a_writer(beacons: Beacons, catalog: Catalog) -> None:
    before = search(beacons.home, "handbook", QUESTION, K)
    with catalog.write() as session:
        add_base_model(session, BASE_MODEL)
        set_alias(session, beacons.versions[0], "latest")
        assert search(beacons.home, "handbook", QUESTION, K) == before
    assert search(beacons.home, "handbook", QUESTION, K)[0] == beacons.versions[0]


def test_it_leaves_no_files_and_changes_none(beacons: Beacons, catalog: Catalog) -> None:
    catalog.close()
    before = {path: path.stat().st_mtime_ns for path in beacons.home.path.iterdir() if path.is_file()}
    search(beacons.home, "handbook", QUESTION, K)
    assert {path: path.stat().st_mtime_ns for path in beacons.home.path.iterdir() if path.is_file()} == before


def test_a_search_imports_neither_sqlalchemy_nor_torch(beacons: Beacons) -> None:
    command = [sys.executable, "-c", SEARCH, "search", QUESTION, "--corpus", "handbook@production", "--json", "-k", "2"]
    environment = {**os.environ, "PRAGREG_HOME": str(beacons.home.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *hits, (status, slow) = [json.loads(line) for line in done.stdout.splitlines()]
    assert status == 0
    assert slow == []
    assert hits[0]["title"] == "Beacon 7"
    assert {hit["version"] for hit in hits} == {"handbook@v1"}
