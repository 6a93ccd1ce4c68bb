"""Queries by people: what they may ask, that they change nothing, and what they are told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, text

from registry.catalog import schema
from registry.catalog.dialect import parse_url
from registry.catalog.engine import open_catalog
from registry.catalog.read_only.connection import ReadOnly, open_read_only
from registry.catalog.read_only.statements import parse_statement
from registry.catalog.views import VIEWS
from registry.errors import HomeError, PragregError, UsageError
from tests.catalog.workshop import Workshop, placed

MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT i, :word AS word FROM n"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

CHANGES = [
    "INSERT INTO corpora (id, name, language, created_at) VALUES (9, 'x', 'en', '2026-01-01')",
    "UPDATE corpora SET name = 'x'",
    "DELETE FROM aliases",
    "DROP TABLE aliases",
    "DROP VIEW v_corpora",
    "CREATE TABLE stray (id INTEGER)",
    "CREATE TEMP TABLE stray (id INTEGER)",
    "CREATE TABLE stray AS SELECT * FROM corpora",
    "CREATE INDEX stray ON corpora (language)",
    "CREATE VIEW v_stray AS SELECT 1",
    "ALTER TABLE corpora ADD COLUMN colour TEXT",
    "WITH gone AS (SELECT 1) DELETE FROM aliases",
    "WITH gone AS (SELECT 1) UPDATE corpora SET name = 'x'",
    "WITH gone AS (SELECT 'x' AS n) INSERT INTO sources (id, uri, created_at) SELECT 9, n, '2026-01-01' FROM gone",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "VACUUM",
    "ANALYZE",
    "REINDEX TABLE corpora",
    "SELECT 1; DELETE FROM aliases",
    "SELECT 1; SELECT 2",
    "/* SELECT */ DELETE FROM aliases",
    "-- SELECT\nDELETE FROM aliases",
    "",
    "  ;  ",
    "-- nothing",
]
ON_SQLITE = [
    "ATTACH DATABASE '{folder}/other.sqlite' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH DATABASE main",
    "VACUUM INTO '{folder}/copy.sqlite'",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA user_version = 7",
    "SELECT * FROM pragma_user_version(7)",
    "SELECT * FROM pragma_journal_mode('delete')",
    "SELECT * FROM pragma_query_only(0)",
    "SELECT load_extension('{folder}/extension')",
    "SELECT writefile('{folder}/file', 'x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT fts3_tokenizer('simple')",
    "CREATE VIRTUAL TABLE temp.stray USING fts5(a)",
    "REPLACE INTO corpora (id, name, language, created_at) VALUES (1, 'x', 'en', '2026-01-01')",
]
ON_POSTGRESQL = [
    "SELECT * INTO stray FROM corpora",
    "WITH gone AS (DELETE FROM aliases RETURNING *) SELECT * FROM gone",
    "EXPLAIN ANALYZE DELETE FROM aliases",
    "EXPLAIN ANALYZE CREATE TABLE stray AS SELECT 1",
    "EXPLAIN (ANALYZE, FORMAT json) CREATE MATERIALIZED VIEW stray AS SELECT 1",
    "EXPLAIN /* SELECT */ ANALYZE VERBOSE EXECUTE p",
    "SELECT * FROM corpora FOR UPDATE",
    "SET transaction_read_only = off",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "RESET ALL",
    "SET ROLE postgres",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT set_config('statement_timeout', '0', false)",
    "SELECT \"set_config\"('role', 'none', true)",
    "SELECT pg_catalog.set_config('role', 'none', true)",
    "SELECT U&\"\\0073et_config\"('role', 'none', true)",
    "COPY corpora TO PROGRAM 'cat > {folder}/file'",
    "COPY corpora TO '{folder}/file'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT * FROM pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '{folder}/file')",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT query_to_xml('DELETE FROM aliases', true, true, '')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "SELECT pg_reload_conf()",
    "SELECT pg_advisory_lock(1)",
    "SELECT nextval('queries_id_seq')",
    "SELECT setval('queries_id_seq', 1)",
    "SELECT pg_notify('a', 'b')",
    "DO $$ BEGIN DELETE FROM aliases; END $$",
    "CALL something()",
    "SELECT 1 AS a$$, pg_read_file('/etc/passwd') AS b$$",
    "SELECT '\\', pg_read_file('/etc/passwd') -- '",
    "DECLARE c CURSOR FOR SELECT 1",
    "PREPARE p AS DELETE FROM aliases",
    "LISTEN a",
    "TRUNCATE aliases",
    "LOCK TABLE aliases",
    "GRANT ALL ON corpora TO PUBLIC",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
]


@pytest.fixture
def url(any_url: str) -> str:
    """A catalog with a corpus of two documents."""
    with open_catalog(any_url) as catalog:
        Workshop(catalog).build([placed(1), placed(2)])
    return any_url


@pytest.fixture
def reader(url: str) -> Iterator[ReadOnly]:
    with open_read_only(url) as reader:
        yield reader


def ask(reader: ReadOnly, query: str, timeout_seconds: float = 30.0, **parameters: Any) -> list[tuple[Any, ...]]:
    return list(reader.query(query, parameters, timeout_seconds=timeout_seconds).rows)


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables, with the names of all that the schema holds."""
    with open_catalog(url) as catalog, catalog.read() as session:
        kinds = (
            "SELECT type || name FROM sqlite_master"
            if url.startswith("sqlite")
            else "SELECT CAST(relname AS text) FROM pg_class UNION ALL SELECT CAST(proname AS text) FROM pg_proc"
        )
        names = [str(row[0]) for row in session.execute(text(kinds))]
        tables = ("corpora", "versions", "aliases", "memberships", "sources", "documents")
        rows = {table: [tuple(row) for row in session.execute(text(f"SELECT * FROM {table}"))] for table in tables}
    return {table: sorted(map(repr, found)) for table, found in rows.items()} | {"names": sorted(names)}


