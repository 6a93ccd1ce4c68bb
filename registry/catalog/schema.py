"""The schema, changed by alembic alone; the configuration is built here, so an installed wheel needs no alembic.ini."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import CheckConstraint, Connection, inspect

from registry.catalog import dialect
from registry.catalog.engine import read_revision
from registry.catalog.failures import translated
from registry.catalog.models import Base
from registry.catalog.revisions import known_revisions, migrations_path, refuse_other_schema
from registry.catalog.views import VIEWS
from registry.errors import HomeError, IntegrityError, UsageError


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema's history."""

    revision: str
    parent: str | None
    message: str


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` to ``revision``; an SQLite file is created if it is not there.

    Raises:
        HomeError: its schema is newer than this program, or it cannot hold a catalog.
        UsageError: there is no such revision.
        StorageError: the database cannot be reached or written.
    """
    with _connected(url) as connection:
        _run(connection, command.upgrade, revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database at ``url`` back to ``revision`` (``base``: without any table). Loses what is dropped.

    Raises:
        HomeError: there is no catalog, or its schema is newer than this program.
        UsageError: there is no such revision.
        StorageError: the database cannot be reached or written.
    """
    _require_file(url)
    with _connected(url) as connection:
        _run(connection, command.downgrade, revision)


def current(url: str) -> str | None:
    """Return the revision of the database at ``url``, None if it has no catalog.

    Raises:
        StorageError: the database cannot be reached or read.
    """
    file = dialect.sqlite_file(dialect.parse_url(url))
    if file is not None and not file.exists():
        return None
    with _connected(url, writes=False) as connection:
        return read_revision(connection)


def head() -> str:
    """Return the revision that this program needs."""
    return known_revisions()[-1]


def history() -> list[Migration]:
    """Return all migrations, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return [
        Migration(script.revision, str(script.down_revision) if script.down_revision else None, script.doc)
        for script in reversed(list(scripts.walk_revisions()))
    ]


def check(url: str) -> list[str]:
    """Return what differs between the models and the database at ``url``, one line each; empty if they agree.

    Raises:
        HomeError: there is no catalog, or one of another schema.
        StorageError: the database cannot be reached or read.
    """
    _require_file(url)
    with _connected(url, writes=False) as connection:
        found = read_revision(connection)
        refuse_other_schema(found, dialect.safe_url(connection.engine.url))
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [_describe(step) for step in compare_metadata(context, Base.metadata)]
        return [*differences, *_check_constraints(connection), *_views(connection)]


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _connected(url: str, *, writes: bool = True) -> Iterator[Connection]:
    parsed = dialect.parse_url(url)
    engine = dialect.make_engine(parsed, for_migration=writes)
    try:
        with (
            translated(dialect.safe_url(parsed)),
            (dialect.writer(engine) if writes else engine).begin() as connection,
        ):
            yield connection
    finally:
        engine.dispose()


def _run(connection: Connection, step: Any, revision: str) -> None:
    name = dialect.safe_url(connection.engine.url)
    dialect.lock_schema(connection)
    found = read_revision(connection)
    if found is None:
        _require_room(connection, name)
    elif found not in known_revisions():
        refuse_other_schema(found, name)
    if not revision:
        raise UsageError("the revision is empty", hint="pragreg db history")
    try:
        step(_config(connection), revision)
    except CommandError as error:
        raise UsageError(f"the schema cannot go to {revision!r}: {error}", hint="pragreg db history") from error
    dangling = dialect.dangling_rows(connection)
    if dangling:
        raise IntegrityError(f"the migration of {name} would leave dangling rows in: {', '.join(dangling)}")


def _require_room(connection: Connection, name: str) -> None:
    """Check that a database without a catalog can take one."""
    strangers = sorted(set(inspect(connection).get_table_names()) & Base.metadata.tables.keys())
    if strangers:
        raise HomeError(
            f"{name} has no catalog, but tables called as those of one: {', '.join(strangers[:3])}",
            hint="give the catalog a database of its own, in pragreg.toml, [catalog] url",
        )
    encoding = dialect.encoding(connection)
    if encoding != "UTF8":
        raise HomeError(
            f"{name} keeps text as {encoding}, which lacks most characters",
            hint="make a database with: createdb --encoding=UTF8 --template=template0 NAME",
        )


def _require_file(url: str) -> None:
    parsed = dialect.parse_url(url)
    file = dialect.sqlite_file(parsed)
    if file is not None and not file.exists():
        raise HomeError(f"there is no catalog at {dialect.safe_url(parsed)}", hint="pragreg db upgrade")


def _describe(step: Any) -> str:
    """Put one of alembic's differences, a tuple or a list of tuples, into words."""
    if isinstance(step, list):
        return "; ".join(_describe(part) for part in step)
    kind, *details = step
    named = [str(getattr(detail, "name", None) or detail) for detail in details if detail is not None and detail != {}]
    return f"{str(kind).replace('_', ' ')}: {', '.join(named)}"


def _views(connection: Connection) -> list[str]:
    """Compare the names of views and of their columns, which alembic leaves out."""
    inspector = inspect(connection)
    found = {name: [column["name"] for column in inspector.get_columns(name)] for name in inspector.get_view_names()}
    wanted = {name: [column.name for column in view.columns] for name, view in VIEWS.items()}
    return [
        *(f"add view: {name}" for name in sorted(wanted.keys() - found.keys())),
        *(f"change view: {name}" for name in sorted(wanted.keys() & found.keys()) if wanted[name] != found[name]),
    ]


def _check_constraints(connection: Connection) -> list[str]:
    """Compare the names of check constraints, which alembic leaves out."""
    differences = []
    inspector = inspect(connection)
    for table in Base.metadata.sorted_tables:
        if not inspector.has_table(table.name):
            continue
        wanted = {str(item.name) for item in table.constraints if isinstance(item, CheckConstraint)}
        found = {str(item["name"]) for item in inspector.get_check_constraints(table.name)}
        differences += [f"add check: {name}" for name in sorted(wanted - found)]
        differences += [f"remove check: {name}" for name in sorted(found - wanted)]
    return differences
