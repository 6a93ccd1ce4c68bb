"""The schema as a page of Markdown, written from the models: ``docs/catalog.md``."""

from __future__ import annotations

import inspect

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql

from registry.catalog.models import Base

_HEADER = """# The catalog

Written from the models by `python -m registry.catalog.describe > docs/catalog.md`; a test keeps it so.

The types are PostgreSQL's; SQLite has `INTEGER` for `BIGINT` and text for the rest. Every `digest` is a sha256 in
64 lower-case hexadecimal digits, every moment is in UTC. Rows refer to each other by number; digests are what
crosses the catalog's border.
"""


_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


def schema_markdown() -> str:
    """Return the page: a section for each table with its columns, keys, constraints and indexes."""
    documented = {mapper.class_.__tablename__: inspect.getdoc(mapper.class_) or "" for mapper in Base.registry.mappers}
    tables = sorted(Base.metadata.tables.values(), key=lambda table: table.name)
    contents = ", ".join(f"[{table.name}](#{table.name})" for table in tables)
    sections = [_section(table, documented[table.name]) for table in tables]
    return "\n".join([_HEADER, f"{len(tables)} tables: {contents}.", "", *sections]).rstrip() + "\n"


def _section(table: Table, documented: str) -> str:
    # The first line of the documentation says what the comment says; what follows it explains.
    explained = [line.strip() for line in documented.partition("\n\n")[2].splitlines()]
    lines = [f"## {table.name}", "", table.comment or "", ""]
    if explained:
        lines += [*explained, ""]
    lines += ["| column | type | refers to | meaning |", "|---|---|---|---|"]
    lines += [_column(column) for column in table.columns]
    lines += ["", *_constraints(table), ""]
    return "\n".join(lines)


def _column(column: Column[object]) -> str:
    kind = column.type.compile(dialect=_POSTGRESQL).partition(" COLLATE")[0]
    optional = " or null" if column.nullable else ""
    single = [key.column for key in column.foreign_keys if _is_single(key.constraint)]
    refers = ", ".join(sorted(f"{target.table.name}.{target.name}" for target in single))
    meaning = (column.comment or "").replace("|", "\\|")
    return f"| {column.name} | {kind}{optional} | {refers} | {meaning} |"


def _is_single(constraint: ForeignKeyConstraint | None) -> bool:
    return constraint is not None and len(constraint.elements) == 1


def _constraints(table: Table) -> list[str]:
    lines = [f"- primary key: {_names(table.primary_key.columns)}"]
    for constraint in sorted(table.constraints, key=lambda item: str(item.name)):
        if isinstance(constraint, UniqueConstraint):
            lines.append(f"- unique: {_names(constraint.columns)}")
        elif isinstance(constraint, CheckConstraint):
            lines.append(f"- check: `{constraint.sqltext}`")
        elif isinstance(constraint, ForeignKeyConstraint) and not _is_single(constraint):
            target = constraint.elements[0].column.table.name
            referred = ", ".join(element.column.name for element in constraint.elements)
            lines.append(f"- ({_names(constraint.columns)}) refers to {target} ({referred})")
    for index in sorted(table.indexes, key=lambda item: str(item.name)):
        condition = index.dialect_options["postgresql"]["where"]
        where = "" if condition is None else f" where `{condition}`"
        lines.append(f"- {'unique index' if index.unique else 'index'}: {_names(index.columns)}{where}")
    return lines


def _names(columns: object) -> str:
    return ", ".join(column.name for column in columns)  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(schema_markdown(), end="")