def test_every_change_is_refused_and_changes_nothing(url: str, tmp_path: Path) -> None:
    own = ON_SQLITE if url.startswith("sqlite") else ON_POSTGRESQL
    before = everything(url)
    for statement in [*CHANGES, *own]:
        query = statement.replace("{folder}", str(tmp_path))
        with open_read_only(url) as reader, pytest.raises(UsageError):
            print(query, "gave", ask(reader, query))
        assert everything(url) == before, query
    assert {path.name for path in tmp_path.iterdir()} <= {"catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"}


def test_what_reads_is_taken(reader: ReadOnly, url: str) -> None:
    assert ask(reader, "SELECT corpus, documents FROM v_corpora;") == [("handbook", 2)]
    assert ask(reader, "  -- a comment; with a semicolon\n select ';' as c ; -- the end") == [(";",)]
    assert ask(reader, "VALUES (1, 'a'), (2, 'b')") == [(1, "a"), (2, "b")]
    assert ask(reader, "WITH x AS (SELECT 1 AS a) SELECT a FROM x") == [(1,)]
    assert ask(reader, "(SELECT 1)" if "postgres" in url else "SELECT 1") == [(1,)]
    assert ask(reader, "EXPLAIN SELECT * FROM v_corpora")
    assert parse_statement("EXPLAIN (ANALYZE, FORMAT json) WITH a AS (SELECT 1) SELECT 1").what == "with"
    assert ask(reader, "SELECT lower('ÄÖ'), upper('é')") == [("äö", "É")]
    if "postgres" in url:
        assert ask(reader, "TABLE v_aliases")
        assert ask(reader, "SHOW transaction_read_only") == [("on",)]
        assert ask(reader, "SELECT 7::bigint, $$a;b$$, pg_total_relation_size('corpora') > 0") == [(7, "a;b", True)]
    else:
        assert ask(reader, "EXPLAIN QUERY PLAN SELECT * FROM v_corpora")
        assert len(ask(reader, "SELECT name FROM pragma_table_info('corpora')")) == 4
        assert ask(reader, "SELECT value FROM json_each('[1, 2]')") == [(1,), (2,)]


def test_parameters_are_bound(reader: ReadOnly) -> None:
    attack = "handbook' OR '1'='1"
    query = "SELECT corpus FROM v_corpora WHERE corpus = :name AND documents >= :least"
    assert ask(reader, query, name="handbook", least=2) == [("handbook",)]
    assert ask(reader, query, name=attack, least=0) == []
    assert ask(reader, "SELECT CAST(:a AS text), ':b', CAST(:a AS text) -- :c", a="x") == [("x", ":b", "x")]
    assert ask(reader, "SELECT count(*) FROM v_versions WHERE created_at > :since", since="2026-01-01") == [(1,)]
    with pytest.raises(UsageError, match=":name has no value") as caught:
        ask(reader, query, least=1)
    assert caught.value.hint == "-p name=VALUE"
    with pytest.raises(UsageError, match="no :other; it has :name, :least"):
        ask(reader, query, name="a", least=1, other=2)


def test_moments_have_their_zone(reader: ReadOnly) -> None:
    ((moment,),) = ask(reader, "SELECT created_at FROM v_corpora")
    assert moment.utcoffset().total_seconds() == 0


@pytest.mark.parametrize(
    ("query", "line", "column", "says"),
    [
        ("SELECT *\nFORM v_corpora", 2, 1, "FORM"),
        ("SELECT nothing FROM v_corpora", 1, 8, "nothing"),
        ("SELECT *\nFROM v_nowhere WHERE :longer_name = '1'", 2, 6, "v_nowhere"),
        ("SELECT CAST(:longer_name AS text),\n  nothing FROM v_corpora", 2, 3, "nothing"),
    ],
)
def test_a_wrong_query_is_shown_where_it_is_wrong(
    reader: ReadOnly, query: str, line: int, column: int, says: str
) -> None:
    parameters = {name: "1" for name in parse_statement(query).parameters}
    with pytest.raises(UsageError, match=rf"wrong at line {line}, column {column}: .*{says}") as caught:
        ask(reader, query, **parameters)
    shown, caret = caught.value.message.splitlines()[1:]
    assert shown == query.splitlines()[line - 1]
    assert caret == " " * (column - 1) + "^"
    assert "v_documents" in str(caught.value.hint)


