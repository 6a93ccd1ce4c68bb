"""Run migrations: on the connection that the program hands over, or on the url that a developer names.

Developers: ``alembic -x url=sqlite:///catalog.sqlite upgrade head``; with ``--sql`` the statements are printed only.
"""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from registry.catalog import dialect
from registry.catalog.models import Base
from registry.catalog.models.base import UtcDateTime


def _url_argument() -> str:
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not isinstance(url, str):
        raise CommandError("name the database: alembic -x url=sqlite:///PATH ...")
    return url


def _render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    # A migration must go on meaning the same when our own types change.
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        render_as_batch=True,  # altering a table on SQLite means rebuilding it, which alembic calls a batch
        render_item=_render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_migrations() -> None:
    """Migrate offline, on the given connection, or on one of our own."""
    if context.is_offline_mode():
        url = dialect.parse_url(_url_argument())
        context.configure(
            url=url, target_metadata=Base.metadata, literal_binds=True, dialect_opts={"paramstyle": "named"}
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _run(connection)
        return
    engine = dialect.make_engine(dialect.parse_url(_url_argument()), for_migration=True)
    try:
        with dialect.writer(engine).begin() as own:
            dialect.lock_schema(own)
            _run(own)
    finally:
        engine.dispose()


run_migrations()
