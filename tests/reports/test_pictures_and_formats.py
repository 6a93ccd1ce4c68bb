"""What rows look like in each format, and the pictures of reports."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyarrow import parquet

from registry.catalog.engine import Catalog
from registry.errors import UsageError
from registry.reports.charts import draw
from registry.reports.definitions import read_report, report_names
from registry.reports.formats import text_lines, unique_names, write_parquet
from registry.reports.running import run_report

MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
NAMES = ("name", "name", "at")
ROWS = [('a "quoted", | one', 1.5, MOMENT), (None, float("nan"), None)]


def test_csv_has_values_as_they_are() -> None:
    assert "".join(text_lines(NAMES, ROWS, "csv")) == (
        'name,name_2,at\n"a ""quoted"", | one",1.5,2026-03-01T12:30:00+00:00\n,nan,\n'
    )


def test_json_is_one_object_a_line() -> None:
    first, second = (json.loads(line) for line in text_lines(NAMES, ROWS, "json"))
    assert first == {"name": 'a "quoted", | one', "name_2": 1.5, "at": "2026-03-01T12:30:00+00:00"}
    assert second == {"name": None, "name_2": None, "at": None}


def test_markdown_escapes_bars() -> None:
    lines = list(text_lines(("a", "b"), [("x|y\nz", True)], "markdown"))
    assert lines == ["| a | b |\n", "| --- | --- |\n", "| x\\|y z | true |\n"]


def test_names_are_told_apart() -> None:
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a_2", "a_3"]


def test_parquet_has_the_kinds_of_a_report(filled_catalog: Catalog, tmp_path: Path) -> None:
    report = read_report("slowest")
    with run_report(filled_catalog.url, report, {}) as rows:
        names = [column.name for column in rows.columns]
        write_parquet(tmp_path / "slow.parquet", names, rows, rows.columns)
    found = parquet.read_table(tmp_path / "slow.parquet")
    assert found.column_names == names
    assert str(found.schema.field("created_at").type) == "timestamp[us, tz=UTC]"
    assert str(found.schema.field("merge_ms").type) == "double"
    assert found["total_ms"].to_pylist() == [326.0, 33.0]


def test_parquet_of_a_query_is_inferred(tmp_path: Path) -> None:
    path = tmp_path / "any.parquet"
    write_parquet(path, ("n", "none", "list"), [(1, None, [1]), (2, None, [2])])
    found = parquet.read_table(path)
    assert [str(field.type) for field in found.schema] == ["int64", "string", "string"]
    with pytest.raises(UsageError, match="column n has values of several kinds"):
        write_parquet(path, ("n",), [(1,), ("one",)])
    write_parquet(path, ("n",), [])
    assert parquet.read_table(path).num_rows == 0


@pytest.mark.parametrize("name", [name for name in report_names() if read_report(name).chart])
def test_every_chart_is_drawn(filled_catalog: Catalog, name: str) -> None:
    report = read_report(name)
    with run_report(filled_catalog.url, report, {}) as rows:
        found = list(rows)
    assert draw(report, found, "png").startswith(b"\x89PNG")
    drawn = draw(report, found, "svg").decode()
    assert report.title in drawn
    assert drawn == draw(report, found, "svg").decode()


def test_a_report_without_a_chart_says_so() -> None:
    with pytest.raises(UsageError, match="lineage has no chart"):
        draw(read_report("lineage"), [("question", None, "?", None, None, None)], "png")
    with pytest.raises(UsageError, match="no rows to draw"):
        draw(read_report("loss"), [], "png")
