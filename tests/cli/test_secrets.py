"""Passwords are in no message, no traceback and no row, whatever goes wrong."""

from __future__ import annotations

import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import tomli_w
from sqlalchemy import make_url

from registry import masking
from registry.catalog.engine import open_catalog
from registry.catalog.listing import list_builds
from registry.masking import keep_secret, masked, masked_urls
from registry.settings import Home, create_home, open_home
from tests.cli.conftest import Run

SECRET = "Sesam7-oeffne"
ODD_SECRET = "S@sam/7:o#ff%ne &?"

URLS = {
    "wrong password": "postgresql://ada:{secret}@127.0.0.1:{echo}/mill",
    "wrong password, in the options": "postgresql+psycopg://ada@127.0.0.1:{echo}/mill?password={secret}",
    "wrong password, given twice": "postgresql://ada@127.0.0.1:{echo}/mill?password=x&password={secret}",
    "no server": "postgresql://ada:{secret}@127.0.0.1:1/mill",
    "no host": "postgresql://ada:{secret}@mill.invalid/mill",
    "a server that dies": "postgresql://ada:{secret}@127.0.0.1:{dead}/mill",
    "unknown option": "postgresql://ada@127.0.0.1:1/mill?pasword={secret}",
    "option with a wrong value": "postgresql://ada:{secret}@127.0.0.1:1/mill?connect_timeout=soon",
    "no certificate": "postgresql://ada@127.0.0.1:{echo}/mill?sslmode=verify-full&sslpassword={secret}",
    "another database": "mysql://ada:{secret}@127.0.0.1/mill",
    "a driver that is not there": "postgresql+asyncpg://ada:{secret}@127.0.0.1:1/mill",
    "no port": "postgresql://ada:{secret}@127.0.0.1:port/mill",
    "in place of the port": "postgresql://127.0.0.1:{secret}/mill",
    "an @ that is not escaped": "postgresql://ada:x@{secret}@127.0.0.1:1/mill",
    "no URL": "postgresql:/ada:{secret}@127.0.0.1",
}

COMMANDS = (
    ("info",),
    ("corpora", "list"),
    ("search", "Who?"),
    ("db", "current"),
    ("db", "upgrade"),
    ("backup", "saved"),
    ("catalog", "copy", "home", "copy.sqlite"),
    ("catalog", "copy", "{folder}/full.sqlite", "{url}"),
    ("restore", "{folder}/saved-before", "--home", "new", "--catalog", "{url}"),
    ("init", "--home", "new", "--catalog", "{url}"),
)


THOROUGH = {"wrong password", "no URL"}