@pytest.mark.parametrize(
    "query",
    ["SELECT sum(corpus, 1) FROM v_corpora", "SELECT 1 FROM", "SELECT ' FROM v_corpora", f"SELECT {'(' * 20_000}"],
)
def test_other_faults_are_told(reader: ReadOnly, query: str) -> None:
    with pytest.raises(UsageError, match="the query is wrong"):
        ask(reader, query)


def test_a_query_that_takes_too_long_is_stopped(reader: ReadOnly) -> None:
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"stopped after 0\.3 seconds") as caught:
        ask(reader, ENDLESS, timeout_seconds=0.3)
    assert time.monotonic() - start < 10
    assert "--timeout" in str(caught.value.hint)


def test_waiting_for_whoever_reads_the_rows_is_not_counted(reader: ReadOnly) -> None:
    rows = reader.query(MANY.format(rows=300), {"word": "a"}, timeout_seconds=0.5).rows
    next(rows)
    time.sleep(0.6)
    assert len(list(rows)) == 299


def test_rows_stream(reader: ReadOnly) -> None:
    process = psutil.Process(os.getpid())
    start = time.monotonic()
    rows = reader.query(MANY.format(rows=400_000), {"word": "a" * 100}, timeout_seconds=120.0).rows
    first = next(rows)
    first_seconds = time.monotonic() - start
    before = process.memory_info().rss
    count = 1 + sum(1 for _ in rows)
    grown = process.memory_info().rss - before
    whole_seconds = time.monotonic() - start
    assert (first[0], count) == (1, 400_000)
    assert first_seconds < whole_seconds / 5
    assert grown < 20_000_000, f"rows of 40 MB took {grown} bytes"


def test_a_reader_sees_one_state(url: str) -> None:
    with open_read_only(url) as reader:
        assert ask(reader, "SELECT count(*) FROM v_versions") == [(1,)]
        with open_catalog(url) as catalog:
            Workshop(catalog).build([placed(3)])
        assert ask(reader, "SELECT count(*) FROM v_versions") == [(1,)]
    with open_read_only(url) as reader:
        assert ask(reader, "SELECT count(*) FROM v_versions") == [(2,)]


def test_a_catalog_of_another_schema_is_refused(any_url: str, tmp_path: Path) -> None:
    schema.downgrade(any_url, "0003_upkeep")
    with pytest.raises(HomeError, match="needs 0"), open_read_only(any_url):
        pass
    with pytest.raises(HomeError, match="no catalog"), open_read_only(f"sqlite:///{tmp_path / 'nowhere.sqlite'}"):
        pass
    assert not (tmp_path / "nowhere.sqlite").exists()


@pytest.mark.postgres
def test_no_password_is_told(postgres_url: str) -> None:
    secret = parse_url(postgres_url).set(password="hunter2secret", port=1).render_as_string(hide_password=False)
    with pytest.raises(PragregError) as caught, open_read_only(secret):
        pass
    assert "hunter2secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.postgres
def test_no_column_is_called_like_a_function_that_is_refused(postgres_url: str) -> None:
    engine = create_engine(parse_url(postgres_url))
    with engine.connect() as connection:
        found = connection.execute(text("SELECT DISTINCT proname FROM pg_proc WHERE provolatile = 'v'"))
        volatile = {str(row[0]) for row in found}
    engine.dispose()
    names = set(VIEWS) | {column.name for view in VIEWS.values() for column in view.columns}
    assert not names & volatile


def test_reading_does_not_wait_for_a_writer(url: str) -> None:
    with open_catalog(url) as catalog, catalog.write() as session:
        session.execute(text("UPDATE corpora SET language = 'de'"))
        with open_read_only(url) as reader:
            assert ask(reader, "SELECT language FROM v_corpora") == [("en",)]


def test_numbers_keep_their_places_in_the_query() -> None:
    statement = parse_statement("SELECT :a, ':b', :long_name::int, \":c\" /* :d */ , :a -- :e")
    assert statement.parameters == ("a", "long_name")
    numbered = statement.numbered()
    assert numbered == "SELECT $1, ':b', $2::int, \":c\" /* :d */ , $1 -- :e"
    for mark in ("':b'", "::int", '":c"', "-- :e"):
        assert statement.original_offset(numbered.index(mark)) == statement.text.index(mark)
    assert statement.original_offset(numbered.index("$2")) == statement.text.index(":long_name")
