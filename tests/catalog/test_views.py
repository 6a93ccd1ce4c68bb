"""The views are what their documentation says, on both databases."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, text

from registry.catalog import schema
from registry.catalog.builds import stage
from registry.catalog.dialect import parse_url
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.read_only.connection import open_read_only
from registry.catalog.references import resolve
from registry.catalog.versions import set_alias
from registry.catalog.views import VIEWS, views_markdown
from registry.digests import text_key
from tests.catalog.workshop import BASE_MODEL, Workshop, document, placed

ROOT = Path(__file__).parents[2]
KINDS = {
    "text": ("TEXT", "VARCHAR"),
    "integer": ("BIGINT", "INTEGER"),
    "number": ("DOUBLE PRECISION", "FLOAT"),
    "boolean": ("BOOLEAN",),
    "moment": ("TIMESTAMP", "DATETIME"),
}


def rows(catalog: Catalog, query: str) -> list[dict[str, Any]]:
    with open_read_only(catalog.url) as reader:
        found = reader.query(query, timeout_seconds=30)
        return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def test_views_have_the_columns_that_are_documented(any_url: str) -> None:
    engine = create_engine(parse_url(any_url))
    found = inspect(engine)
    assert set(found.get_view_names()) == set(VIEWS)
    for name, view in VIEWS.items():
        columns = found.get_columns(name)
        assert [column["name"] for column in columns] == [column.name for column in view.columns], name
        if engine.dialect.name == "postgresql":  # SQLite's types are those of the values
            for column, documented in zip(columns, view.columns, strict=True):
                kind = str(column["type"]).partition("(")[0]
                assert kind in KINDS[documented.kind], f"{name}.{documented.name} is {kind}"
    engine.dispose()


def test_columns_of_one_name_have_one_kind() -> None:
    kinds: dict[str, set[str]] = {}
    for view in VIEWS.values():
        for column in view.columns:
            kinds.setdefault(column.name, set()).add(column.kind)
    assert {name for name, found in kinds.items() if len(found) > 1} == set()


def test_the_page_has_the_views() -> None:
    page = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
    assert views_markdown() in page, "write its part anew: python -m registry.catalog.views"
    assert set(re.findall(r"\bv_[a-z_]+", page)) <= set(VIEWS)


def test_versions_tell_their_aliases_and_pins(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    workshop.build([placed(1), placed(2)])
    with workshop.catalog.write() as session:
        for alias in ("stable", "production"):
            set_alias(session, resolve(session, "handbook@v1"), alias, who="ada")
        session.execute(
            text(
                "INSERT INTO pins (corpus_id, version, reason, who, pinned_at)"
                " SELECT id, 1, '', 'ada', '2026-01-01 00:00:00' FROM corpora"
            )
        )
    first, second = rows(workshop.catalog, "SELECT * FROM v_versions ORDER BY version")
    assert (first["aliases"], first["is_latest"], first["pinned"]) == ("production, stable", False, True)
    assert (second["aliases"], second["is_latest"], second["pinned"]) == ("latest", True, False)
    assert (second["reference"], second["parent"], second["documents"]) == ("handbook@v2", 1, 2)
    assert (second["base_model"], second["base_model_fingerprint"]) == (BASE_MODEL.reference, BASE_MODEL.fingerprint)
    (corpus,) = rows(workshop.catalog, "SELECT * FROM v_corpora")
    assert (corpus["version"], corpus["versions"], corpus["size_bytes"]) == (2, 2, second["size_bytes"])
    (alias, *_) = rows(workshop.catalog, "SELECT * FROM v_aliases WHERE alias = 'production'")
    assert alias["reference"] == "handbook@v1"
    moves = rows(workshop.catalog, "SELECT * FROM v_alias_moves WHERE alias = 'latest' ORDER BY move")
    assert [(move["from_version"], move["to_version"]) for move in moves] == [(None, 1), (1, 2)]


def test_members_are_those_of_the_version_that_latest_names(workshop: Workshop) -> None:
    workshop.build([placed(1), placed(2)])
    workshop.build([placed(2), placed(3)])
    query = (
        "SELECT title, version, since_version FROM v_members JOIN v_documents USING (document_digest) ORDER BY title"
    )
    assert [tuple(row.values()) for row in rows(workshop.catalog, query)] == [("Beacon 2", 2, 1), ("Beacon 3", 2, 2)]
    with workshop.catalog.write() as session:
        set_alias(session, resolve(session, "handbook@v1"), "latest", who="ada")
    assert [row["title"] for row in rows(workshop.catalog, query)] == ["Beacon 1", "Beacon 2"]
    places = rows(workshop.catalog, "SELECT * FROM v_places ORDER BY ordinal")
    assert [(row["source_uri"], row["ordinal"]) for row in places] == [("coast.jsonl", 1), ("coast.jsonl", 2)]


def test_adapters_tell_whether_they_are_there(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    (there,) = rows(workshop.catalog, "SELECT * FROM v_adapters")
    assert there["located"]
    assert there["title"] == "Beacon 1"
    (pack,) = rows(workshop.catalog, "SELECT * FROM v_packs")
    assert (pack["pack_digest"], pack["adapters"], pack["adapters_bytes"]) == (there["pack_digest"], 1, 1_000)
    with workshop.catalog.write() as session:
        session.execute(text("DELETE FROM adapter_locations"))
    (gone,) = rows(workshop.catalog, "SELECT * FROM v_adapters")
    assert (bool(gone["located"]), gone["pack_digest"]) == (False, None)


def test_recipes_show_their_settings(workshop: Workshop) -> None:
    (row,) = rows(workshop.catalog, "SELECT * FROM v_recipes")
    recipe = workshop.recipe
    for name in ("rank", "alpha", "epochs", "learning_rate", "augmenter", "pairs", "layout", "adapter_dtype"):
        assert row[name] == getattr(recipe, name)
    assert row["task_adapter_digest"] is None
    assert '"rank"' in row["settings"]


def test_builds_tell_how_long_they_took(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    start = datetime(2026, 3, 1, 23, 59, 59, 500_000, tzinfo=UTC)
    with workshop.catalog.write() as session:
        values = {"start": start, "end": start + timedelta(days=1, milliseconds=1)}
        if session.get_bind().dialect.name == "sqlite":
            values = {name: value.replace(tzinfo=None) for name, value in values.items()}
        statement = text("UPDATE builds SET started_at = :start, finished_at = :end")
        session.execute(statement, {name: str(value) for name, value in values.items()})
    (row,) = rows(workshop.catalog, "SELECT * FROM v_builds")
    assert row["elapsed_seconds"] == 86_400.001
    assert (row["version"], row["status"], row["started_at"]) == (1, "finished", start)


def test_augmentations_sum_their_requests(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    with workshop.catalog.write() as session:
        session.execute(
            text(
                "INSERT INTO augmentation_requests (document_id, request_digest, augmentation_id, dropped_pairs,"
                " dropped_rewrites, tokens, elapsed_seconds, created_at) SELECT document_id, :digest, augmentation_id,"
                " 5, 0, 7, 0.25, created_at FROM augmentation_requests"
            ),
            {"digest": "0" * 64},
        )
    (row,) = rows(workshop.catalog, "SELECT * FROM v_augmentations")
    assert (row["requests"], row["dropped_pairs"], row["tokens"], row["elapsed_seconds"]) == (2, 7, 47, 0.75)


def test_staging_fills_the_text_key(workshop: Workshop) -> None:
    with workshop.catalog.write() as session:
        stage(session, workshop.begin(session), [placed(1)])
    with workshop.catalog.read() as session:
        assert session.scalar(text("SELECT text_key FROM documents")) == text_key(document(1).text)
    digest = hashlib.sha256(document(1).text.encode()).hexdigest()
    assert text_key(document(1).text) % 2**64 == int(digest[:16], 16)


def test_the_migration_fills_the_text_keys_of_what_is_there(any_url: str) -> None:
    texts = ["plain", "Gräu und 灯台 😀", "", "line\nend"]
    with open_catalog(any_url) as catalog, catalog.write() as session:
        for number, value in enumerate(texts, start=1):
            session.execute(
                text(
                    "INSERT INTO documents (id, digest, title, text, characters, created_at)"
                    " VALUES (:id, :digest, '', :text, 1, '2026-01-01 00:00:00')"
                ),
                {"id": number, "digest": f"{number:064}", "text": value},
            )
    schema.downgrade(any_url, "0003_upkeep")
    engine = create_engine(parse_url(any_url))
    assert inspect(engine).get_view_names() == []
    engine.dispose()
    schema.upgrade(any_url)
    with open_catalog(any_url) as catalog, catalog.read() as session:
        found = [row[0] for row in session.execute(text("SELECT text_key FROM documents ORDER BY id"))]
    assert found == [text_key(value) for value in texts]
    assert schema.check(any_url) == []


@pytest.mark.parametrize("column", ["corpus", "document_digest"])
def test_views_join_by_their_names(workshop: Workshop, column: str) -> None:
    workshop.build([placed(1), placed(2)])
    joined = {"corpus": "v_members JOIN v_versions USING (corpus, version)"}
    joined["document_digest"] = (
        "v_members JOIN v_documents USING (document_digest) JOIN v_adapters USING (adapter_digest)"
    )
    assert rows(workshop.catalog, f"SELECT count(*) AS n FROM {joined[column]}") == [{"n": 2}]


def test_check_tells_of_views_that_are_not_there(any_url: str) -> None:
    engine = create_engine(parse_url(any_url))
    with engine.begin() as connection:
        for statement in ("DROP VIEW v_packs", "DROP VIEW v_aliases", "CREATE VIEW v_aliases AS SELECT 1 AS corpus"):
            connection.execute(text(statement))
    engine.dispose()
    assert schema.check(any_url) == ["add view: v_packs", "change view: v_aliases"]


def test_the_examples_of_the_page_run(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    page = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if "ATTACH" not in block]
    statements = [statement for block in blocks for statement in block.split(";") if statement.strip()]
    assert len(statements) >= 4
    for statement in statements:
        rows(workshop.catalog, statement)
    in_python = re.findall(r'"(SELECT [^"]*)"', page)
    assert in_python
    for statement in in_python:
        if ":" not in statement:
            rows(workshop.catalog, statement)
