"""``pragreg keys``: the secret is alone on standard output, once, and nowhere else."""

from __future__ import annotations

import re

import pytest

from registry.catalog.api_keys import DEFAULT_SCOPES, SCOPES, find_key
from registry.catalog.engine import Catalog
from registry.masking import masked
from registry.settings import Home
from tests.cli.conftest import Run


def test_a_secret_can_be_piped(run: Run, home: Home, catalog: Catalog) -> None:
    made = run("keys", "create", "chat", "--scope", "ask:handbook", "--scope", "metrics", "--home", home.path)
    assert made.status == 0
    assert re.fullmatch(r"pragreg-[A-Za-z0-9_-]{43}\n", made.out)
    secret = made.out.strip()
    assert secret[16:] not in made.err
    assert "ask:handbook, metrics" in made.err
    with catalog.read() as session:
        key = find_key(session, secret)
    assert key is not None
    assert key.name == "chat"
    shown = [run("keys", "list", "--home", home.path, *more) for more in ((), ("--json",))]
    assert all(secret[16:] not in found.out + found.err for found in shown)
    assert shown[0].out.splitlines()[0] == "name\tprefix\tscopes\tcreated\tlast used\trevoked"
    assert shown[0].out.splitlines()[1].startswith(f"chat\t{secret[:16]}\task:handbook, metrics\t")
    (row,) = shown[1].rows
    assert row["scopes"] == ["ask:handbook", "metrics"]
    assert row["revoked_at"] is None


def test_json_has_the_secret_and_what_is_known_of_the_key(run: Run, home: Home) -> None:
    (made,) = run("keys", "create", "chat", "--json", "--home", home.path).rows
    assert made["secret"].startswith(made["prefix"])
    assert made["scopes"] == sorted(DEFAULT_SCOPES)
    (listed,) = run("keys", "list", "--json", "--home", home.path).rows
    assert listed == {name: value for name, value in made.items() if name != "secret"}


@pytest.mark.parametrize("by", ["name", "prefix", "secret"])
def test_revoking(run: Run, home: Home, catalog: Catalog, by: str) -> None:
    (made,) = run("keys", "create", "chat", "--json", "--home", home.path).rows
    revoke = ("keys", "revoke", made[by], "--home", home.path)
    done = run(*revoke)
    assert (done.status, done.out) == (0, "")
    assert f"the key chat ({made['prefix']}...) is revoked" in done.err
    with catalog.read() as session:
        assert find_key(session, made["secret"]) is None
    again = run(*revoke)
    assert again.status == 5
    assert "try: pragreg keys list" in again.err
    assert made["secret"] not in again.err
    (row,) = run("keys", "list", "--json", "--home", home.path).rows
    assert row["revoked_at"] is not None


def test_what_cannot_be(run: Run, home: Home) -> None:
    for arguments in (("a b",), ("chat", "--scope", "everything"), ("chat", "--scope", "")):
        found = run("keys", "create", *arguments, "--home", home.path)
        assert found.status == 2
        assert found.out == ""
        assert "try: " in found.err
    assert run("keys", "list", "--json", "--home", home.path).rows == []


def test_a_secret_in_the_wrong_place_is_not_repeated(run: Run, home: Home) -> None:
    secret = run("keys", "create", "chat", "--home", home.path).out.strip()
    for arguments in (("keys", "create", secret), ("keys", "create", "x", "--scope", secret), ("search", secret, "x")):
        found = run("--traceback", *arguments, "--home", home.path)
        assert found.status != 0
        assert secret not in found.out + found.err, arguments
    assert masked(f"Bearer {secret} failed") == "Bearer pragreg-*** failed"


def test_the_help_names_every_scope(run: Run) -> None:
    shown = run("keys", "create", "--help").out
    assert all(scope in shown for scope in SCOPES)
