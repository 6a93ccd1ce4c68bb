"""Files and ranges of files from the Hub: by as few requests as it takes, whole in spite of every fault."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from registry.errors import HubError, IntegrityError, Interrupted, PragregError, StorageError
from registry.hub.client import Hub
from registry.hub.retrying import RETRY_VARIABLE, TIMEOUT_VARIABLE
from tests.hub.server import HubServer

REPOSITORY = "tarn/ferry"
PACK = random.Random(1).randbytes(3_000_000)
DIGEST = hashlib.sha256(PACK).hexdigest()
PATH = f"packs/{DIGEST[:2]}/{DIGEST}.safetensors"
ROOT = b'{"corpus": "ferry"}'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.002")
    monkeypatch.setattr("registry.hub.answers.DIRECT_BYTES", 1_000_000)


@pytest.fixture
def commit(hub: HubServer) -> str:
    commit = hub.commit(REPOSITORY, {PATH: PACK, "pragreg.json": ROOT, "shards/ab/one.parquet": b"shard"})
    hub.ref(REPOSITORY, "v1", commit)
    hub.reset_counters()
    return commit


class Bringing:
    """Downloads the pack, and keeps what was told of it."""

    def __init__(self, into: Path, endpoint: str) -> None:
        self.hub = Hub(endpoint)
        self.into = into
        self.told_bytes = 0
        self.given = bytearray()

    def on_bytes(self, size_bytes: int) -> None:
        self.told_bytes += size_bytes

    def __call__(self, commit: str, *, path: str = PATH, digest: str = DIGEST, size_bytes: int = len(PACK)) -> None:
        self.given.clear()
        self.hub.download(
            REPOSITORY,
            commit,
            path,
            self.into,
            digest=digest,
            size_bytes=size_bytes,
            on_bytes=self.on_bytes,
            on_chunk=lambda chunk: self.given.extend(chunk),
        )

    def is_right(self) -> bool:
        return self.into.read_bytes() == PACK and self.given == PACK and self.told_bytes == len(PACK)


@pytest.fixture
def bring(hub: HubServer, tmp_path: Path) -> Bringing:
    return Bringing(tmp_path / "incoming" / DIGEST, hub.endpoint)


def test_a_file_comes_by_one_request_and_a_redirect(hub: HubServer, commit: str, bring: Bringing) -> None:
    bring(commit)
    assert bring.is_right()
    counted = hub.counters()
    assert counted["by_kind"] == {"GET resolve 302": 1, "GET object 200": 1}
    assert counted["tokens_at_files"] == 0
    bring.told_bytes = 0
    bring(commit)  # all of it is there
    assert bring.is_right()
    assert hub.counters()["requests"] == 2


def test_a_file_goes_on_after_what_is_there(hub: HubServer, commit: str, bring: Bringing) -> None:
    bring.into.parent.mkdir()
    bring.into.write_bytes(PACK[:2_000_000])
    bring(commit)
    assert bring.is_right()
    assert [one["range"] for one in hub.requests() if one["route"] == "object"] == ["bytes=2000000-"]
    assert hub.counters()["bytes_out"]["files"] == 1_000_000


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("cut", {"after_fraction": 0.5, "times": 3}),
        ("cut", {"after_fraction": 0.3, "times": 2, "reset": True}),
        ("short", {"after_fraction": 0.5}),
        ("hang", {"after_fraction": 0.5}),
        ("drop", {"times": 3}),
        ("gzip", {}),
        ("status", {"status": 503, "times": 3}),
        ("status", {"status": 429, "headers": {"Retry-After": "0"}}),
        ("status", {"status": 500, "origin": "main"}),
        ("status", {"status": 403, "body": "expired"}),
    ],
)
def test_a_file_comes_whole_in_spite_of_faults(
    hub: HubServer,
    commit: str,
    bring: Bringing,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    rule: dict[str, object],
) -> None:
    if kind == "hang":
        monkeypatch.setenv(TIMEOUT_VARIABLE, "0.3")
    hub.fault(kind, **{"route": "resolve" if rule.get("origin") else "object", **rule})
    if rule.get("status") == 403:
        with pytest.raises(HubError, match="403 Forbidden, expired"):
            bring(commit)
    bring(commit)
    assert bring.is_right()
    if kind != "gzip" and not rule.get("reset"):  # which throws away what lies in the connection
        assert hub.counters()["bytes_out"]["files"] < len(PACK) + 100_000


def test_a_server_without_ranges_begins_anew(hub: HubServer, commit: str, bring: Bringing) -> None:
    hub.fault("cut", route="object", after_fraction=0.5)
    hub.fault("ignore-range", route="object")
    bring(commit)
    assert bring.is_right()


def test_another_range_than_was_asked_for_is_not_taken(hub: HubServer, commit: str, bring: Bringing) -> None:
    hub.fault("cut", route="object", after_fraction=0.5)
    for told in ("bytes 5-9/3000000", "bytes */7", "nonsense"):
        hub.fault("status", route="object", status=206, headers={"Content-Range": told}, body="abcde")
    bring(commit)
    assert bring.is_right()
    hub.fault(
        "status", route="object", status=206, headers={"Content-Range": "bytes 5-9/100"}, body="abcde", times=None
    )
    with pytest.raises(HubError, match="another part of the file"):
        Hub().read_range(REPOSITORY, commit, PATH, 4, 5)


def test_bytes_from_another_place_are_found_out(hub: HubServer, commit: str, bring: Bringing) -> None:
    hub.fault("cut", route="object", after_fraction=0.5)
    hub.fault("other-range", route="object")
    with pytest.raises(IntegrityError, match="arrived damaged"):
        bring(commit)
    bring(commit)
    assert bring.is_right()


def test_a_damaged_file_is_refused_and_begins_anew(hub: HubServer, commit: str, bring: Bringing) -> None:
    hub.fault("corrupt", route="object", after_fraction=0.7)
    with pytest.raises(IntegrityError, match="arrived damaged"):
        bring(commit)
    assert not bring.into.exists()
    assert bring.told_bytes == 0
    bring(commit)
    assert bring.is_right()


def test_a_damaged_part_of_an_earlier_run_is_found(hub: HubServer, commit: str, bring: Bringing) -> None:
    bring.into.parent.mkdir()
    bring.into.write_bytes(b"\0" * 1_000_000)
    with pytest.raises(IntegrityError, match="arrived damaged"):
        bring(commit)
    bring.into.write_bytes(PACK + b"longer than the file can be")
    bring.told_bytes = 0
    bring(commit)
    assert bring.is_right()


@pytest.mark.parametrize("size_bytes", [len(PACK) - 1, len(PACK) + 1])
def test_a_file_of_another_size_is_refused(hub: HubServer, commit: str, bring: Bringing, size_bytes: int) -> None:
    with pytest.raises(IntegrityError, match=f"it has {len(PACK)} bytes, not the {size_bytes}"):
        bring(commit, size_bytes=size_bytes)
    assert not bring.into.exists()


def test_an_endless_file_is_cut_off(hub: HubServer, commit: str, bring: Bringing) -> None:
    hub.fault("endless", route="object", after_bytes=1 << 30)
    with pytest.raises(IntegrityError, match="more bytes"):
        bring(commit)
    assert not bring.into.exists()


def test_what_a_consumer_refuses_is_deleted(hub: HubServer, commit: str, bring: Bringing) -> None:
    def refuse(chunk: memoryview) -> None:
        raise IntegrityError("hostile")

    bring.given.extend(b"x")
    with pytest.raises(IntegrityError, match="hostile"):
        bring.hub.download(
            REPOSITORY,
            commit,
            PATH,
            bring.into,
            digest=DIGEST,
            size_bytes=len(PACK),
            on_bytes=bring.on_bytes,
            on_chunk=refuse,
        )
    assert not bring.into.exists()
    assert bring.told_bytes == 0


def test_on_a_full_disk_what_arrived_is_kept(
    commit: str, bring: Bringing, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    with largest_file(1_500_000), pytest.raises(StorageError, match="the disk is full"):
        bring(commit)
    assert bring.into.read_bytes() == PACK[:1_500_000]
    bring.told_bytes = 0
    bring(commit)
    assert bring.is_right()


def test_a_file_is_brought_by_one_at_a_time(hub: HubServer, commit: str, bring: Bringing) -> None:
    hub.fault("slow", route="object", bytes_per_second=30_000_000)
    other = Bringing(bring.into, hub.endpoint)
    threads = [threading.Thread(target=one, args=(commit,)) for one in (bring, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bring.is_right()
    assert other.is_right()
    assert hub.counters()["bytes_out"]["files"] == len(PACK)


def test_ranges_cost_one_request_each(hub: HubServer, commit: str) -> None:
    client = Hub()
    for offset in (0, 17, 2_999_000):
        assert client.read_range(REPOSITORY, commit, PATH, offset, 1000) == PACK[offset : offset + 1000]
    assert client.read_range(REPOSITORY, commit, PATH, 5, 0) == b""
    counted = hub.counters()
    assert counted["by_kind"] == {"HEAD resolve 302": 1, "GET object 206": 3}
    assert counted["tokens_at_files"] == 0


def test_several_threads_ask_once_where_a_file_lies(hub: HubServer, commit: str) -> None:
    client = Hub()
    found: list[bytes] = []

    def read(offset: int) -> None:
        found.append(client.read_range(REPOSITORY, commit, PATH, offset, 10))

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(PACK[offset : offset + 10] for offset in range(8))
    assert hub.counters()["by_kind"] == {"HEAD resolve 302": 1, "GET object 206": 8}


def test_an_address_that_has_expired_is_asked_for_again(hub: HubServer, commit: str) -> None:
    client = Hub()
    assert client.read_range(REPOSITORY, commit, PATH, 0, 10) == PACK[:10]
    hub.fault("status", route="object", status=403)
    assert client.read_range(REPOSITORY, commit, PATH, 5, 10) == PACK[5:15]
    kinds = hub.counters()["by_kind"]
    assert kinds == {"HEAD resolve 302": 2, "GET object 206": 2, "GET object 403": 1}


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("ignore-range", {}), ("cut", {"after_bytes": 4}), ("status", {"status": 500}), ("status", {"status": 410})],
)
def test_ranges_come_in_spite_of_faults(hub: HubServer, commit: str, kind: str, rule: dict[str, int]) -> None:
    hub.fault(kind, route="object", **rule)
    assert Hub().read_range(REPOSITORY, commit, PATH, 2_000_000, 1000) == PACK[2_000_000:2_001_000]


def test_offline_nothing_is_asked(
    hub: HubServer, commit: str, monkeypatch: pytest.MonkeyPatch, bring: Bringing
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    client = Hub()
    for ask in (
        lambda: client.refs(REPOSITORY),
        lambda: client.read_small(REPOSITORY, commit, PATH, limit_bytes=1),
        lambda: client.read_range(REPOSITORY, commit, PATH, 0, 1),
        lambda: client.create(REPOSITORY, private=False),
        lambda: bring(commit),
    ):
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
            ask()
    assert hub.counters()["requests"] == 0


def test_neither_tokens_nor_signatures_are_told(
    hub: HubServer, commit: str, bring: Bringing, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    said: list[str] = []
    client = Hub(notify=said.append)
    failed: list[PragregError] = []
    for status in (403, 404, 429, 500):
        hub.fault(
            "status", route="object", status=status, times=None, body="no hf_test at http://h/x?X-Amz-Signature=1"
        )
        for ask in (lambda: bring(commit), lambda: client.read_range(REPOSITORY, commit, PATH, 0, 9)):
            with pytest.raises(PragregError) as error:
                ask()
            failed.append(error.value)
        hub.clear_faults()
    texts = [f"{error} {error.hint} {error.__cause__}" for error in failed]
    shown = ["".join(traceback.format_exception(error)) for error in failed]
    captured = capfd.readouterr()
    for text in (*texts, *said, *shown, captured.out, captured.err, caplog.text):
        assert "hf_test" not in text
        assert "Signature" not in text
    assert captured.err == ""


def test_stopping_ends_what_waits(hub: HubServer, commit: str, bring: Bringing) -> None:
    hub.fault("hang", route="object", after_bytes=1_000_000, times=None)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            bring(commit)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while bring.told_bytes < 1_000_000:
        time.sleep(0.01)
    begin = time.monotonic()
    bring.hub.stop()
    thread.join()
    assert time.monotonic() - begin < 0.3
    assert isinstance(failed[0], Interrupted)
    assert bring.into.read_bytes() == PACK[:1_000_000]
    with pytest.raises(Interrupted):
        bring.hub.refs(REPOSITORY)


def test_disk_errors_are_told(commit: str, bring: Bringing) -> None:
    bring.into.mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be written"):
        bring(commit)


SCRIPT = """
import sys
from pathlib import Path
from registry.hub.client import Hub
commit, path, into, digest, size_bytes = sys.argv[1:]
Hub().download("tarn/ferry", commit, path, Path(into), digest=digest, size_bytes=int(size_bytes),
               on_bytes=lambda size_bytes: print(size_bytes, flush=True))
"""


def test_a_killed_download_goes_on_in_another_process(hub: HubServer, commit: str, bring: Bringing) -> None:
    hub.fault("slow", route="object", bytes_per_second=2_000_000)
    arguments = [commit, PATH, str(bring.into), DIGEST, str(len(PACK))]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert int(process.stdout.readline()) > 0
        process.kill()
    there = bring.into.stat().st_size
    assert 0 < there < len(PACK)
    bring(commit)
    assert bring.is_right()
    assert [one["range"] for one in hub.requests() if one["route"] == "object"] == [None, f"bytes={there}-"]
