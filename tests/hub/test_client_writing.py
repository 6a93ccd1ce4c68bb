"""What is written to the Hub: one commit or none, whatever fails on the way, by as few requests as it takes."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from registry.errors import HubError, IntegrityError, StorageError
from registry.hub.client import Hub, NewFile, ParentMovedError, Upload
from registry.hub.retrying import RETRY_VARIABLE, TIMEOUT_VARIABLE
from registry.progress import Silent, Unit
from tests.hub.server import HubServer

REPOSITORY = "tarn/ferry"
PACK = random.Random(2).randbytes(3_000_000)
DIGEST = hashlib.sha256(PACK).hexdigest()
PATH = f"packs/{DIGEST[:2]}/{DIGEST}.safetensors"
CARD = b"---\nlicense: mit\n---\n# Ferry\n"
ROOT = NewFile("pragreg.json", b'{"corpus": "ferry"}', None)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.002")


@pytest.fixture
def client(hub: HubServer) -> Hub:
    client = Hub(hub.endpoint)
    client.create(REPOSITORY, private=False)
    hub.reset_counters()
    return client


@pytest.fixture
def pack(tmp_path: Path) -> NewFile:
    path = tmp_path / "pack"
    path.write_bytes(PACK)
    return NewFile(PATH, path, DIGEST)


class Told:
    """A progress that adds up what it is told."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.steps: list[tuple[str, int | None, Unit]] = []
        self.files: dict[str, int] = {}
        self.finished: list[str] = []
        self.lowest = 0

    def start(self, step: str, total: int | None = None, *, unit: Unit = "") -> None:
        self.steps.append((step, total, unit))

    def file(self, name: str, size_bytes: int) -> ToldFile:
        with self.lock:
            self.files.setdefault(name, 0)
        return ToldFile(self, name)

    def advance(self, count: int = 1, *, note: str = "") -> None:
        raise AssertionError("files tell the bytes")

    def say(self, text: str) -> None:
        raise AssertionError(text)

    def done(self) -> None:
        """Nothing."""


class ToldFile:
    def __init__(self, told: Told, name: str) -> None:
        self.told, self.name = told, name

    def advance(self, size_bytes: int) -> None:
        with self.told.lock:
            self.told.files[self.name] += size_bytes
            self.told.lowest = min(self.told.lowest, size_bytes)

    def done(self) -> None:
        self.told.finished.append(self.name)


def never(head: str) -> bool:
    raise AssertionError("nobody should ask")


def head_of(hub: HubServer) -> str:
    head = hub.state(REPOSITORY).head
    assert head is not None
    return head


def push(
    client: Hub,
    parent: str | None,
    files: Sequence[NewFile | Upload],
    *,
    deleted: Sequence[str] = (),
    landed: object = never,
    progress: Told | None = None,
) -> str:
    return client.commit(
        REPOSITORY,
        files,
        deleted,
        message="Version 1\n\nall of it",
        parent=parent,
        landed=landed,  # type: ignore[arg-type]
        progress=progress or Silent(),
    )


def test_a_commit_costs_few_requests(hub: HubServer, client: Hub, pack: NewFile) -> None:
    told = Told()
    files = [pack, NewFile("README.md", CARD, None), NewFile("shards/ab/x.parquet", b"shard", None), ROOT]
    commit = push(client, head_of(hub), files, progress=told)
    state = hub.state(REPOSITORY)
    assert (state.head, state.commits[0]) == (commit, (commit, "Version 1"))
    assert hub.read(REPOSITORY, PATH) == PACK
    assert hub.read(REPOSITORY, "pragreg.json") == ROOT.source
    counted = hub.counters()
    assert counted["by_kind"] == {
        "POST validate-yaml 200": 1,
        "POST preupload 200": 1,
        "POST lfs-batch 200": 1,
        "PUT lfs-put 200": 2,
        "POST commit 200": 1,
    }
    assert counted["tokens_at_files"] == 0
    sizes = {f"{DIGEST}.safetensors": len(PACK), "README.md": len(CARD), "x.parquet": 5, "pragreg.json": 19}
    assert told.files == sizes
    assert sorted(told.finished) == sorted(sizes)
    assert told.steps == [("uploading", sum(sizes.values()), "bytes")]


