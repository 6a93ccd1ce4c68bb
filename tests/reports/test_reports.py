"""Every report on both databases: its columns, its rows, its parameters."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from registry.catalog.engine import Catalog, open_catalog
from registry.errors import NotFoundError, UsageError
from registry.reports.definitions import read_report, report_names
from registry.reports.running import run_report
from tests.catalog.workshop import Workshop, document, placed
from tests.reports.invented import NEWER, TWIN

KINDS = {"text": str, "integer": int, "number": float, "boolean": bool, "moment": datetime}


def run(catalog: Catalog, name: str, **given: Any) -> list[dict[str, Any]]:
    report = read_report(name)
    with run_report(catalog.url, report, given) as rows:
        names = [column.name for column in rows.columns]
        return [dict(zip(names, row, strict=True)) for row in rows]


def last_query(catalog: Catalog) -> int:
    with catalog.read() as session:
        return int(session.execute(text("SELECT max(id) FROM queries")).scalar_one())


def needed(catalog: Catalog, name: str) -> dict[str, Any]:
    if name == "lineage":
        return {"query": last_query(catalog)}
    return {"corpus": "handbook"} if name == "never-retrieved" else {}


def test_there_is_a_report_for_every_question() -> None:
    assert set(report_names()) == {
        "augmentation", "duplicates", "lineage", "loss", "never-retrieved", "quality", "slowest", "stale", "storage",
        "time", "training-cost",
    }  # fmt: skip


@pytest.mark.parametrize("name", report_names())
def test_every_report_has_rows_of_the_kinds_that_it_promises(filled_catalog: Catalog, name: str) -> None:
    found = run(filled_catalog, name, **needed(filled_catalog, name))
    assert found
    for row in found:
        for column in read_report(name).columns:
            value = row[column.name]
            assert value is None or type(value) is KINDS[column.kind], column.name
    for column in read_report(name).columns:
        assert any(row[column.name] is not None for row in found), f"{column.name} is empty in every row"


@pytest.mark.postgres
def test_both_databases_give_the_same_rows(filled_sqlite_url: str, filled_postgres_url: str) -> None:
    with open_catalog(filled_sqlite_url) as catalog, open_catalog(filled_postgres_url) as other:
        for name in report_names():
            here = [_comparable(row) for row in run(catalog, name, **needed(catalog, name))]
            there = [_comparable(row) for row in run(other, name, **needed(other, name))]
            assert len(here) == len(there), name
            for own, others in zip(here, there, strict=True):
                assert own == pytest.approx(others), name


def _comparable(row: dict[str, Any]) -> dict[str, Any]:
    # When the builds ran here, and how long, is chance.
    chance = {name for name, value in row.items() if isinstance(value, datetime)} | {"elapsed_seconds"}
    return {name: value for name, value in row.items() if name not in chance}


def test_an_empty_catalog_has_reports_too(any_catalog: Catalog) -> None:
    for name in report_names():
        if name not in ("lineage", "never-retrieved", "storage"):
            assert run(any_catalog, name) == []
    (packs,) = run(any_catalog, "storage")
    assert (packs["part"], packs["adapters"], packs["size_bytes"]) == ("packs", 0, 0)


def test_storage_tells_what_was_collected(filled_catalog: Catalog) -> None:
    rows = {(row["part"], row["name"]): row for row in run(filled_catalog, "storage")}
    assert rows["corpus", "handbook"]["adapters"] == 8
    assert rows["corpus", "handbook"]["size_bytes"] == 8_000
    assert (rows["corpus", "press"]["adapters"], rows["corpus", "press"]["collected"]) == (2, 1)
    assert (rows["recipe", NEWER.digest]["adapters"], rows["recipe", NEWER.digest]["collected"]) == (2, 1)
    assert (rows["base model", "tiny/lantern"]["adapters"], rows["base model", "tiny/lantern"]["collected"]) == (10, 1)
    assert rows["packs", "all packs"]["adapters"] == 15, "the kept ones lie in two packs"


def test_an_adapter_that_came_back_counts_once(own_catalog: Catalog) -> None:
    workshop = Workshop(own_catalog)
    workshop.build([placed(1)])
    workshop.build([placed(number) for number in range(1, 7)])
    rows = {(row["part"], row["name"]): row for row in run(own_catalog, "storage")}
    assert rows["corpus", "handbook"]["adapters"] == 8


def test_storage_counts_an_adapter_once_that_lies_in_two_packs(own_catalog: Catalog) -> None:
    before = {(row["part"], row["name"]): row for row in run(own_catalog, "storage")}
    with own_catalog.write() as session:
        session.execute(
            text(
                'INSERT INTO adapter_locations (adapter_id, pack_id, "offset", size_bytes)'
                " SELECT min(adapter_id), max(pack_id), 900000, 1000 FROM adapter_locations"
            )
        )
    after = {(row["part"], row["name"]): row for row in run(own_catalog, "storage")}
    del before["packs", "all packs"], after["packs", "all packs"]
    assert after == before


def test_training_cost_is_by_build(filled_catalog: Catalog) -> None:
    found = run(filled_catalog, "training-cost")
    assert [row["corpus"] for row in found] == ["press", "handbook", "handbook"]
    assert [row["adapters"] for row in found] == [0, 0, 11]
    assert found[2]["tokens"] == 11 * 2_310
    assert found[2]["adapter_seconds"] == pytest.approx(found[2]["training_seconds"] / 11)
    assert found[0]["adapter_seconds"] is None
    assert len(run(filled_catalog, "training-cost", corpus="press")) == 1


@pytest.mark.parametrize(("name", "edge"), [("loss", "loss"), ("time", "seconds")])
def test_distributions_hold_every_adapter_in_its_part(filled_catalog: Catalog, name: str, edge: str) -> None:
    found = run(filled_catalog, name, parts=4)
    assert sum(row["adapters"] for row in found) == 11
    column = "last_loss" if name == "loss" else "elapsed_seconds"
    with filled_catalog.read() as session:
        values = [row[0] for row in session.execute(text(f"SELECT {column} FROM adapters"))]
    slack = 1e-9
    for row in found:
        low, high = row[f"from_{edge}"], row[f"to_{edge}"]
        own = [r["adapters"] for r in found if r[f"from_{edge}"] == pytest.approx(low)]
        assert sum(low - slack <= value <= high + slack for value in values) >= sum(own)
    assert min(row[f"from_{edge}"] for row in found) == pytest.approx(min(values))
    assert max(row[f"to_{edge}"] for row in found) == pytest.approx(max(values))
    for digest in {row["recipe_digest"] for row in found}:
        assert sum(row["share"] for row in found if row["recipe_digest"] == digest) == pytest.approx(1)
    assert sum(row["adapters"] for row in run(filled_catalog, name, parts=0)) == 11
    only = run(filled_catalog, name, recipe=NEWER.digest[:8])
    assert [row["adapters"] for row in only] == [3], "all of them are equal: one part"


def test_documents_under_an_older_recipe_are_stale(filled_catalog: Catalog) -> None:
    found = run(filled_catalog, "stale")
    assert {row["corpus"] for row in found} == {"handbook"}
    assert len(found) == 8
    assert {row["newest_recipe_digest"] for row in found} == {NEWER.digest}
    assert {row["newest_reference"] for row in found} == {"press@v1"}
    assert run(filled_catalog, "stale", within="corpus") == []
    assert run(filled_catalog, "stale", corpus="press") == []


def test_an_adapter_that_the_newest_recipe_gives_too_is_not_stale(own_catalog: Catalog) -> None:
    with own_catalog.write() as session:
        session.execute(
            text(
                "INSERT INTO adapter_inputs (augmentation_id, recipe_id, adapter_id) SELECT augmentation_id,"
                " (SELECT max(id) FROM recipes), adapter_id FROM adapter_inputs WHERE adapter_id = 1"
                " OR adapter_id = (SELECT min(adapter_id) FROM memberships WHERE to_version IS NULL)"
            )
        )
    assert len(run(own_catalog, "stale")) == 7


def test_duplicates_are_of_two_kinds(filled_catalog: Catalog) -> None:
    found = run(filled_catalog, "duplicates")
    places = [row for row in found if row["kind"] == "places"]
    assert {row["document_digest"] for row in places} == {document(1).digest}
    assert {(row["source_uri"], row["ordinal"]) for row in places} == {("coast.jsonl", 1), ("copy.jsonl", 7)}
    titles = [row for row in found if row["kind"] == "titles"]
    assert {row["title"] for row in titles} == {"Beacon 0", TWIN.document.title}
    assert {row["copies"] for row in found} == {2}
    assert run(filled_catalog, "duplicates", corpus="press") == []
    assert len(run(filled_catalog, "duplicates", corpus="handbook")) == 4


def test_equal_keys_of_other_texts_are_no_duplicates(own_catalog: Catalog) -> None:
    with own_catalog.write() as session:
        session.execute(text("UPDATE documents SET text_key = 7 WHERE title IN ('Beacon 2', 'Beacon 3')"))
    assert len([row for row in run(own_catalog, "duplicates") if row["kind"] == "titles"]) == 2


def test_augmentation_counts_what_was_dropped(filled_catalog: Catalog) -> None:
    (row,) = run(filled_catalog, "augmentation")
    assert (row["generator"], row["requests"], row["pairs"], row["dropped_pairs"]) == ("import", 11, 11, 22)
    assert row["pairs_kept"] == pytest.approx(1 / 3)
    assert row["tokens"] == 11 * 40


def test_the_slowest_question_comes_first(filled_catalog: Catalog) -> None:
    found = run(filled_catalog, "slowest")
    assert [row["reference"] for row in found] == ["press@v1", "handbook@v2"]
    assert [row["total_ms"] for row in found] == [326.0, 33.0]
    assert found[1]["merge_ms"] is None
    assert [row["reference"] for row in run(filled_catalog, "slowest", corpus="handbook")] == ["handbook@v2"]
    assert run(filled_catalog, "slowest", mode="rag") == []


def test_documents_that_no_question_retrieved(filled_catalog: Catalog) -> None:
    found = {row["title"] for row in run(filled_catalog, "never-retrieved", corpus="handbook")}
    assert found == {"Beacon 0", "Beacon 3", "Beacon 4", "Beacon 5", "Beacon 6", TWIN.document.title}
    assert {row["title"] for row in run(filled_catalog, "never-retrieved", corpus="press")} == {
        "Beacon 20",
        "Beacon 22",
    }


def test_quality_is_over_versions(filled_catalog: Catalog) -> None:
    found = [row for row in run(filled_catalog, "quality") if row["mode"] == "prag"]
    assert [(row["version"], row["mean"]) for row in found] == [(1, 0.5), (2, 0.75)]
    assert run(filled_catalog, "quality", measure="recall") == []


def test_lineage_goes_down_to_digests(filled_catalog: Catalog) -> None:
    found = run(filled_catalog, "lineage", query=last_query(filled_catalog))
    by_part = {row["part"]: row for row in found}
    assert by_part["question"]["name"] == "Who lit beacon 21?"
    assert by_part["version"]["name"] == "press@v1"
    assert by_part["recipe"]["digest"] == NEWER.digest
    assert by_part["document"]["digest"] == document(21).digest
    assert by_part["document"]["score"] == 3.0
    assert by_part["adapter"]["weight"] == 1.0
    assert len(by_part["augmentation"]["digest"]) == len(by_part["pack"]["digest"]) == 64
    first = run(filled_catalog, "lineage", query=last_query(filled_catalog) - 1)
    assert [row["rank"] for row in first if row["part"] == "document"] == [1, 2]


def test_a_limit_says_that_there_is_more(filled_catalog: Catalog) -> None:
    report = read_report("stale")
    for limit, more in ((3, True), (8, False), (0, False)):
        with run_report(filled_catalog.url, report, {"limit": limit}) as rows:
            assert len(list(rows)) == (limit or 8)
            assert rows.more is more


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("stale", {"nope": 1}, "has no parameter 'nope'; it takes corpus, within, limit"),
        ("stale", {"within": "world"}, "--within is none of base-model, corpus"),
        ("stale", {"limit": "many"}, "--limit is no whole number"),
        ("lineage", {}, "needs --query"),
    ],
)
def test_wrong_parameters_are_refused(filled_catalog: Catalog, name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(filled_catalog, name, **given)


def test_what_is_not_there_is_said(filled_catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="no corpus 'atlas'"):
        run(filled_catalog, "loss", corpus="atlas")
    with pytest.raises(NotFoundError, match="no query 999999 in the log"):
        run(filled_catalog, "lineage", query=999_999)
