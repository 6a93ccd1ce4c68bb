"""Pushes that meet faults, damage, other people and kills: both sides stay whole, and the next push goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.catalog.adapters import add_pack, forget_covered, forget_packs
from registry.catalog.engine import Catalog
from registry.catalog.remotes.remotes import find_remote
from registry.errors import HubError, IntegrityError, NotFoundError, PragregError, UsageError
from registry.hub.names import ROOT
from registry.pipeline.push import publish as publishing
from registry.pipeline.push import run as running
from registry.settings import Home
from tests.hub.server import HubServer
from tests.pipeline.pushed import PACK_BYTES, REPOSITORY, Push, check, other_maker, takes
from tests.upkeep.corpus_maker import ADAPTER_BYTES, CorpusMaker


def outgoing(home: Home) -> list[Path]:
    return sorted((home.hub_path / "outgoing").rglob("*"))


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status-after", "route": "commit", "status": 500},
        {"kind": "status", "route": "commit", "status": 503},
        {"kind": "status", "route": "commit", "status": 429, "headers": {"Retry-After": "0"}},
        {"kind": "drop-request", "route": "lfs-put", "after_bytes": 100},
        {"kind": "status-after", "route": "lfs-put", "status": 502},
        {"kind": "status-after", "route": "tag", "status": 500},
        {"kind": "status-after", "route": "create", "status": 500},
    ],
    ids=lambda fault: f"{fault['kind']} {fault['route']}",
)
def test_one_fault_is_got_over(
    fault: dict[str, object], hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(4))
    hub.fault(**fault)  # type: ignore[arg-type]
    report = send()
    assert sum(rule["hits"] for rule in hub.faults()["rules"]) == 1
    there = check(hub, catalog)
    state = hub.state(REPOSITORY)
    assert (state.head, state.tags["v1"]) == (report.commit_id, report.commit_id)
    assert len(state.commits) == 2
    assert len(there.root.versions) == 1
    assert send().commit_id is None
    assert outgoing(crafted.home) == []


def test_a_failed_push_publishes_nothing_and_the_next_one_goes_on(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(4))
    hub.fault("status", route="commit", status=403, body="no")
    with pytest.raises(HubError):
        send()
    assert ROOT not in hub.state(REPOSITORY).files
    assert outgoing(crafted.home) == []
    with catalog.read() as session:
        assert find_remote(session, hub.endpoint, REPOSITORY, "handbook") is None
    assert send().commit_id is not None
    # The packs were there already.
    assert hub.counters()["put_requests"] == 0
    check(hub, catalog)


def test_a_tag_that_failed_is_made_by_the_next_push(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(4))
    hub.fault("status", route="tag", status=403, times=None)
    with pytest.raises(HubError, match="all is pushed to ada/handbook, but the tag v1 is not made"):
        send()
    check(hub, catalog)
    hub.clear_faults()
    again = send()
    assert (again.commit_id, again.tags) == (None, ("v1",))
    assert hub.state(REPOSITORY).tags == {"v1": hub.state(REPOSITORY).head}


def test_a_catalog_that_was_not_told_is_told_by_the_next_push(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted.build(takes(4))

    def killed(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("registry.pipeline.push.run.record_push", killed)
        with pytest.raises(RuntimeError, match="killed"):
            send()
    assert (send().commit_id, hub.state(REPOSITORY).tags.keys()) == (None, {"v1"})
    with catalog.read() as session:
        known = find_remote(session, hub.endpoint, REPOSITORY, "handbook")
    assert known is not None
    assert known.commit_id == hub.state(REPOSITORY).head
    send()
    assert hub.counters()["requests"] == 1


@pytest.mark.parametrize("pack_size_bytes", [PACK_BYTES, None], ids=["as it is", "composed"])
def test_damaged_packs_are_not_published(
    pack_size_bytes: int | None, hub: HubServer, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(7))
    (stored,) = crafted.packs.list()
    path = Path(crafted.packs.path_of(stored.digest))
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError) as refused:
        send(pack_size_bytes=pack_size_bytes)
    assert "pragreg repair" in str(refused.value.hint)
    assert hub.counters()["commits"] == 0
    assert ROOT not in hub.state(REPOSITORY).files
    assert outgoing(crafted.home) == []


def test_an_adapter_that_lies_nowhere_is_told_before_anything_is_made(
    hub: HubServer, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(7))
    with crafted.catalog.write() as session:
        forget_packs(session, [stored.digest for stored in crafted.packs.list()])
    with pytest.raises(IntegrityError, match="v1 of handbook cannot be published") as refused:
        send()
    assert "pragreg repair" in str(refused.value.hint)
    assert not hub.counters()["by_kind"].keys() - {"GET refs 404"}


def test_more_files_than_a_commit_takes_come_in_parts(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "COMMIT_FILES", 5)
    crafted.build(takes(12))
    hub.fault("status", route="commit", status=403, skip=2)
    with pytest.raises(HubError):
        send(pack_size_bytes=ADAPTER_BYTES)
    # Two parts are there, and nobody sees them.
    assert len(hub.state(REPOSITORY).commits) == 3
    assert ROOT not in hub.state(REPOSITORY).files
    report = send(pack_size_bytes=ADAPTER_BYTES)
    assert report.sent.composed_packs == 12
    there = check(hub, catalog)
    assert len(there.packs) == 12
    assert hub.state(REPOSITORY).tags == {"v1": report.commit_id}
    final = [path for path in hub.state(REPOSITORY).files if path not in hub.state(REPOSITORY, there_before(hub)).files]
    assert sorted(final) == ["README.md", ROOT]


def there_before(hub: HubServer) -> str:
    return hub.state(REPOSITORY).commits[1][0]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"reference": "nothing"}, NotFoundError, "no corpus 'nothing'"),
        ({"reference": "handbook@v7"}, NotFoundError, "no version 'v7'"),
        ({"repository": "handbook"}, UsageError, "no repository on the Hub"),
        ({"repository": "ada/handbook@v1"}, UsageError, "not to 'v1' of it"),
        ({"tag": "v3"}, UsageError, "'v3' is a name"),
        ({"tag": "a b"}, UsageError, "cannot be a tag"),
        ({"key_file": Path("/nowhere/key")}, PragregError, "/nowhere/key"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(
    changes: dict[str, object], error: type[Exception], words: str, hub: HubServer, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(2))
    with pytest.raises(error, match=words):
        send(**changes)
    assert hub.counters()["requests"] == 0


def test_gc_takes_nothing_of_what_is_being_pushed(
    hub: HubServer,
    catalog: Catalog,
    crafted: CorpusMaker,
    send: Push,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crafted.build(takes(4))
    crafted.build(takes(5))
    crafted.build(takes(4, d0=1))
    crafted.age()
    other = other_maker(crafted.home, tmp_path / "copy")
    assert other.collect(keep_last=1).collected == ("handbook@v2",)
    other.catalog.close()
    real = running.send_contents

    def collecting(*arguments: object) -> object:
        crafted.collect(keep_last=1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "send_contents", collecting)
    assert send(reference="handbook@v2").versions == (1, 2)
    assert [version.is_complete for version in check(hub, catalog).root.versions] == [True, True]


def test_a_pack_that_a_build_combines_meanwhile_is_sent_from_where_it_went(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted.build(takes(7))
    (stored,) = crafted.packs.list()
    real = running.survey

    def moving(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        places = crafted.packs.inspect(stored.digest).adapters
        pack = crafted.packs.combine(places[::-1])
        with catalog.write() as session:
            add_pack(session, pack, (), None)
            assert forget_covered(session, [stored.digest]) == [stored.digest]
        crafted.packs.delete(stored.digest)
        return found

    monkeypatch.setattr(running, "survey", moving)
    send(pack_size_bytes=PACK_BYTES)
    assert not crafted.packs.exists(stored.digest)
    # Made again in the same order, it is the same pack.
    assert list(check(hub, catalog).packs) == [stored.digest]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_push_leaves_both_sides_whole(
    how: signal.Signals, hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(20))
    hub.fault("slow", route="lfs-put", bytes_per_second=5_000, times=None)
    command = [sys.executable, "-m", "cli.main", "push", REPOSITORY, "--corpus", "handbook", "--pack-size", "10kB"]
    pushing = subprocess.Popen(
        [*command, "--home", str(crafted.home.path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(path.suffix == ".safetensors" for path in outgoing(crafted.home)) or not hub.requests():
        assert time.monotonic() < deadline
        assert pushing.poll() is None
        time.sleep(0.02)
    pushing.send_signal(how)
    said = pushing.communicate(timeout=20)[1]
    hub.clear_faults()
    if how == signal.SIGINT:
        assert (pushing.returncode, said) == (130, "stopped; what was finished is kept\n")
    assert (outgoing(crafted.home) == []) == (how == signal.SIGINT)
    assert ROOT not in hub.state(REPOSITORY).files
    send()
    check(hub, catalog)
    assert outgoing(crafted.home) == []
