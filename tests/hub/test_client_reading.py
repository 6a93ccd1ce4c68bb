"""What is read of the Hub: how many requests it costs, and what becomes of every fault on the way."""

from __future__ import annotations

import hashlib
import random
import time

import pytest

from registry.errors import HubError, IntegrityError, UsageError
from registry.hub.client import Hub, RemoteFile
from registry.hub.retrying import RETRY_VARIABLE, TIMEOUT_VARIABLE
from tests.hub.server import HubServer

REPOSITORY = "tarn/ferry"
PACK = random.Random(1).randbytes(100_000)
DIGEST = hashlib.sha256(PACK).hexdigest()
PATH = f"packs/{DIGEST[:2]}/{DIGEST}.safetensors"
ROOT = b'{"corpus": "ferry"}'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.002")


@pytest.fixture
def commit(hub: HubServer) -> str:
    commit = hub.commit(REPOSITORY, {PATH: PACK, "pragreg.json": ROOT, "shards/ab/one.parquet": b"shard"})
    hub.ref(REPOSITORY, "v1", commit)
    hub.reset_counters()
    return commit


def test_references_cost_one_request(hub: HubServer, commit: str) -> None:
    refs = Hub().refs(REPOSITORY)
    assert refs is not None
    assert (refs.head, dict(refs.tags)) == (commit, {"v1": commit})
    assert hub.counters()["by_kind"] == {"GET refs 200": 1}
    assert Hub().refs("tarn/nothing") is None


def test_a_repository_without_commits_has_no_head(hub: HubServer) -> None:
    hub.settings(first_commit=False)
    Hub().create(REPOSITORY, private=True)
    refs = Hub().refs(REPOSITORY)
    assert refs is not None
    assert refs.head is None
    assert hub.state(REPOSITORY).private


def test_revisions_are_tags_branches_and_commits(hub: HubServer, commit: str) -> None:
    client = Hub()
    hub.ref(REPOSITORY, "next", commit, kind="branch")
    assert [client.commit_of(REPOSITORY, name) for name in ("v1", "next", "main", commit)] == [commit] * 4
    with pytest.raises(HubError, match="no tag or branch 'v2'") as error:
        client.commit_of(REPOSITORY, "v2")
    assert error.value.hint == "its tags: v1"
    with pytest.raises(HubError, match="there is no repository tarn/nothing"):
        client.commit_of("tarn/nothing", "v1")


def test_small_files_cost_one_request_and_a_redirect(hub: HubServer, commit: str) -> None:
    client = Hub()
    assert client.read_small(REPOSITORY, commit, "pragreg.json", limit_bytes=100) == ROOT
    assert client.read_small(REPOSITORY, commit, "shards/ab/one.parquet", limit_bytes=5) == b"shard"
    assert client.read_small(REPOSITORY, commit, "nothing.json", limit_bytes=5) is None
    counted = hub.counters()
    kinds = {"GET resolve 200": 1, "GET resolve 302": 1, "GET object 200": 1, "GET resolve 404": 1}
    assert counted["by_kind"] == kinds
    assert counted["tokens_at_files"] == 0
    assert {one["authorization"] for one in hub.requests() if one["route"] == "resolve"} == {"Bearer hf_test"}


def test_small_files_on_a_redirect_of_the_same_origin(hub: HubServer, commit: str) -> None:
    hub.settings(redirect_regular=True)
    client = Hub()
    assert client.read_small(REPOSITORY, commit, "pragreg.json", limit_bytes=100) == ROOT
    assert client.read_range(REPOSITORY, commit, "pragreg.json", 2, 6) == ROOT[2:8]


def test_no_more_is_read_than_a_small_file_may_have(hub: HubServer, commit: str) -> None:
    for path in ("pragreg.json", PATH):
        with pytest.raises(IntegrityError, match="more than the 9"):
            Hub().read_small(REPOSITORY, commit, path, limit_bytes=9)
    hub.fault("endless", route="resolve", after_bytes=1 << 30)
    with pytest.raises(IntegrityError, match="more than the 100000 bytes"):
        Hub().read_small(REPOSITORY, commit, "pragreg.json", limit_bytes=100_000)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("corrupt", {"after_bytes": 3}), ("cut", {"after_bytes": 3}), ("short", {"after_bytes": 3}), ("gzip", {})],
)
def test_small_files_that_are_damaged_on_their_way_are_read_again(
    hub: HubServer, commit: str, kind: str, rule: dict[str, int]
) -> None:
    hub.fault(kind, route="resolve", **rule)
    assert Hub().read_small(REPOSITORY, commit, "pragreg.json", limit_bytes=100) == ROOT
    assert hub.counters()["by_kind"] == {"GET resolve 200": 2}


def test_tags_that_say_nothing_of_the_content_cost_one_look(hub: HubServer, commit: str) -> None:
    hub.replace(REPOSITORY, "pragreg.json", b"others", commit=commit)
    client = Hub()
    for _ in range(3):
        assert client.read_small(REPOSITORY, commit, "pragreg.json", limit_bytes=100) == b"others"
    assert hub.counters()["by_kind"] == {"GET resolve 200": 4}