class Server:
    """Speaks PostgreSQL until somebody logs in: then it tells the password to everyone, or dies."""

    def __init__(self, *, dies: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._dies = dies
        self.port = self._listener.getsockname()[1]
        self.heard: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        while True:
            head = connection.recv(8)
            if len(head) < 8:
                return
            size, code = struct.unpack("!ii", head)
            if code not in (80877103, 80877104):  # asks for encryption
                break
            connection.sendall(b"N")
        connection.recv(size - 8)
        connection.sendall(struct.pack("!cii", b"R", 8, 3))
        answer = connection.recv(1024)
        if self._dies or not answer:
            return
        password = answer[5:-1].decode()
        self.heard.append(password)
        fields = f"SFATAL\0C28P01\0Mpassword {password!r} or {password} is wrong\nand {password}\0\0".encode()
        connection.sendall(b"E" + struct.pack("!i", 4 + len(fields)) + fields)


@pytest.fixture(autouse=True)
def no_secrets_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_secrets", set())


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    echo, dead = Server(dies=False), Server(dies=True)
    yield echo, dead
    echo.close()
    dead.close()


def spellings(secret: str) -> set[str]:
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Path:
    """A folder with an empty catalog, and a backup of one."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "saved-before").mkdir()
    (folder / "saved-before" / "backup.json").write_text('{"format": 1}')
    for name in ("full.sqlite", "saved-before/catalog.sqlite"):
        shutil.copyfile(sqlite_template, folder / name)
    return folder


@pytest.mark.parametrize(
    ("case", "secret"), [*((case, ODD_SECRET) for case in URLS), ("wrong password", SECRET), ("no server", SECRET)]
)
def test_no_command_shows_a_password(
    run: Run, prepared: Path, servers: tuple[Server, Server], case: str, secret: str
) -> None:
    echo, dead = servers
    url = URLS[case].format(secret=quote(secret, safe=""), echo=echo.port, dead=dead.port)
    home = create_home(Path("broken"))
    lines = home.settings_path.read_text().splitlines()
    lines[lines.index('url = "sqlite:///catalog.sqlite"')] = tomli_w.dumps({"url": url})
    home.settings_path.write_text("\n".join(lines))
    for command in COMMANDS if case in THOROUGH else COMMANDS[-4:]:
        arguments = [part.format(url=url, folder=prepared) for part in command]
        if "--home" not in arguments:
            arguments += ["--home", str(home.path)]
        found = run("--traceback", *arguments)
        assert found.status in (2, 3, 11), (command, found)
        assert "Traceback" in found.err
        for shown in spellings(secret):
            assert shown not in found.out + found.err, command
        assert not Path("new/pragreg.toml").exists(), command
    if "wrong password" in case:
        assert any(secret in password for password in echo.heard), "it did get to the server"


def test_a_password_in_the_url_of_packs(run: Run) -> None:
    for url in (f"ftp://ada:{SECRET}@127.0.0.1:1/packs", f"nothing://ada:{SECRET}@127.0.0.1/packs"):
        found = run("--traceback", "init", "--home", "new", "--packs", url)
        assert found.status != 0
        assert SECRET not in found.out + found.err


def test_a_build_that_fails_keeps_no_password(
    run: Run, home: Home, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError(f"cannot read http://ada:{SECRET}@mill.invalid/x or {ODD_SECRET}")

    keep_secret(ODD_SECRET)
    monkeypatch.setattr("registry.pipeline.build.read_documents", fail)
    found = run("--traceback", "build", "texts", "--base-model", tiny_model_path, "--home", home.path)
    assert found.status == 1
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        (build,) = list_builds(session)
    assert build.error == "RuntimeError: cannot read http://ada:***@mill.invalid/x or ***"
    shown = found.out + found.err + run("builds", "show", build.build_id, "--home", home.path).out
    for secret in (SECRET, ODD_SECRET):
        assert secret not in shown


@pytest.mark.postgres
def test_commands_that_go_well_show_no_password(run: Run, postgres_url: str) -> None:
    """The server of these tests takes any password."""
    url = make_url(postgres_url).set(password=ODD_SECRET).render_as_string(hide_password=False)
    assert run("init", "--home", "shared", "--catalog", url).status == 0
    home = open_home(Path("shared").absolute())
    assert home.settings_path.stat().st_mode & 0o777 == 0o600
    seen = repr(home)
    for command in (
        ("info",),
        ("info", "--json"),
        ("db", "current"),
        ("backup", "saved"),
        ("backup", "saved", "--json"),
        ("catalog", "copy", "home", "copy.sqlite", "--switch"),
    ):
        found = run(*command, "--home", "shared")
        assert found.status == 0, found.err
        seen += found.out + found.err
    assert "postgresql://pragreg:***@127.0.0.1" in seen
    seen += "".join(path.read_text() for path in Path("saved").glob("*.json"))
    for shown in spellings(ODD_SECRET):
        assert shown not in seen


def test_masking() -> None:
    keep_secret("open", "x", "", None, "a b&c")
    assert masked("xerxes said x, (x) and opensesame") == "xerxes said ***, (***) and ***sesame"
    assert masked("a b&c a+b%26c a%20b%26c") == "*** *** ***"
    assert masked_urls("s3://key:secret@host/x and http://host:80/y@z") == "s3://key:***@host/x and http://host:80/y@z"
    assert masked_urls("postgresql://ada@mill/x") == "postgresql://ada@mill/x"
