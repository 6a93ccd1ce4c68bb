"""``pragreg report`` and ``pragreg sql``, as people type them."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

from cli.sql import parse_parameter
from registry.catalog import schema
from registry.catalog.engine import open_catalog
from registry.errors import UsageError
from registry.records import Document, Place, PlacedDocument
from registry.settings import Home, create_home
from tests.catalog.workshop import Workshop
from tests.cli.conftest import TEXTS, Run

MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT i FROM n"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A registry with one version of a corpus, handbook@v1, which these tests share, for they cannot change it."""
    home = create_home(tmp_path_factory.mktemp("filled") / "home")
    schema.upgrade(home.catalog_url)
    placed = [
        PlacedDocument(Document.of(title, text), Place("sayings.jsonl", number, f"s{number}"))
        for number, (title, text) in enumerate(TEXTS)
    ]
    with open_catalog(home.catalog_url) as catalog:
        Workshop(catalog).build(placed)
    return home


def test_reports_are_listed(run: Run) -> None:
    found = run("report")
    assert found.status == 0
    assert "storage\tBytes of adapters by corpus, recipe and base model\n" in found.out
    assert {"name": "lineage", "title": "What an answer was made of"} in run("report", "--json").rows


def test_help_tells_columns_and_parameters(run: Run) -> None:
    out = run("report", "stale", "--help").out
    assert "--within [base-model|corpus]" in out
    assert "newest_recipe_digest (text): sha256 of the newest recipe" in out
    assert "--limit N" in out


def test_a_report_in_every_format(run: Run, filled: Home, tmp_path: Path) -> None:
    base = ("report", "storage", "--home", filled.path)
    table = run(*base)
    assert table.out.splitlines()[0] == "part\tname\tadapters\tsize\tcollected"
    assert "corpus\thandbook\t5\t5.00 kB\t0" in table.out
    rows = list(csv.DictReader(io.StringIO(run(*base, "--format", "csv").out)))
    assert (rows[0]["name"], rows[0]["size_bytes"]) == ("handbook", "5000")
    assert run(*base, "--json").rows == run(*base, "--format", "json").rows
    assert run(*base, "--json").rows[0]["size_bytes"] == 5000
    assert run(*base, "--format", "markdown").out.splitlines()[2] == "| corpus | handbook | 5 | 5000 | 0 |"
    target = tmp_path / "storage.parquet"
    written = run(*base, "--format", "parquet", "--out", target)
    assert (written.status, written.out) == (0, "")
    assert parquet.read_table(target)["size_bytes"].to_pylist()[0] == 5000


def test_a_chart_is_written_beside_the_rows(run: Run, filled: Home, tmp_path: Path) -> None:
    found = run("report", "storage", "--home", filled.path, "--chart", tmp_path / "storage.png")
    assert found.status == 0
    assert "handbook" in found.out
    assert (tmp_path / "storage.png").read_bytes().startswith(b"\x89PNG")
    wrong = run("report", "storage", "--home", filled.path, "--chart", tmp_path / "storage.jpg")
    assert wrong.status == 2
    assert "a chart is a .png or .svg file" in wrong.err
    assert {path.name for path in tmp_path.glob("storage*")} == {"storage.png"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("storag",), 2, "there is no report 'storag'; did you mean storage?"),
        (("nonsense",), 2, "there is no report 'nonsense'; there are augmentation, "),
        (("stale", "--nope", "3"), 2, "--nope"),
        (("stale", "--within", "world"), 2, "'world' is not one of"),
        (("stale", "--limit", "many"), 2, "'many' is not a valid integer"),
        (("lineage",), 2, "lineage needs --query"),
        (("lineage", "--query", "77"), 5, "there is no query 77 in the log"),
        (("lineage", "--query", "77", "--chart", "a.png"), 2, "--chart"),
        (("storage", "--format", "xml"), 2, "'xml' is not one of"),
        (("storage", "--format", "parquet"), 2, "Parquet is written to a file"),
        (("storage", "--format", "csv", "--json"), 2, "two formats"),
        (("loss", "--corpus", "atlas"), 5, "there is no corpus 'atlas'"),
        (("storage", "--out", "nowhere/file"), 2, "cannot be written"),
    ],
)
def test_what_is_wrong_is_told(run: Run, filled: Home, arguments: tuple[str, ...], status: int, message: str) -> None:
    found = run("report", *arguments, "--home", filled.path)
    assert (found.status, found.out) == (status, "")
    assert message in found.err
    assert "Traceback" not in found.err


