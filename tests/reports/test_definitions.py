"""The heads of report files: what is read from them, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import NotFoundError
from registry.reports.definitions import Chart, Parameter, ReportError, parse_report, read_report, report_names
from registry.reports.page import section

ROOT = Path(__file__).parents[2]

GOOD = """\
-- title: Things
-- about: First,
--   and more.
-- param: corpus text; only this corpus
-- param: way up|down = up; where to
-- param: limit integer = 5; the most rows
-- column: name text; its name
-- column: size_bytes integer; bytes of it
-- chart: bar x=name y=size_bytes series=name log
SELECT 'a' AS name, 1 AS size_bytes WHERE :corpus IS NULL AND :way = 'up' -- CAST(x::text)
LIMIT :limit
"""


def test_a_head_is_read() -> None:
    report = parse_report("things", GOOD)
    assert (report.title, report.about) == ("Things", "First, and more.")
    assert report.parameters[1] == Parameter("way", "text", ("up", "down"), "up", False, "where to")
    assert report.parameters[2].default == 5
    assert [(column.name, column.kind) for column in report.columns] == [("name", "text"), ("size_bytes", "integer")]
    assert report.chart == Chart("bar", ("name",), ("size_bytes",), ("name",), True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-- title: Things\n", "", "has no title"),
        ("-- title: Things\n", "-- title: A\n-- title: B\n", "line 2: a second title"),
        ("-- about:", "-- abuot:", "line 2: not a line of a head"),
        ("--   and more", "-- and more", "line 3: not a line of a head"),
        ("corpus text;", "corpus words;", "line 4: the kind is none of text, integer"),
        ("corpus text; only this corpus", "corpus text", "line 4: not NAME KIND"),
        ("= up;", "= left;", "the default is none of the values"),
        ("= 5;", "= five;", "the default is no number"),
        ("name text; its", "name word; its", "the kind is none of text, integer, number"),
        ("size_bytes integer; bytes of it", "name integer; bytes", "has a column twice"),
        ("-- param: corpus text; only this corpus\n", "", "but its head says"),
        ("LIMIT :limit", "LIMIT :most", "but its head says"),
        ("y=size_bytes", "y=weight", "there is no column weight"),
        ("-- chart: bar", "-- chart: pie", "the kind is none of bar, line, histogram"),
        ("-- chart: bar", "-- chart: histogram", "a histogram has two columns on x"),
    ],
)
def test_a_wrong_head_is_refused(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ReportError, match=message):
        parse_report("things", GOOD.replace(old, new, 1))


def test_a_report_without_sql_is_refused() -> None:
    with pytest.raises(ReportError, match="has no SQL"):
        parse_report("things", "-- title: Things\n")


def test_a_report_that_is_not_there() -> None:
    with pytest.raises(NotFoundError, match="no report 'storag'; did you mean storage"):
        read_report("storag")
    with pytest.raises(NotFoundError, match="no report"):
        read_report("../catalog/schema")


@pytest.mark.parametrize("name", report_names())
def test_the_page_has_every_report(name: str) -> None:
    page = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    assert section(read_report(name)) in page, "write its part anew: python -m registry.reports.page"
