"""API keys: who needs one, what it is good for, and at which addresses the server listens without."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from cli.main import run
from registry.catalog.api_keys import create_key, list_keys, revoke_key
from registry.catalog.engine import open_catalog
from registry.errors import StorageError, UsageError
from registry.progress import Silent
from registry.serving.run import ready
from registry.serving.settings import ServeSettings
from registry.settings import Home
from tests.serving.conftest import ask, client_of, copied, inside

QUESTION = "Who grinds blue barley?"


@pytest.fixture(scope="module")
def locked_home(served_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copied(served_home, tmp_path_factory.mktemp("locked") / "home")


@pytest.fixture(scope="module")
def address(locked_home: Home) -> Iterator[str]:
    """A server that was started without keys."""
    with inside(locked_home) as url:
        yield url


def new_key(home: Home, name: str, *scopes: str) -> str:
    with open_catalog(home.catalog_url) as catalog, catalog.write() as session:
        return create_key(session, name, scopes)[1]


def statuses(client: httpx2.Client) -> dict[str, int]:
    digest = "f" * 64
    return {
        "ask": ask(client, QUESTION, max_tokens=2).status_code,
        "search": client.post("/search", json={"model": "default", "question": QUESTION}).status_code,
        "documents": client.get(f"/documents/{digest}").status_code,
        "metrics": client.get("/metrics").status_code,
        "models": client.get("/v1/models").status_code,
        "description": client.get("/openapi.json").status_code,
        "nothing": client.get("/nothing").status_code,
        "health": client.get("/health").status_code,
    }


def test_the_first_key_locks_the_server(locked_home: Home, address: str) -> None:
    with client_of(address) as anybody:
        assert statuses(anybody) == {
            **dict.fromkeys(("ask", "search", "metrics", "models", "description", "health"), 200),
            **dict.fromkeys(("documents", "nothing"), 404),
        }
        assert "security" not in anybody.get("/openapi.json").text
    secret = new_key(locked_home, "first", "ask", "search", "documents", "metrics")
    with client_of(address) as anybody, client_of(address, secret) as first:
        assert statuses(anybody) == {**dict.fromkeys(statuses(first), 401), "health": 200}
        assert statuses(first)["ask"] == 200
        response = anybody.get("/v1/models")
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["type"] == "authentication_error"
        described = first.get("/openapi.json").json()
        assert described["paths"]["/search"]["post"]["security"]
        assert "security" not in described["paths"]["/health"]["get"]
    for wrong in ("pragreg-" + "A" * 43, secret[:-1], secret + "x", "x", "\xe9"):
        with client_of(address) as client:
            header = {"Authorization": f"Bearer {wrong}".encode("latin-1")}
            response = client.get("/v1/models", headers=header)
            assert response.status_code == 401
            assert secret not in response.text
    with open_catalog(locked_home.catalog_url) as catalog, catalog.read() as session:
        assert next(key for key in list_keys(session) if key.name == "first").last_used_at is not None


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (("ask",), {"ask"}),
        (("search", "metrics"), {"search", "metrics"}),
        (("ask:default", "documents"), {"ask", "documents"}),
        (("ask:other", "search:other", "documents:other"), set()),
    ],
)
def test_a_key_is_good_for_its_scopes(
    locked_home: Home, address: str, scopes: tuple[str, ...], allowed: set[str]
) -> None:
    with client_of(address, new_key(locked_home, "-".join(scopes).replace(":", "."), *scopes)) as client:
        found = statuses(client)
        good = {name for name in ("ask", "search", "metrics") if found[name] == 200}
        assert good | ({"documents"} & allowed if found["documents"] == 404 else set()) == allowed
        assert all(found[name] in (200, 403, 404) for name in found)
        listed = client.get("/v1/models").json()["data"]
        assert bool(listed) == bool({"ask", "search"} & allowed)
        if "ask" not in allowed:
            assert ask(client, QUESTION).json()["error"]["code"] == "insufficient_scope"
            # Whether there is such a version is not told.
            assert ask(client, QUESTION, "default@v99").status_code == 403


def test_a_document_is_shown_to_those_who_may_see_its_corpus(locked_home: Home, address: str) -> None:
    everything = new_key(locked_home, "everything", "search", "documents")
    with client_of(address, everything) as client:
        hits = client.post("/search", json={"model": "default", "question": QUESTION}).json()["hits"]
        path = f"/documents/{hits[0]['digest']}"
        assert client.get(path).status_code == 200
    with client_of(address, new_key(locked_home, "own", "documents:default")) as client:
        assert client.get(path).json()["places"]
    with client_of(address, new_key(locked_home, "others", "documents:other")) as client:
        assert client.get(path).status_code == 404


def test_a_revoked_key_is_good_for_nothing_at_once(locked_home: Home, address: str) -> None:
    with client_of(address, new_key(locked_home, "passing", "ask")) as client:
        assert client.get("/v1/models").status_code == 200
        with open_catalog(locked_home.catalog_url) as catalog, catalog.write() as session:
            revoke_key(session, "passing")
        assert client.get("/v1/models").status_code == 401


def test_other_machines_are_served_with_a_key_or_insecurely_only(
    own_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--home", str(own_home.path), "--host", "0.0.0.0"]) == UsageError.exit_code
    told = capsys.readouterr()
    assert "can be reached from other machines" in told.err
    assert "try: pragreg keys create" in told.err
    assert told.out == ""
    with inside(own_home, host="0.0.0.0", insecure=True) as url, client_of(url) as client:
        assert client.get("/v1/models").status_code == 200
    secret = new_key(own_home, "first", "ask")
    with inside(own_home, host="0.0.0.0") as url, client_of(url) as anybody, client_of(url, secret) as client:
        assert anybody.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"Host": "models.example"}).status_code == 200


def test_an_address_must_be_this_machines_and_free(own_home: Home, address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    for settings, error in (
        (ServeSettings(port=port), StorageError),
        (ServeSettings(host="192.0.2.1", insecure=True), StorageError),
        (ServeSettings(host="no such host"), UsageError),
    ):
        with pytest.raises(error) as refused, ready(own_home, settings, Silent()):
            pass
        assert refused.value.hint is not None
