"""Names of models: what is listed, and that aliases, builds and collections are seen by the next request."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from cli.main import run
from registry.catalog.aliases import set_alias
from registry.catalog.api_keys import create_key
from registry.catalog.engine import open_catalog
from registry.catalog.references import resolve
from registry.errors import NotFoundError, UsageError
from registry.pipeline.opened import opened
from registry.progress import Silent
from registry.serving import models
from registry.serving.models import Bases
from registry.serving.settings import ServeSettings
from registry.settings import Home, create_home
from registry.upkeep.readers import being_read
from tests.pipeline.conftest import write_sample
from tests.serving.conftest import ask, build_corpus, client_of, copied, inside

QUESTION = "Who grinds blue barley?"


@pytest.fixture
def second_version(two_versions: Home, tmp_path: Path) -> Home:
    """A home with two versions; ``production`` is the first."""
    home = copied(two_versions, tmp_path / "two")
    point(home, "production", 1)
    return home


def point(home: Home, alias: str, number: int) -> None:
    with open_catalog(home.catalog_url) as catalog, catalog.write() as session:
        set_alias(session, resolve(session, f"default@v{number}"), alias)


def version_of(client: httpx2.Client, name: str) -> str:
    response = ask(client, QUESTION, name, max_tokens=2)
    assert response.status_code == 200, response.text
    version: str = response.json()["pragreg"]["version"]
    return version


def test_corpora_aliases_and_versions_are_listed(second_version: Home) -> None:
    with inside(second_version) as url, client_of(url) as client:
        listed = client.get("/v1/models").json()
        assert listed["object"] == "list"
        names = {each["id"]: each["pragreg"]["version"] for each in listed["data"]}
        assert names == {
            "default": "default@v2",
            "default@latest": "default@v2",
            "default@production": "default@v1",
            "default@v2": "default@v2",
            "default@v1": "default@v1",
        }
        for each in listed["data"]:
            assert (each["object"], each["owned_by"], each["pragreg"]["documents"]) == ("model", "pragreg", 7)
            assert client.get(f"/v1/models/{each['id']}").json() == each
        shown = client.get("/v1/models/default@production+combined").json()
        assert shown["id"] == "default@production+combined"
        assert shown["pragreg"]["version"] == "default@v1"
        assert client.get("/v1/models/default@v3").status_code == 404


def test_a_moved_alias_and_a_build_are_seen_by_the_next_request(
    own_home: Home, tmp_path: Path, tiny_model_path: Path
) -> None:
    point(own_home, "production", 1)
    with inside(own_home) as url, client_of(url) as client:
        assert version_of(client, "default") == "default@v1"
        build_corpus(own_home, write_sample(tmp_path / "second"), tiny_model_path, epochs=2)
        assert version_of(client, "default") == "default@v2"
        assert version_of(client, "default@production") == "default@v1"
        point(own_home, "production", 2)
        assert version_of(client, "default@production") == "default@v2"
        # Another corpus with the same base model, but adapters of other shapes.
        build_corpus(
            own_home, write_sample(tmp_path / "third"), tiny_model_path, "other", rank=3, targets="q_proj", epochs=1
        )
        assert version_of(client, "other") == "other@v1"
        assert version_of(client, "default@v1") == "default@v1"

        def answer(name: str) -> str:
            text: str = ask(client, QUESTION, name, max_tokens=24).json()["choices"][0]["message"]["content"]
            return text

        names = ["default@v1", "other", "default@v2"]
        alone = [answer(name) for name in names]
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(answer, names * 4)) == alone * 4


def test_a_collected_version_is_not_found(second_version: Home) -> None:
    point(second_version, "production", 2)
    with inside(second_version) as url, client_of(url) as client:
        assert version_of(client, "default") == "default@v2"
        home = str(second_version.path)
        assert run(["gc", "--home", home, "--keep-last", "1", "--grace", "0", "--yes"]) == 0
        response = ask(client, QUESTION, "default@v1")
        assert response.status_code == 404
        assert "was collected" in response.json()["error"]["message"]
        assert "default@v1" not in [each["id"] for each in client.get("/v1/models").json()["data"]]


def test_versions_that_nobody_asks_are_closed(second_version: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MOST_OPEN", 0)
    with opened(second_version) as registry:
        first, second = registry.version("default@v1"), registry.version("default@v2")
    with inside(second_version) as url, client_of(url) as client:
        assert version_of(client, "default@v1") == "default@v1"
        assert being_read(second_version, first)
        assert version_of(client, "default@v2") == "default@v2"
        assert not being_read(second_version, first)
        assert being_read(second_version, second)
        assert version_of(client, "default@v1") == "default@v1"
    assert not being_read(second_version, first)
    assert not being_read(second_version, second)


def test_several_base_models_must_be_asked_for(
    own_home: Home, tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    build_corpus(own_home, write_sample(tmp_path / "more"), family_path("qwen2"), "other", epochs=1)
    with opened(own_home) as registry:
        with pytest.raises(UsageError, match="2 base models"):
            Bases(registry, ServeSettings(), Silent())
        with pytest.raises(NotFoundError, match="nowhere"):
            Bases(registry, ServeSettings(corpora=("nowhere",)), Silent())
        assert len(Bases(registry, ServeSettings(corpora=("default", "other")), Silent()).fingerprints) == 2
    with inside(own_home, corpora=("other",)) as url, client_of(url) as client:
        assert {each["pragreg"]["corpus"] for each in client.get("/v1/models").json()["data"]} == {"other"}
        assert version_of(client, "other") == "other@v1"
        response = ask(client, QUESTION, "default")
        assert response.status_code == 404
        assert "not loaded" in response.json()["error"]["message"]


@pytest.mark.postgres
def test_a_catalog_on_postgresql(tmp_path: Path, tiny_model_path: Path, postgres_url: str) -> None:
    home = create_home(tmp_path / "team", catalog_url=postgres_url)
    build_corpus(home, write_sample(tmp_path / "sample"), tiny_model_path, epochs=1)
    with open_catalog(home.catalog_url) as catalog, catalog.write() as session:
        _, secret = create_key(session, "web", ["ask"])
    with inside(home) as url, client_of(url, secret) as client, client_of(url) as anybody:
        assert version_of(client, "default@latest") == "default@v1"
        assert ask(anybody, QUESTION).status_code == 401
        assert ask(client, QUESTION, "default@nobody").status_code == 404
        assert {each["id"] for each in client.get("/v1/models").json()["data"]} >= {"default", "default@v1"}


def test_an_empty_home_has_nothing_to_serve(home: Home) -> None:
    with opened(home) as registry, pytest.raises(NotFoundError, match="nothing to serve"):
        Bases(registry, ServeSettings(), Silent())