def test_files_go_ahead_of_their_commit(hub: HubServer, client: Hub, pack: NewFile) -> None:
    told = Told()
    others = [NewFile(f"records/ab/{one}.parquet", b"%d" % one, None) for one in range(3)]
    sent = client.upload(REPOSITORY, [pack, *others], told)
    assert [(one.path, one.needs_source) for one in sent] == [(one.path, False) for one in (pack, *others)]
    Path(str(pack.source)).unlink()
    assert hub.counters()["by_kind"] == {"POST preupload 200": 1, "POST lfs-batch 200": 1, "PUT lfs-put 200": 4}
    assert told.files[f"{DIGEST}.safetensors"] == len(PACK)
    hub.reset_counters()
    push(client, head_of(hub), sent)
    assert hub.counters()["by_kind"] == {"POST commit 200": 1}
    assert {pack.path, *(one.path for one in others)} < set(hub.state(REPOSITORY).files)


def test_uploads_of_several_threads_go_on_at_once(hub: HubServer, client: Hub, pack: NewFile) -> None:
    hub.fault("hang", route="lfs-batch")
    waiting = threading.Thread(target=client.upload, args=(REPOSITORY, [pack], Silent()))
    waiting.start()
    while hub.faults()["rules"][0]["hits"] == 0:
        time.sleep(0.01)
    client.upload(REPOSITORY, [NewFile("other.safetensors", b"other", None)], Silent())
    assert client.refs(REPOSITORY) is not None
    assert waiting.is_alive()
    hub.clear_faults()
    waiting.join()
    assert hub.counters()["put_requests"] == 2


def test_what_is_there_is_not_sent_again(hub: HubServer, client: Hub, pack: NewFile) -> None:
    client.upload(REPOSITORY, [pack], Silent())
    told = Told()
    push(client, head_of(hub), [pack, ROOT], progress=told)
    assert hub.counters()["put_requests"] == 1
    assert told.files[f"{DIGEST}.safetensors"] == len(PACK)


def test_the_same_content_under_several_names(hub: HubServer, client: Hub, pack: NewFile) -> None:
    told = Told()
    files = [NewFile(f"{one}/pack.safetensors", pack.source, DIGEST) for one in range(5)]
    push(client, head_of(hub), [*files, *(NewFile(f"{one}/x.json", b"{}", None) for one in range(3))], progress=told)
    assert {hub.read(REPOSITORY, file.path) for file in files} == {PACK}
    assert told.files == {"pack.safetensors": 5 * len(PACK), "x.json": 6}
    assert hub.read(REPOSITORY, "2/x.json") == b"{}"