def test_files_are_listed_over_pages(hub: HubServer) -> None:
    commit = hub.commit(REPOSITORY, {f"a/{number:02}.txt": b"x" * number for number in range(25)}, replace=True)
    hub.settings(page_size=10)
    assert Hub().list_files(REPOSITORY, commit) == [RemoteFile(f"a/{one:02}.txt", one) for one in range(25)]
    assert Hub().list_files(REPOSITORY, commit, "b") == []


def test_too_long_a_list_is_refused(hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.hub.reading.FILES_LIMIT", 2)
    with pytest.raises(HubError, match="more than 2 files"):
        Hub().list_files(REPOSITORY, commit)


@pytest.mark.parametrize(
    ("rule", "message", "hint"),
    [
        ({"status": 401, "body": "no such token"}, "401 Unauthorized, no such token", "hf auth login"),
        ({"status": 403}, "403 Forbidden", "hf auth whoami"),
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "403 Forbidden", "ask for access"),
        ({"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, "no repository tarn/ferry", "hf auth whoami"),
        ({"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}}, "no such revision", "tarn/ferry"),
        ({"status": 429, "times": None}, "429 Too Many Requests, again and again", "wait a few minutes"),
        ({"status": 429, "headers": {"Retry-After": "4000"}}, "asks for a wait of 67 minutes", "again"),
        ({"status": 503, "times": None}, "503 Service Unavailable, again and again", "try later"),
        ({"status": 301, "headers": {"Location": "ftp://elsewhere/x"}}, "no proper answer", "HF_ENDPOINT"),
        ({"status": 302, "headers": {"Location": "http://[x"}}, "no proper answer", "HF_ENDPOINT"),
    ],
)
def test_refusals_say_what_to_do(hub: HubServer, commit: str, rule: dict[str, object], message: str, hint: str) -> None:
    hub.fault("status", route="resolve", **rule)
    with pytest.raises(HubError, match=message) as error:
        Hub().read_small(REPOSITORY, commit, "pragreg.json", limit_bytes=100)
    assert hint in str(error.value.hint)
    assert "cannot read pragreg.json of tarn/ferry at http://127.0.0.1" in error.value.message


def test_who_is_not_logged_in_is_told_how(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub().create(REPOSITORY, private=True)
    hub.reset_counters()
    monkeypatch.delenv("HF_TOKEN")
    for refused in (REPOSITORY, "tarn/nothing"):
        assert Hub().refs(refused) is None
    with pytest.raises(HubError, match="or it is private") as error:
        Hub().read_small(REPOSITORY, "0" * 40, "pragreg.json", limit_bytes=100)
    assert error.value.hint == "check the name; for a private one: hf auth login"
    assert {one["authorization"] for one in hub.requests()} == {None}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    hub.settings(read_tokens=["hf_other"])
    with pytest.raises(HubError, match="401 Unauthorized, Invalid credentials") as error:
        Hub().refs(REPOSITORY)
    assert error.value.hint == "hf auth login"


def test_waits_that_are_asked_for_are_kept(hub: HubServer, commit: str) -> None:
    said: list[str] = []
    hub.fault("status", route="resolve", status=429, headers={"RateLimit": '"api";r=0;t=1'})
    begin = time.monotonic()
    assert Hub(notify=said.append).read_small(REPOSITORY, commit, "pragreg.json", limit_bytes=100) == ROOT
    assert 1 <= time.monotonic() - begin < 2
    assert said == [f"{hub.endpoint}: the server answers 429 Too Many Requests; trying again in 1 s"]


def test_rubbish_is_no_answer(hub: HubServer, commit: str) -> None:
    for body in ("<html>", "[]", '{"branches": 1}', '{"branches": [], "tags": [{"name": "v1"}]}', "\0" * 100):
        hub.fault("status", route="refs", status=200, body=body)
        with pytest.raises(HubError, match="no proper answer"):
            Hub().refs(REPOSITORY)
    names = (
        '{"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": "../x"}], "tags": [], "converts": []}'
    )
    hub.fault("status", route="refs", status=200, body=names)
    with pytest.raises(HubError, match="'main' names no commit"):
        Hub().refs(REPOSITORY)


def test_no_answer_is_read_without_end(hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.hub.session.ANSWER_LIMIT_BYTES", 100_000)
    hub.fault("endless", route="refs", after_bytes=1 << 30)
    with pytest.raises(HubError, match="longer than 100000 bytes"):
        Hub().refs(REPOSITORY)


def test_a_server_that_hangs_is_asked_again(hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0.3")
    hub.fault("hang", route="refs")
    refs = Hub().refs(REPOSITORY)
    assert refs is not None
    assert refs.head == commit


def test_who_cannot_be_reached_is_named(hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"at http://127.0.0.1:9: it cannot be reached") as error:
        Hub("http://127.0.0.1:9").refs(REPOSITORY)
    assert "check the network" in str(error.value.hint)


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://hub", "https://me:secret@hub", "https://hub/?x"])
def test_an_endpoint_is_a_web_address(endpoint: str) -> None:
    with pytest.raises(UsageError, match="no address of a Hub"):
        Hub(endpoint)


def test_names_that_the_hub_does_not_know_are_refused(hub: HubServer) -> None:
    with pytest.raises(HubError) as error:
        Hub().refs("a/b/c")
    assert error.value.hint == "name a repository as NAMESPACE/NAME"
