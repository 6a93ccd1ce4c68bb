"""Fixtures for all tests: a registry home, its catalog, and a PostgreSQL server where one is installed.

The schema of every database here comes from the migrations, as a user's does.
"""

from __future__ import annotations

import getpass
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url

from registry.catalog import schema
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.models import Base
from registry.settings import Home, create_home

pytest_plugins = [name for name in ("tests.model_fixtures", "tests.hub.fixtures") if find_spec(name)]

# huggingface_hub reads these once, when the first test imports it. The stand-in for the Hub does not speak Xet.
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_UPDATE_CHECK="1")

POSTGRES_VARIABLE = "PRAGREG_TEST_POSTGRES"
_DEBIAN_PATH = Path("/usr/lib/postgresql")


@contextmanager
def _largest_file(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """As on a full disk: within ``with largest_file(size_bytes)`` no file can grow beyond that.

    Only around the code under test: pytest's own output may be a file, and longer.
    """
    return _largest_file


@pytest.fixture
def home(tmp_path: Path, sqlite_template: Path) -> Home:
    """A registry home with an empty SQLite catalog."""
    home = create_home(tmp_path / "home")
    shutil.copyfile(sqlite_template, home.path / "catalog.sqlite")
    return home


@pytest.fixture
def catalog(home: Home) -> Iterator[Catalog]:
    """The open catalog of ``home``."""
    with open_catalog(home.catalog_url) as catalog:
        yield catalog


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """A PostgreSQL server: ``$PRAGREG_TEST_POSTGRES`` (a role that may create databases), or a private one."""
    given = os.environ.get(POSTGRES_VARIABLE)
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    folder = Path(tempfile.mkdtemp(prefix="pragreg-pg-", dir="/tmp"))  # a socket's path must be short
    try:
        yield from _private_server(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: URL) -> str:
    """The name of a migrated database, to be copied."""
    name = f"pragreg_template_{uuid.uuid4().hex[:8]}"
    _execute(postgres_server, f"CREATE DATABASE {name}")
    schema.upgrade(postgres_server.set(database=name).render_as_string(hide_password=False))
    return name


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: URL) -> Iterator[str]:
    """The URL of the PostgreSQL database that tests share, one after the other."""
    yield from _database(postgres_server, "")


@pytest.fixture
def postgres_url(postgres_server: URL, postgres_template: str) -> Iterator[str]:
    """The URL of a fresh PostgreSQL catalog."""
    yield from _database(postgres_server, f" TEMPLATE {postgres_template}")


@pytest.fixture(scope="module")
def module_postgres_url(postgres_server: URL, postgres_template: str) -> Iterator[str]:
    """The URL of a PostgreSQL catalog that is fresh for a module's tests together."""
    yield from _database(postgres_server, f" TEMPLATE {postgres_template}")


@pytest.fixture
def empty_postgres_url(postgres_server: URL) -> Iterator[str]:
    """The URL of a PostgreSQL database without a catalog."""
    yield from _database(postgres_server, "")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh catalog, on SQLite and on PostgreSQL."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    path = tmp_path / "catalog.sqlite"
    shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without a catalog, on SQLite and on PostgreSQL."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("empty_postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'catalog.sqlite'}"


@pytest.fixture(scope="session")
def shared_catalog() -> Iterator[Callable[[str], Catalog]]:
    """Open catalogs that are kept from test to test, since opening and compiling SQL takes longer than most tests."""
    kept: dict[str, Catalog] = {}

    def open_once(url: str) -> Catalog:
        if url not in kept:
            schema.upgrade(url)
            kept[url] = open_catalog(url)
        return kept[url]

    yield open_once
    for catalog in kept.values():
        catalog.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def any_catalog(
    request: pytest.FixtureRequest,
    shared_catalog: Callable[[str], Catalog],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Catalog]:
    """An open catalog with nothing in it, on SQLite and on PostgreSQL."""
    if request.param == "postgres":
        url = request.getfixturevalue("shared_postgres_url")
    else:
        url = f"sqlite:///{tmp_path_factory.getbasetemp() / 'shared.sqlite'}"
    catalog = shared_catalog(url)
    yield catalog
    with catalog.write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())


def _private_server(folder: Path) -> Iterator[URL]:
    initdb, pg_ctl = _find("initdb"), _find("pg_ctl")
    user = getpass.getuser()
    as_user: Callable[[list[str]], list[str]] = list
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root; its package makes a user for it.
        user, runuser = "postgres", shutil.which("runuser")
        if runuser is None or subprocess.run(["id", user], capture_output=True, check=False).returncode:
            pytest.skip(_reason("this is root, and there is no user postgres to run the server as"))
        as_user = lambda command: [runuser, "-u", user, "--", *command]  # noqa: E731
        shutil.chown(folder, user)
    data, log = str(folder / "data"), str(folder / "log")
    _run(as_user([initdb, "-D", data, "-U", "pragreg", "--auth=trust", "--encoding=UTF8", "--no-sync"]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Without fsync: these databases need not survive a power cut.
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=32MB"
    _run(as_user([pg_ctl, "-D", data, "-l", log, "-o", options, "-w", "start"]))
    try:
        yield URL.create("postgresql+psycopg", username="pragreg", host="127.0.0.1", port=port, database="postgres")
    finally:
        _run(as_user([pg_ctl, "-D", data, "-m", "immediate", "-w", "stop"]))


def _find(program: str) -> str:
    on_path = shutil.which(program)
    installed = sorted(_DEBIAN_PATH.glob(f"*/bin/{program}"))
    if on_path or installed:
        return on_path or str(installed[-1])
    pytest.skip(_reason(f"{program} is neither on the PATH nor in {_DEBIAN_PATH}"))


def _reason(missing: str) -> str:
    return f"NOT TESTED ON POSTGRESQL: {missing} (apt-get install postgresql, or set ${POSTGRES_VARIABLE})"


def _run(command: list[str]) -> None:
    # The server would inherit a pipe and keep it open, so its output goes to a file.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd="/", check=False)
        output.seek(0)
        assert done.returncode == 0, f"{command} failed: {output.read()}"


def _database(server: URL, options: str) -> Iterator[str]:
    name = f"pragreg_{uuid.uuid4().hex[:12]}"
    _execute(server, f"CREATE DATABASE {name}{options}")
    yield server.set(database=name).render_as_string(hide_password=False)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()