def test_many_files_are_asked_about_in_parts(hub: HubServer, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.hub.writing.BATCH_FILES", 4)
    sent = client.upload(REPOSITORY, [NewFile(f"a/{one}.parquet", b"%d" % one, None) for one in range(10)], Silent())
    push(client, head_of(hub), sent)
    assert len(hub.state(REPOSITORY).files) == 11
    assert hub.counters()["by_kind"]["POST lfs-batch 200"] == 3


def test_files_are_deleted_with_the_commit(hub: HubServer, client: Hub) -> None:
    first = push(client, head_of(hub), [NewFile("shards/ab/x.parquet", b"shard", None), ROOT])
    push(client, first, [NewFile("pragreg.json", b"{}", None)], deleted=["shards/ab/x.parquet"])
    assert "shards/ab/x.parquet" not in hub.state(REPOSITORY).files
    assert "shards/ab/x.parquet" in hub.state(REPOSITORY, first).files


def test_a_file_with_another_digest_is_not_sent(hub: HubServer, client: Hub, pack: NewFile) -> None:
    assert isinstance(pack.source, Path)
    pack.source.write_bytes(PACK[:-1] + b"?")
    for send in (
        lambda: push(client, head_of(hub), [ROOT, pack]),
        lambda: client.upload(REPOSITORY, [NewFile(PATH, b"other", DIGEST)], Silent()),
    ):
        with pytest.raises(IntegrityError, match=f"{PATH} was to be sent") as error:
            send()
        assert error.value.hint == "run: pragreg verify"
    pack.source.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        push(client, head_of(hub), [pack])
    assert hub.counters()["requests"] == 0


def test_a_file_is_hashed_once(hub: HubServer, client: Hub, pack: NewFile, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    real = hashlib.sha256

    def counting(*given: bytes, **options: bool) -> object:
        hashed.append(1)
        return real(*given, **options)

    monkeypatch.setattr("huggingface_hub.utils.sha.sha256", counting)
    hub.fault("status", route="commit", status=503, times=2)
    push(client, head_of(hub), [pack, NewFile(PATH + ".json", pack.source, None)], landed=lambda head: False)
    assert len(hashed) == 2


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("status", {"status": 503, "route": "preupload"}),
        ("status", {"status": 500, "route": "lfs-batch", "times": 2}),
        ("status", {"status": 500, "route": "lfs-put", "times": 3}),
        ("status-after", {"status": 502, "route": "lfs-put"}),
        ("drop-request", {"after_bytes": 1_000_000, "route": "lfs-put", "times": 2}),
        ("drop-after", {"route": "lfs-put"}),
        ("status", {"status": 429, "route": "commit", "headers": {"Retry-After": "0"}}),
        ("status", {"status": 503, "route": "commit", "times": 2}),
        ("drop", {"route": "commit", "times": 2}),
        ("hang", {"route": "lfs-batch"}),
    ],
)
def test_the_commit_is_made_once_in_spite_of_faults(
    hub: HubServer, client: Hub, pack: NewFile, monkeypatch: pytest.MonkeyPatch, kind: str, rule: dict[str, object]
) -> None:
    if kind == "hang":
        monkeypatch.setenv(TIMEOUT_VARIABLE, "0.3")
    told = Told()
    parent = head_of(hub)
    hub.fault(kind, **rule)
    commit = push(client, parent, [pack, ROOT], progress=told)
    assert [id for id, _ in hub.state(REPOSITORY).commits] == [commit, parent]
    assert hub.read(REPOSITORY, PATH) == PACK
    assert told.files[f"{DIGEST}.safetensors"] == len(PACK)
    if kind == "drop-request":
        assert told.lowest <= -900_000  # what has to be sent again is taken back


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("status-after", {"status": 500}),
        ("drop-after", {}),
        ("cut", {"after_bytes": 5}),
        ("short", {"after_bytes": 5}),
        ("hang", {}),
    ],
)
def test_a_commit_that_landed_is_found(
    hub: HubServer, client: Hub, monkeypatch: pytest.MonkeyPatch, kind: str, rule: dict[str, int]
) -> None:
    if kind == "hang":
        monkeypatch.setenv(TIMEOUT_VARIABLE, "0.1")  # a commit has four times as long
    parent, asked = head_of(hub), []

    def landed(head: str) -> bool:
        asked.append(head)
        return True

    hub.fault(kind, route="commit", **rule)
    commit = push(client, parent, [ROOT], landed=landed)
    assert [id for id, _ in hub.state(REPOSITORY).commits] == [commit, parent]
    assert asked == [commit]
    kinds = hub.counters()["by_kind"]
    assert kinds["GET refs 200"] == 1
    assert sum(number for kind, number in kinds.items() if kind.startswith("POST commit")) == 1


def test_a_commit_that_lands_after_we_looked_is_found(hub: HubServer, client: Hub) -> None:
    parent = push(client, head_of(hub), [NewFile("old.json", b"{}", None)])
    hub.fault("drop-after", route="commit")
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": parent}
    stale = json.dumps({"branches": [main], "tags": [], "converts": []})
    hub.fault("status", route="refs", status=200, body=stale)
    commit = push(client, parent, [ROOT], deleted=["old.json"], landed=lambda head: True)
    assert [id for id, _ in hub.state(REPOSITORY).commits][:2] == [commit, parent]
    assert hub.counters()["by_kind"]["POST commit 412"] == 1


def test_a_head_that_moved_is_told(hub: HubServer, client: Hub) -> None:
    parent = head_of(hub)
    theirs = hub.commit(REPOSITORY, {"README.md": b"edited"})
    with pytest.raises(ParentMovedError, match="somebody else has committed") as error:
        push(client, parent, [ROOT])
    assert error.value.head == theirs
    hub.fault("status", route="commit", status=502)
    with pytest.raises(ParentMovedError) as error:
        push(client, parent, [ROOT], landed=lambda head: False)
    assert error.value.head == theirs
    assert head_of(hub) == theirs


