from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from registry.catalog import schema
from registry.catalog.engine import Catalog, open_catalog
from tests.reports.invented import fill


@pytest.fixture(scope="session")
def filled_sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The invented registry on SQLite, which tests share and leave as it is."""
    url = f"sqlite:///{tmp_path_factory.mktemp('reports') / 'catalog.sqlite'}"
    schema.upgrade(url)
    with open_catalog(url) as catalog:
        fill(catalog)
    return url


@pytest.fixture(scope="session")
def filled_postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The invented registry on PostgreSQL, which tests share and leave as it is."""
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_template")
    name = f"pragreg_reports_{uuid.uuid4().hex[:8]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = server.set(database=name).render_as_string(hide_password=False)
        with open_catalog(url) as catalog:
            fill(catalog)
        yield url
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def filled_url(request: pytest.FixtureRequest) -> str:
    """The URL of the invented registry, which tests leave as it is, on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue(f"filled_{request.param}_url")
    return url


@pytest.fixture
def filled_catalog(filled_url: str) -> Iterator[Catalog]:
    """The invented registry, which tests leave as it is, on SQLite and on PostgreSQL."""
    with open_catalog(filled_url) as catalog:
        yield catalog


@pytest.fixture
def own_catalog(any_catalog: Catalog) -> Catalog:
    """The invented registry, to be changed, on SQLite and on PostgreSQL."""
    fill(any_catalog)
    return any_catalog
