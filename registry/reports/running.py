"""Running a report: its parameters checked, its rows with the kinds that its head promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from registry.catalog.read_only.connection import ReadOnly, Row, open_read_only
from registry.errors import NotFoundError, UsageError
from registry.reports.definitions import Parameter, Report

TIMEOUT_SECONDS = 600.0
"""What a report may take; those of the program take about a second for a million documents."""

_ALL = 2**31 - 2
"""A limit beyond every result."""


class Rows:
    """The rows of a report, once; ``more`` tells afterwards whether the limit left rows out."""

    def __init__(self, report: Report, rows: Iterator[Row], limit: int | None) -> None:
        """Take the rows of one more than ``limit``."""
        self.columns = report.columns
        self.more = False
        self._rows = rows
        self._limit = limit

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows, each value of the kind of its column."""
        kinds = [column.kind for column in self.columns]
        for number, row in enumerate(self._rows):
            if self._limit is not None and number == self._limit:
                self.more = True
                return
            yield tuple(of_kind(value, kind) for value, kind in zip(row, kinds, strict=True))


@contextmanager
def run_report(url: str, report: Report, given: Mapping[str, str | int | None]) -> Iterator[Rows]:
    """Run a report on the catalog at ``url`` with the parameters ``given``; the others have their defaults.

    Raises:
        UsageError: a parameter is unknown, lacks its value, or has one that it may not have.
        NotFoundError: there is no such corpus, or nothing of what was asked for.
        HomeError: there is no catalog of this program's schema.
        StorageError: the catalog cannot be read.
    """
    values = parameter_values(report, given)
    limit = values.get("limit")
    with open_read_only(url) as catalog:
        _check_corpus(catalog, values.get("corpus"))
        # One row more shows whether there are more.
        bound = values if limit is None else {**values, "limit": int(limit) + 1 if limit else _ALL}
        result = catalog.query(report.sql, bound, timeout_seconds=TIMEOUT_SECONDS)
        names = tuple(column.name for column in report.columns)
        assert result.columns == names, f"{report.name}.sql gives {result.columns}, not {names}"
        rows = _not_empty(result.rows, report, values) if report.empty else result.rows
        yield Rows(report, rows, int(limit) if limit else None)


def parameter_values(report: Report, given: Mapping[str, str | int | None]) -> dict[str, Any]:
    """Return the value of every parameter of a report.

    Raises:
        UsageError: a parameter is unknown, lacks its value, or has one that it may not have.
    """
    known = {parameter.name: parameter for parameter in report.parameters}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        takes = ", ".join(known) or "none"
        raise UsageError(
            f"the report {report.name} has no parameter {unknown[0]!r}; it takes {takes}",
            hint=f"pragreg report {report.name} --help",
        )
    values = {name: given.get(name) for name in known}
    return {name: _value(report, known[name], value) for name, value in values.items()}


def of_kind(value: Any, kind: str) -> Any:
    """Return what a database gave as a value of the ``kind`` of its column."""
    if value is None:
        return None
    if kind == "moment":
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if kind == "number":
        return float(value)
    if kind == "integer":
        return int(value)
    return bool(value) if kind == "boolean" else str(value)


def _value(report: Report, parameter: Parameter, value: str | int | None) -> str | int | None:
    name = parameter.name
    if value is None:
        if parameter.required:
            raise UsageError(
                f"the report {report.name} needs --{name}", hint=f"pragreg report {report.name} --{name} VALUE"
            )
        return parameter.default
    if parameter.choices and value not in parameter.choices:
        raise UsageError(f"--{name} is none of {', '.join(parameter.choices)}: {value}", hint=None)
    if parameter.kind == "integer":
        if not str(value).isdecimal() or int(value) > _ALL - 1:
            raise UsageError(f"--{name} is no whole number from 0 to {_ALL - 1}: {value}")
        return int(value)
    return str(value)


def _check_corpus(catalog: ReadOnly, corpus: str | None) -> None:
    if corpus is None:
        return
    found = catalog.query(
        "SELECT 1 FROM v_corpora WHERE corpus = :corpus", {"corpus": corpus}, timeout_seconds=TIMEOUT_SECONDS
    )
    if next(found.rows, None) is None:
        raise NotFoundError(f"there is no corpus {corpus!r}", hint="pragreg corpora list")


def _not_empty(rows: Iterator[Row], report: Report, values: Mapping[str, Any]) -> Iterator[Row]:
    first = next(rows, None)
    if first is not None:
        return chain([first], rows)
    message = report.empty or ""
    for name, value in values.items():
        message = message.replace(f":{name}", str(value))
    raise NotFoundError(message, hint=f"pragreg report {report.name} --help")