def test_uploads_are_committed_by_later_attempts_too(hub: HubServer, client: Hub, pack: NewFile) -> None:
    sent = client.upload(REPOSITORY, [pack, NewFile("small.json", b"{}", None)], Silent())
    assert [one.needs_source for one in sent] == [False, True]
    Path(str(pack.source)).unlink()
    hub.fault("status", route="commit", status=503, times=2)
    push(client, head_of(hub), [*sent, ROOT], landed=lambda head: False)
    assert {PATH, "small.json", "pragreg.json"} < set(hub.state(REPOSITORY).files)
    assert hub.counters()["put_requests"] == 1


def test_what_fails_for_good_leaves_no_commit(hub: HubServer, client: Hub, pack: NewFile) -> None:
    parent = head_of(hub)
    for kind, rule, message in (
        ("status", {"route": "lfs-put", "status": 500, "times": None}, "500 Internal Server Error, again and again"),
        ("status", {"route": "lfs-put", "status": 403}, "403 Forbidden"),
        ("status", {"route": "preupload", "status": 200, "body": "[1]"}, "no proper answer"),
        ("status", {"route": "lfs-batch", "status": 200, "body": '{"objects": [{"oid": 1}]}'}, "no proper answer"),
        ("status", {"route": "commit", "status": 503, "times": None}, "503 Service Unavailable, again and again"),
        ("status", {"route": "commit", "status": 403, "body": "Private repository storage limit reached"}, "storage"),
    ):
        hub.fault(kind, **rule)
        with pytest.raises(HubError, match=message) as error:
            push(client, parent, [pack, ROOT], landed=lambda head: False)
        assert "cannot commit to tarn/ferry at http://127.0.0.1" in error.value.message
        hub.clear_faults()
    assert "free storage" in str(error.value.hint)
    assert head_of(hub) == parent


def test_an_invalid_card_is_refused_first(hub: HubServer, client: Hub, pack: NewFile) -> None:
    with pytest.raises(HubError, match=r"the Hub does not accept README\.md: -"):
        push(client, head_of(hub), [pack, NewFile("README.md", b"---\nlicense: [nonsense\n---\n", None)])
    assert hub.counters()["put_requests"] == 0


def test_a_file_that_the_repository_ignores_is_told(hub: HubServer, client: Hub, pack: NewFile) -> None:
    modes = [{"path": PATH, "uploadMode": "lfs", "shouldIgnore": True}]
    hub.fault("status", route="preupload", status=200, body=json.dumps({"files": modes}), times=2)
    for send in (lambda: client.upload(REPOSITORY, [pack], Silent()), lambda: push(client, head_of(hub), [pack])):
        with pytest.raises(HubError, match=r"has a \.gitignore that leaves out packs/"):
            send()


def test_large_files_go_in_parts_and_are_verified(hub: HubServer, client: Hub, pack: NewFile) -> None:
    hub.settings(multipart_bytes=1_000_000, verify=True)
    hub.fault("drop-request", route="lfs-part", skip=1, after_bytes=500_000)
    told = Told()
    push(client, head_of(hub), [pack], progress=told)
    assert hub.read(REPOSITORY, PATH) == PACK
    assert told.files[f"{DIGEST}.safetensors"] == len(PACK)
    kinds = hub.counters()["by_kind"]
    assert (kinds["PUT lfs-part 200"], kinds["POST lfs-verify 200"]) == (3, 1)


def test_the_token_goes_nowhere_else(hub: HubServer, client: Hub, pack: NewFile) -> None:
    elsewhere = f"{hub.files_origin}/elsewhere"
    actions = {"upload": {"href": elsewhere}, "verify": {"href": elsewhere}}
    batch = {"transfer": "basic", "objects": [{"oid": DIGEST, "size": len(PACK), "actions": actions}]}
    hub.fault("status", route="lfs-batch", status=200, body=json.dumps(batch))
    hub.fault("status", origin="files", status=200, times=2)
    client.upload(REPOSITORY, [pack], Silent())
    hub.fault("status", route="refs", status=307, headers={"Location": elsewhere})
    assert client.refs(REPOSITORY) is None
    there = [one for one in hub.requests() if "elsewhere" in one["path"]]
    assert [one["method"] for one in there] == ["PUT", "POST", "GET"]
    assert {one["authorization"] for one in there} == {None}
    assert {one["authorization"] for one in hub.requests() if one not in there} == {"Bearer hf_test"}