def test_more_rows_are_told_of(run: Run, filled: Home) -> None:
    found = run("report", "never-retrieved", "--corpus", "handbook", "--limit", "2", "--home", filled.path)
    assert len(found.out.splitlines()) == 3
    assert found.err == "there are more rows; see --limit\n"


def test_no_document_drives_the_terminal(run: Run, filled: Home) -> None:
    assert "\x1b" not in run("report", "never-retrieved", "--corpus", "handbook", "--home", filled.path).out


def test_sql_with_parameters(run: Run, filled: Home) -> None:
    query = "SELECT title, characters FROM v_documents WHERE title LIKE :like AND characters > :least"
    found = run("sql", query, "-p", "like=The O%", "-p", "least=75", "--json", "--home", filled.path)
    assert found.rows == [{"title": "The Organ of Hollin", "characters": 78}]
    assert run("sql", "SELECT corpus FROM v_corpora", "--home", filled.path).out == "corpus\nhandbook\n"
    limited = run("sql", MANY.format(rows=9), "--limit", "2", "--format", "csv", "--home", filled.path)
    assert (limited.out, limited.err) == ("i\n1\n2\n", "there are more rows; see --limit\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1), ("a=-2.5e3", -2500.0), ("a=true", True), ("a=null", None), ("a=x=y", "x=y"), ("a='1'", "1"),
        ("a=", ""), ("a=1.2.3", "1.2.3"), ("a=2026-01-01", "2026-01-01"), ("a='", "'"),
    ],
)  # fmt: skip
def test_parameters_have_the_type_that_they_look_like(text: str, value: object) -> None:
    assert parse_parameter(text) == ("a", value)
    assert type(parse_parameter(text)[1]) is type(value)


def test_parameters_that_are_none() -> None:
    for wrong in ("a", "=1", "a b=1"):
        with pytest.raises(UsageError, match="is not NAME=VALUE"):
            parse_parameter(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("DELETE FROM corpora",), "only queries that read are taken"),
        (("SELECT 1; SELECT 2",), "several statements"),
        (("SELECT nothing FROM v_corpora",), "wrong at line 1, column 8"),
        (("SELECT :a",), ":a has no value"),
        (("SELECT 1", "-p", "a=1"), "the query has no :a"),
        (("SELECT 1", "-p", "a"), "is not NAME=VALUE"),
        (("SELECT :a", "-p", f"a={10**18 * 99}"), "too large"),
        (("SELECT 1", "--format", "parquet"), "Parquet is written to a file"),
        ((MANY.format(rows=10**9).replace("SELECT i FROM", "SELECT sum(i) FROM"), "--timeout", "0.2"), "stopped after"),
    ],
)
def test_what_is_wrong_with_a_query_is_told(run: Run, filled: Home, arguments: tuple[str, ...], message: str) -> None:
    found = run("sql", *arguments, "--home", filled.path)
    assert (found.status, found.out) == (2, "")
    assert message in found.err
    assert "Traceback" not in found.err


def test_sql_from_standard_input(run_process: Run, filled: Home) -> None:
    found = run_process("sql", "-", "--json", "--home", filled.path, stdin="SELECT count(*) AS n\nFROM v_documents;\n")
    assert (found.status, found.rows) == (0, [{"n": 5}])


def test_a_query_can_be_stopped_by_hand(filled: Home) -> None:
    # Python asks SQLite for the row after the one that it gives.
    begun = "SELECT 1, 'begun' UNION ALL SELECT 2, 'begun' UNION ALL SELECT min(i), 'ended' FROM n"
    query = MANY.format(rows=10**12).replace("SELECT i FROM n", begun)
    command = [sys.executable, "-m", "cli.main", "sql", query]
    command += ["--format", "csv", "--home", str(filled.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        assert process.stdout.readline() == "1,begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped; what was finished is kept\n"
    assert process.returncode == 130


def test_the_first_row_comes_at_once_and_the_reader_may_leave(filled: Home) -> None:
    query = MANY.format(rows=50_000_000)
    command = [sys.executable, "-m", "cli.main", "sql", query, "--format", "json", "--home", str(filled.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline()) == {"i": 1}
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
