"""The real client against the stand-in: what the other tests of push and pull stand on."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.server import ROOT, HubServer

# The client hands files to its HTTP library in a way that the latter calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:.*content=.*:DeprecationWarning")

REPOSITORY = "tarn/ferry"
PACK = random.Random(0).randbytes(300_000)
CARD = b"---\nlicense: mit\nbase_model: tarn/base\ntags:\n- lora\n---\n# Ferry\n"


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.endpoint)


def files(**more: bytes) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(path, data) for path, data in {"packs/ab/one.safetensors": PACK, **more}.items()]


def commit(api: HfApi, **more: bytes) -> str:
    return api.create_commit(REPOSITORY, files(**more), commit_message="Some files").oid


def test_a_repository_is_made_once(hub: HubServer, api: HfApi) -> None:
    made = api.create_repo(REPOSITORY)
    assert (made.repo_id, made.endpoint) == (REPOSITORY, hub.endpoint)
    assert api.create_repo(REPOSITORY, exist_ok=True) == made
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPOSITORY)
    assert list(hub.state(REPOSITORY).files) == [".gitattributes"]
    api.delete_repo(REPOSITORY)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPOSITORY)


def test_large_files_go_to_the_second_origin_without_the_token(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    api.create_repo(REPOSITORY)
    oid = commit(api, **{"README.md": CARD})
    assert hub.state(REPOSITORY).files["packs/ab/one.safetensors"].sha256 == hashlib.sha256(PACK).hexdigest()
    got = hf_hub_download(REPOSITORY, "packs/ab/one.safetensors", cache_dir=tmp_path, endpoint=hub.endpoint)
    assert Path(got).read_bytes() == PACK
    assert Path(got).parts[-4] == oid
    folder = snapshot_download(REPOSITORY, revision=oid, cache_dir=tmp_path, endpoint=hub.endpoint)
    assert Path(folder, "README.md").read_bytes() == CARD
    counted = hub.counters()
    assert counted["put_bytes"] == len(PACK)
    assert counted["bytes_out"]["files"] == len(PACK)
    assert counted["by_kind"]["POST commit 200"] == 1
    assert counted["tokens_at_files"] == 0
    assert all(one["authorization"] == "Bearer hf_test" for one in hub.requests() if one["route"] == "commit")


def test_what_is_there_is_not_sent_again(hub: HubServer, api: HfApi) -> None:
    api.create_repo(REPOSITORY)
    first = commit(api, **{"note.txt": b"one"})
    hub.reset_counters()
    second = api.create_commit(REPOSITORY, files(**{"note.txt": b"two"}), commit_message="Again").oid
    assert hub.counters()["put_requests"] == 0
    assert hub.read(REPOSITORY, "note.txt", first) == b"one"
    assert hub.read(REPOSITORY, "note.txt", second) == b"two"
    assert commit(api, **{"note.txt": b"two"}) == second  # nothing has changed, so the client makes no commit


@pytest.mark.parametrize("settings", [{"verify": True}, {"multipart_bytes": 100_000, "verify": True}])
def test_other_ways_of_uploading(hub: HubServer, api: HfApi, settings: dict[str, object], tmp_path: Path) -> None:
    hub.settings(**settings)
    api.create_repo(REPOSITORY)
    additions = files()
    api.preupload_lfs_files(REPOSITORY, additions, free_memory=False)
    assert "packs/ab/one.safetensors" not in hub.state(REPOSITORY).files
    api.create_commit(REPOSITORY, additions, commit_message="Packs ahead")
    assert hub.read(REPOSITORY, "packs/ab/one.safetensors") == PACK
    kinds = hub.counters()["by_kind"]
    assert kinds["POST lfs-verify 200"] == 1
    assert kinds.get("PUT lfs-part 200") == (3 if "multipart_bytes" in settings else None)


def test_a_commit_is_checked(hub: HubServer, api: HfApi) -> None:
    api.create_repo(REPOSITORY)
    first = hub.state(REPOSITORY).head
    second = commit(api)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPOSITORY, files(a=b"a"), commit_message="Late", parent_commit=first)
    with pytest.raises(EntryNotFoundError):
        api.create_commit(REPOSITORY, [CommitOperationDelete("none")], commit_message="Delete")
    with pytest.raises(ValueError, match="license"):
        api.create_commit(REPOSITORY, files(**{"README.md": b"---\nlicense: none such\n---\n"}), commit_message="Card")
    line = '{"key":"lfsFile","value":{"path":"x.bin","algo":"sha256","oid":"%s","size":3}}' % ("0" * 64)
    header = '{"key":"header","value":{"summary":"s","description":""}}'
    answer = httpx2.post(f"{hub.endpoint}/api/models/{REPOSITORY}/commit/main", content=f"{header}\n{line}\n")
    assert answer.status_code == 400
    assert hub.state(REPOSITORY).head == second
    last = api.create_commit(REPOSITORY, [CommitOperationDelete("packs/")], commit_message="Clear").oid
    assert list(hub.state(REPOSITORY).files) == [".gitattributes"]
    assert [one.commit_id for one in api.list_repo_commits(REPOSITORY)] == [last, second, first]


def test_a_folder_holds_ten_thousand_files(hub: HubServer, api: HfApi) -> None:
    hub.commit(REPOSITORY, {f"packs/{number}": {"content": b"", "is_lfs": False} for number in range(9_999)})
    api.create_commit(REPOSITORY, [CommitOperationAdd("packs/more/a", b"a")], commit_message="The last that fits")
    with pytest.raises(BadRequestError, match="10000"):
        api.create_commit(REPOSITORY, [CommitOperationAdd("packs/b", b"a")], commit_message="One more")


def test_listings_come_in_pages(hub: HubServer, api: HfApi) -> None:
    hub.settings(page_size=3)
    hub.commit(REPOSITORY, {f"packs/{number:02x}/a.safetensors": b"x" for number in range(7)}, replace=True)
    entries = list(api.list_repo_tree(REPOSITORY, "packs", recursive=True))
    assert len(entries) == 14
    assert hub.counters()["by_kind"]["GET tree 200"] == 5
    assert [entry.path for entry in api.list_repo_tree(REPOSITORY)] == ["packs"]
    found = api.get_paths_info(REPOSITORY, ["packs/03/a.safetensors", "packs/none"])
    assert [entry.path for entry in found] == ["packs/03/a.safetensors"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPOSITORY, "none"))
    assert len(api.model_info(REPOSITORY, files_metadata=True).siblings or []) == 7


def test_tags_and_branches(hub: HubServer, api: HfApi) -> None:
    api.create_repo(REPOSITORY)
    first = hub.state(REPOSITORY).head
    second = commit(api)
    api.create_tag(REPOSITORY, tag="v1", revision=first, tag_message="The first")
    api.create_tag(REPOSITORY, tag="v2")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPOSITORY, tag="v2")
    api.create_branch(REPOSITORY, branch="drafts", revision="v1")
    refs = api.list_repo_refs(REPOSITORY)
    assert {tag.name: tag.target_commit for tag in refs.tags} == {"v1": first, "v2": second}
    assert {branch.name: branch.target_commit for branch in refs.branches} == {"main": second, "drafts": first}
    api.delete_tag(REPOSITORY, tag="v2")
    api.delete_branch(REPOSITORY, branch="drafts")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPOSITORY, tag="v2")
    assert api.model_info(REPOSITORY, revision="v1").sha == first
    assert api.model_info(REPOSITORY, revision=second[:10]).sha == second


def test_what_is_missing_is_named(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    api.create_repo(REPOSITORY)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPOSITORY, "none.json", cache_dir=tmp_path, endpoint=hub.endpoint)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPOSITORY, "a", revision="v9", cache_dir=tmp_path, endpoint=hub.endpoint)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("tarn/none", "a", cache_dir=tmp_path, endpoint=hub.endpoint)


def test_tokens(hub: HubServer) -> None:
    hub.settings(write_tokens=["hf_test"], read_tokens=["hf_reader"])
    HfApi(endpoint=hub.endpoint, token="hf_test").create_repo(REPOSITORY, private=True)
    for token, status in ((False, "401"), ("hf_reader", "403"), ("hf_wrong", "401")):
        api = HfApi(endpoint=hub.endpoint, token=token)
        with pytest.raises(HfHubHTTPError, match=status):
            api.create_repo("tarn/other")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.endpoint, token=False).model_info(REPOSITORY)
    assert HfApi(endpoint=hub.endpoint, token="hf_reader").model_info(REPOSITORY).private


def test_a_card_is_judged(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    ModelCard(CARD.decode()).validate(repo_type="model")
    for wrong in ("license: mine", "base_model: /home/me/model", "tags: lora", "model-index: [{name: x}]", "a: [", "3"):
        answer = httpx2.post(f"{hub.endpoint}/api/validate-yaml", json={"content": f"---\n{wrong}\n---\n"})
        assert (answer.status_code, bool(answer.json()["errors"])) == (400, True), wrong
    api = HfApi(endpoint=hub.endpoint)
    api.create_repo(REPOSITORY)
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        commit(api, **{"README.md": b"# no metadata\n"})


def test_ranges(hub: HubServer) -> None:
    oid = hub.commit(REPOSITORY, {"a.safetensors": PACK, "b.txt": b"0123456789"})
    for name, data in (("a.safetensors", PACK), ("b.txt", b"0123456789")):
        url = f"{hub.endpoint}/{REPOSITORY}/resolve/{oid}/{name}"

        def get(wanted: str, url: str = url) -> httpx2.Response:
            return httpx2.get(url, headers={"Range": wanted}, follow_redirects=True)

        assert (get("bytes=2-5").status_code, get("bytes=2-5").content) == (206, data[2:6])
        assert get("bytes=7-").content == data[7:]
        assert get("bytes=-3").content == data[-3:]
        assert get("bytes=2-5").headers["Content-Range"] == f"bytes 2-5/{len(data)}"
        assert get(f"bytes={len(data)}-").status_code == 416
    assert hub.counters()["partial"] == 10


def test_addresses_are_signed_and_run_out(hub: HubServer) -> None:
    hub.settings(signed_seconds=-1)
    oid = hub.commit(REPOSITORY, {"a.safetensors": PACK})
    url = f"{hub.endpoint}/{REPOSITORY}/resolve/{oid}/a.safetensors"
    assert httpx2.get(url, follow_redirects=True).status_code == 403
    hub.settings(signed_seconds=60)
    location = httpx2.head(url).headers["Location"]
    assert location.startswith(hub.files_origin)
    assert httpx2.get(location).content == PACK
    assert httpx2.get(location.partition("?")[0]).status_code == 403


def test_small_files_by_a_redirect(hub: HubServer, tmp_path: Path) -> None:
    hub.settings(redirect_regular=True)
    oid = hub.commit(REPOSITORY, {"folder/a b.txt": b"text"})
    got = hf_hub_download(REPOSITORY, "folder/a b.txt", cache_dir=tmp_path, endpoint=hub.endpoint)
    assert Path(got).read_bytes() == b"text"
    assert oid in got


def test_tampering(hub: HubServer) -> None:
    first = hub.commit(REPOSITORY, {"a.safetensors": PACK, "b": {"symlink": "../c"}, "c": {"content": b"c"}})
    hub.replace(REPOSITORY, "a.safetensors", b"other", commit=first)
    url = f"{hub.endpoint}/{REPOSITORY}/resolve/{first}/a.safetensors"
    assert httpx2.head(url).headers["X-Linked-Size"] == str(len(PACK))
    assert httpx2.get(url, follow_redirects=True).content == b"other"
    second = hub.commit(REPOSITORY, {"d": {"content": b"d", "claimed_size": 99}}, deleted=["c"])
    hub.ref(REPOSITORY, "v1", second)
    state = hub.state(REPOSITORY)
    assert set(state.files) == {".gitattributes", "a.safetensors", "b", "d"}
    assert state.files["d"].size == 99
    assert state.tags == {"v1": second}
    hub.ref(REPOSITORY, "v1", None)
    assert hub.state(REPOSITORY, first).tags == {}


def url_of(hub: HubServer, name: str = "a.txt") -> str:
    hub.commit(REPOSITORY, {name: b"0123456789" * 1000})
    return f"{hub.endpoint}/{REPOSITORY}/resolve/main/{name}"


def test_faults_of_answers(hub: HubServer) -> None:
    url, whole = url_of(hub), b"0123456789" * 1000
    hub.fault("status", status=429, headers={"Retry-After": "7"}, route="resolve", skip=1, times=2)
    got = [httpx2.get(url) for _ in range(4)]
    assert [one.status_code for one in got] == [200, 429, 429, 200]
    assert got[1].headers["Retry-After"] == "7"
    for is_reset in (False, True):
        hub.fault("cut", after_bytes=5000, reset=is_reset)
        with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
            httpx2.get(url)
        hub.fault("drop", reset=is_reset)
        with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
            httpx2.get(url)
    hub.fault("short", after_fraction=0.5)
    assert httpx2.get(url).content == whole[:5000]
    hub.fault("corrupt", after_bytes=3)
    corrupt = httpx2.get(url).content
    assert (len(corrupt), corrupt[:3], corrupt[4:]) == (len(whole), whole[:3], whole[4:])
    assert corrupt != whole
    hub.fault("ignore-range")
    assert httpx2.get(url, headers={"Range": "bytes=5-6"}).status_code == 200
    hub.fault("other-range")
    assert httpx2.get(url, headers={"Range": "bytes=5-6"}).content == b"45"
    hub.fault("gzip")
    assert httpx2.get(url).content == whole
    hub.fault("endless", after_bytes=1 << 20)
    assert len(httpx2.get(url).content) == 1 << 20
    hub.fault("slow", bytes_per_second=50_000)
    started = time.monotonic()
    assert httpx2.get(url).content == whole
    assert time.monotonic() - started > 0.15
    assert hub.counters()["faults"] == 13
    assert all(rule["hits"] == rule["times"] for rule in hub.faults()["rules"])


def test_an_answer_that_hangs(hub: HubServer) -> None:
    url = url_of(hub)
    hub.fault("hang", after_bytes=100, times=None)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(url, timeout=0.2)
    timer = threading.Timer(0.2, hub.clear_faults)
    timer.start()
    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.get(url, timeout=30)
    timer.join()


def test_faults_of_commits_and_uploads(hub: HubServer, api: HfApi) -> None:
    api.create_repo(REPOSITORY)
    hub.fault("status-after", status=500, route="commit")
    with pytest.raises(HfHubHTTPError, match="500"):
        commit(api, a=b"a")
    assert "a" in hub.state(REPOSITORY).files
    hub.fault("status", status=412, route="commit")
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(api, b=b"b")
    hub.fault("drop-after", route="commit")
    with pytest.raises(httpx2.RemoteProtocolError):
        commit(api, c=b"c")
    assert set(hub.state(REPOSITORY).files) == {".gitattributes", "a", "c", "packs/ab/one.safetensors"}
    hub.fault("drop-request", method="PUT", after_bytes=1000)
    hub.reset_counters()
    api.create_commit(
        REPOSITORY, [CommitOperationAdd("d.safetensors", b"d" * 4_000_000)], commit_message="d", num_threads=1
    )
    puts = [one for one in hub.requests() if one["method"] == "PUT"]
    assert [one["status"] for one in puts] == [0, 200]
    assert puts[0]["bytes_in"] == 1000


def test_chance_depends_on_the_seed_alone(hub: HubServer) -> None:
    def outcomes(seed: int) -> list[int]:
        hub.reset()
        url = url_of(hub)
        hub.chance(seed, {"resolve": 0.5}, kinds=["status"])
        with httpx2.Client() as client:
            return [client.get(url).status_code for _ in range(20)]

    first = outcomes(1)
    assert first == outcomes(1)
    assert first != outcomes(2)
    assert {200} < set(first) <= {200, 429, 500, 502, 503}
    assert len(hub.faults()["chance"]["made"]) == hub.counters()["faults"]


def test_it_runs_alone(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "tests/hub/server.py"),
        "--folder",
        str(tmp_path / "bytes"),
        "--page-size",
        "2",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        HfApi(endpoint=said["endpoint"], token="any").create_repo(REPOSITORY)
        assert said["endpoint"] != said["files"]
        process.terminate()
        assert process.wait(10) == 0
    assert list((tmp_path / "bytes").glob("*/*"))