def test_repositories_are_created_once(hub: HubServer, client: Hub) -> None:
    client.create(REPOSITORY, private=True)
    assert not hub.state(REPOSITORY).private
    hub.fault("status-after", route="create", status=500)
    client.create("tarn/other", private=True)
    assert hub.state("tarn/other").private
    busy = "Cannot create repo: another conflicting operation is in progress"
    hub.fault("status", route="create", status=409, body=busy, times=3)
    client.create("tarn/third", private=False)
    assert hub.state("tarn/third").head is not None


def test_who_may_not_write_is_told(hub: HubServer, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.settings(write_tokens=["hf_other"], read_tokens=["hf_test"])
    with pytest.raises(HubError, match="cannot create tarn/new") as error:
        client.create("tarn/new", private=False)
    assert error.value.hint == "check that your login may do that: hf auth whoami"
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError) as error:
        client.create("tarn/new", private=False)
    assert "hf auth login" in str(error.value.hint)


def test_tags_are_made_once_and_moved_when_asked(hub: HubServer, client: Hub) -> None:
    first = head_of(hub)
    client.tag(REPOSITORY, "v1", first, message="one")
    client.tag(REPOSITORY, "v1", first)
    second = push(client, first, [ROOT])
    hub.fault("status-after", route="tag", status=500)
    client.tag(REPOSITORY, "v2", second)
    with pytest.raises(HubError, match="has a tag v1 already"):
        client.tag(REPOSITORY, "v1", second)
    assert hub.state(REPOSITORY).tags == {"v1": first, "v2": second}
    hub.fault("drop-after", route="tag", method="DELETE")
    client.tag(REPOSITORY, "v1", second, move=True)
    assert hub.state(REPOSITORY).tags == {"v1": second, "v2": second}


def test_the_client_keeps_quiet(
    hub: HubServer, client: Hub, pack: NewFile, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    hub.fault("status", route="lfs-put", status=500)
    hub.fault("status", route="refs", status=404, headers={"X-HF-Warning": "topic; beware"})
    assert client.refs(REPOSITORY) is None
    files = [pack, *(NewFile(f"shards/{one}.parquet", b"%d" % one, None) for one in range(3))]
    commit = push(client, head_of(hub), files)
    push(client, commit, files)
    assert capfd.readouterr() == ("", "")


SCRIPT = """
import sys
from pathlib import Path
from registry.hub.client import Hub, NewFile
from registry.progress import Silent
hub = Hub()
parent = hub.refs("tarn/ferry").head
print("ready", flush=True)
pack = Path(sys.argv[1])
files = [NewFile("pack.safetensors", pack, None)]
files += [NewFile(f"{one}.safetensors", pack.read_bytes() + b"%d" % one, None) for one in range(3)]
files += [NewFile(f"{one}/same.safetensors", pack.read_bytes()[1:], None) for one in range(3)]
hub.commit("tarn/ferry", files, [], message="m", parent=parent, landed=lambda head: False, progress=Silent())
"""


@pytest.mark.parametrize(
    ("kind", "rule"), [("slow", {"bytes_per_second": 200_000}), ("hang", {}), ("status", {"status": 503})]
)
def test_ctrl_c_ends_an_upload_at_once(
    hub: HubServer, client: Hub, pack: NewFile, monkeypatch: pytest.MonkeyPatch, kind: str, rule: dict[str, int]
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "30")
    monkeypatch.setenv(TIMEOUT_VARIABLE, "60")
    hub.fault(kind, route="lfs-put", times=None, **rule)
    parent = head_of(hub)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pack.source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while hub.counters()["by_kind"].get("POST lfs-batch 200") != 1:
            time.sleep(0.02)
        time.sleep(0.3)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert time.monotonic() - begin < 1.5
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert head_of(hub) == parent
