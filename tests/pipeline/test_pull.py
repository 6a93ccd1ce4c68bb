"""Pulling a corpus that another home pushed: what is here then, what it costs, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from cli import main
from registry.base_model import fingerprint, locate
from registry.catalog.aliases import aliases, rollback
from registry.catalog.engine import open_catalog
from registry.catalog.recipes import get_base_model
from registry.catalog.remotes.deltas import delta
from registry.catalog.remotes.remotes import list_remotes
from registry.errors import (
    BaseModelError,
    DivergedError,
    HubError,
    InputError,
    IntegrityError,
    NotFoundError,
    StorageError,
    UsageError,
)
from registry.pipeline.opened import opened
from registry.pipeline.search import search
from registry.progress import Silent
from registry.settings import Home
from registry.upkeep.verify.run import VerifyRequest, verify
from tests.hub.maker import Maker, maker, new_home
from tests.hub.server import HubServer
from tests.pipeline.conftest import NOTES, SHARED
from tests.pipeline.pulled import bring, corpus_of, files_of, publish, wire_bytes

LEFTOVERS = ("adapter-unused", "pack-unknown")


def rows_of(home: Home) -> list[str]:
    """All rows of a home's catalog."""
    import sqlite3

    with sqlite3.connect(home.path / "catalog.sqlite") as connection:
        return list(connection.iterdump())


def is_sound(home: Home, *, but: Collection[str] = ()) -> bool:
    """Whether verify finds nothing, but what is of these kinds."""
    with opened(home) as registry:
        report = verify(home, registry.catalog, registry.packs, VerifyRequest(deep=True), Silent())
    assert [finding for finding in report.findings if finding.kind not in but] == []
    return True


def test_a_pull_brings_all_that_the_first_home_has(shared: HubServer, ada: Maker, bob: Home) -> None:
    shared.reset_counters()
    report = bring(bob)
    assert (report.outcome, report.version, report.versions) == ("pulled", "default@v2", ("default@v1", "default@v2"))
    assert (report.documents, report.withheld, report.remote_adapters) == (13, 0, 0)
    assert report.fetched_bytes == shared.counters()["bytes_out"]["files"]
    assert corpus_of(bob) == corpus_of(ada.home)
    assert is_sound(bob)
    version, hits = search(bob, "default", ada.document(7).text, 3)
    assert (version.reference, hits[0].document) == ("default@v2", ada.document(7))
    with open_catalog(bob.catalog_url) as catalog, catalog.read() as session:
        assert aliases(session, "default") == {"latest": 2}
        assert get_base_model(session, ada.base_model.fingerprint).reference == bob.base_model
        (remote,) = list_remotes(session)
    assert (remote.repository, remote.commit_id, remote.is_lazy) == (SHARED, report.commit, False)
    assert remote.pulled_at is not None
    # Nothing is left of what arrived.
    assert not any("incoming" in path for path in files_of(bob))


def test_a_second_pull_brings_only_what_is_new(shared: HubServer, ada: Maker, full: Home) -> None:
    before = rows_of(full), files_of(full)
    shared.reset_counters()
    report = bring(full)
    assert (report.outcome, report.versions, report.fetched_bytes) == ("equal", (), 0)
    assert shared.counters()["by_kind"] == {"GET refs 200": 1}
    assert (rows_of(full), files_of(full)) == before
    ada.build({**NOTES, 3: 1, 12: 0, 13: 0}, message="the third")
    publish(ada.home)
    shared.reset_counters()
    report = bring(full)
    assert (report.versions, report.packs_fetched, report.packs_reused) == (("default@v3",), 1, 1)
    assert shared.counters()["requests"] <= 10
    assert wire_bytes(shared) < 60_000
    assert corpus_of(full) == corpus_of(ada.home)
    assert is_sound(full)


def test_versions_come_up_to_the_one_that_is_named(hub: HubServer, ada: Maker, bob: Home) -> None:
    publish(ada.home, tag="release")
    ada.build(NOTES | {20: 0}, message="the third")
    publish(ada.home)
    first = bring(bob, f"{SHARED}@v1")
    assert (first.version, first.versions) == ("default@v1", ("default@v1",))
    assert search(bob, "default", ada.document(3, 0).text, 1)[1][0].document == ada.document(3, 0)
    tagged = bring(bob, f"{SHARED}@release")
    assert (tagged.version, tagged.versions) == ("default@v2", ("default@v2",))
    # A tag names an older commit, which hides nothing of what comes later.
    newest = bring(bob)
    assert (newest.version, newest.versions) == ("default@v3", ("default@v3",))
    assert corpus_of(bob) == corpus_of(ada.home)
    assert is_sound(bob)
    older = bring(bob, f"{SHARED}@v1")
    assert (older.outcome, older.versions, older.version) == ("ahead", (), "default@v1")
    assert bring(bob, f"{SHARED}@{tagged.commit}").outcome == "ahead"
    with open_catalog(bob.catalog_url) as catalog, catalog.read() as session:
        assert aliases(session, "default") == {"latest": 3}
        assert [remote.commit_id for remote in list_remotes(session)] == [newest.commit]


def test_what_is_not_there_is_said(shared: HubServer, bob: Home) -> None:
    for named, error, message in (
        ("ada/notes@v9", NotFoundError, "no version v9"),
        ("ada/notes@nightly", NotFoundError, "no tag or branch 'nightly'"),
        ("ada/nothing", HubError, "no repository ada/nothing"),
        ("notes", UsageError, "no repository on the Hub"),
    ):
        with pytest.raises(error, match=message):
            bring(bob, named)
    assert files_of(bob) == {"pragreg.toml": (bob.path / "pragreg.toml").read_bytes()}


def test_repositories_of_others_are_told_apart(hub: HubServer, bob: Home) -> None:
    hub.commit("eve/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"?"})
    with pytest.raises(InputError, match="PEFT's format") as adapter:
        bring(bob, "eve/lora")
    assert adapter.value.hint == "pragreg adapters import eve/lora"
    hub.commit("eve/model", {"config.json": b"{}"})
    with pytest.raises(InputError, match=r"neither pragreg\.json"):
        bring(bob, "eve/model")


def test_another_base_model_is_refused_before_anything_comes(
    shared: HubServer, ada: Maker, tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    other = new_home(tmp_path / "other", family_path("qwen2"))
    rows, files = rows_of(other), files_of(other)
    with pytest.raises(BaseModelError, match="was made for") as refused:
        bring(other)
    assert "--base-model" in (refused.value.hint or "")
    assert (rows_of(other), files_of(other)) == (rows, files)
    assert bring(other, base_model=ada.home.base_model).documents == 13
    with open_catalog(other.catalog_url) as catalog, catalog.read() as session:
        assert get_base_model(session, ada.base_model.fingerprint).reference == ada.home.base_model
    # It is remembered where the model lies.
    ada.build({1: 0})
    publish(ada.home)
    assert bring(other).versions == ("default@v3",)


def test_versions_for_another_base_model_are_history(
    hub: HubServer, ada: Maker, bob: Home, family_path: Callable[[str], Path], tmp_path: Path
) -> None:
    """The corpus was rebuilt for another model: the new versions are asked, of the old ones the documents are known."""
    model = family_path("qwen2")
    with maker(replace(ada.home, base_model=str(model)), rank=2) as rebuilt:
        rebuilt.build(NOTES, message="for another model")
        publish(ada.home)
        report = bring(bob, base_model=str(model))
        assert report.version == "default@v3"
        assert corpus_of(bob) == corpus_of(ada.home)
        with open_catalog(bob.catalog_url) as catalog, catalog.read() as session:
            old = get_base_model(session, ada.base_model.fingerprint)
            assert old.reference.startswith("published:")
            assert get_base_model(session, rebuilt.base_model.fingerprint).reference == str(model)
    with pytest.raises(BaseModelError, match="never fetched"):
        locate(old.reference, models_path=tmp_path / "models")
    # Whoever has that model, and names it, can pull the old version's adapters, too.
    assert bring(bob, f"{SHARED}@v2", base_model=bob.base_model).remote_adapters == 0
    assert fingerprint(locate(bob.base_model, models_path=bob.models_path)) == get_base_model_of(bob, ada)


def get_base_model_of(home: Home, made: Maker) -> object:
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        return get_base_model(session, made.base_model.fingerprint)


def test_a_rewritten_history_is_refused(hub: HubServer, ada: Maker, bob: Home, tmp_path: Path) -> None:
    first = publish(ada.home).commit_id
    old = hub.read(SHARED, "pragreg.json")
    ada.build({1: 0})
    publish(ada.home)
    bring(bob)
    rows, files = rows_of(bob), files_of(bob)
    hub.commit(SHARED, {"pragreg.json": old})
    with pytest.raises(IntegrityError, match="history of ada/notes was rewritten: it had 3 versions and has 2"):
        bring(bob)
    assert (rows_of(bob), files_of(bob)) == (rows, files)
    assert bring(bob, f"{SHARED}@{first}").versions == ()
    # Under another name it is another corpus.
    assert bring(bob, corpus="older").version == "older@v2"


def test_a_refused_pull_leaves_no_trace(shared: HubServer, bob: Home) -> None:
    (pack, *_) = [path for path in shared.state(SHARED).files if path.startswith("packs/")]
    data = shared.read(SHARED, pack)
    rows, files, folders = rows_of(bob), files_of(bob), sorted(path.name for path in bob.path.iterdir())
    shared.replace(SHARED, pack, data[:-1] + bytes([data[-1] ^ 1]), keep_claims=True)
    with pytest.raises(IntegrityError):
        bring(bob)
    assert (rows_of(bob), files_of(bob)) == (rows, files)
    assert sorted(path.name for path in bob.path.iterdir()) == folders


def test_what_is_damaged_on_its_way_is_fetched_once_more(shared: HubServer, bob: Home) -> None:
    shared.fault("corrupt", route="object", after_fraction=0.5, times=1)
    assert bring(bob).outcome == "pulled"
    assert shared.counters()["faults"] == 1
    assert is_sound(bob)


def test_histories_that_diverged_are_never_overwritten(shared: HubServer, ada: Maker, full: Home) -> None:
    with maker(full) as mine:
        mine.build({**NOTES, 7: 1})
    ada.build({**NOTES, 8: 1})
    publish(ada.home)
    rows = rows_of(full)
    with pytest.raises(DivergedError, match="v3 here is not there, and v3 there is not here") as diverged:
        bring(full)
    assert "--as OTHER" in (diverged.value.hint or "")
    assert "--rebase" in (diverged.value.hint or "")
    assert rows_of(full) == rows
    beside = bring(full, corpus="theirs")
    assert beside.versions == ("theirs@v1", "theirs@v2", "theirs@v3")
    assert corpus_of(full, "theirs") == corpus_of(ada.home)
    # Two of three packs were here, and are used.
    assert beside.packs_reused > 0
    assert is_sound(full, but=["index-missing"])


def test_a_corpus_of_the_same_name_and_no_common_version(shared: HubServer, bob: Home) -> None:
    with maker(bob) as mine:
        mine.build({99: 0})
    for rebase in (False, True):
        with pytest.raises(DivergedError, match="no version in common"):
            bring(bob, rebase=rebase)


def test_one_corpus_from_two_repositories(shared: HubServer, ada: Maker, full: Home) -> None:
    ada.build({**NOTES, 8: 1})
    publish(ada.home, repository="eve/notes")
    assert bring(full, "eve/notes").versions == ("default@v3",)
    assert bring(full).outcome == "ahead"
    assert is_sound(full)


def test_latest_follows_the_repository_only_when_that_moves(shared: HubServer, ada: Maker, full: Home) -> None:
    with open_catalog(full.catalog_url) as catalog, catalog.write() as session:
        rollback(session, "default@v1")

    def latest() -> int:
        with open_catalog(full.catalog_url) as catalog, catalog.read() as session:
            return aliases(session, "default")["latest"]

    bring(full)
    assert latest() == 1
    with open_catalog(ada.home.catalog_url) as catalog, catalog.write() as session:
        rollback(session, "default@v1")
    publish(ada.home)
    with open_catalog(full.catalog_url) as catalog, catalog.write() as session:
        rollback(session, "default@v2")
    assert bring(full).outcome == "equal"
    assert latest() == 1


PULL = """
import sys
from pathlib import Path
from registry.pipeline.pull.request import PullRequest
from registry.pipeline.pull.run import pull
from registry.progress import Silent
from registry.settings import open_home
pull(open_home(Path(sys.argv[1])), PullRequest("ada/notes"), Silent())
"""


def test_a_killed_pull_goes_on_where_it_was(hub: HubServer, ada: Maker, bob: Home) -> None:
    ada.build(dict.fromkeys(range(150), 0))
    publish(ada.home)
    files = hub.state(SHARED).files
    size_bytes = sum(file.size for path, file in files.items() if path.startswith("packs/"))
    hub.fault("slow", route="object", bytes_per_second=600_000, path=r"\.safetensors$")
    process = subprocess.Popen([sys.executable, "-c", PULL, str(bob.path)], env=os.environ)
    incoming = bob.hub_path / "incoming"

    def arrived() -> int:
        return sum(path.stat().st_size for path in incoming.glob("*.safetensors"))

    deadline = time.monotonic() + 30
    while arrived() < size_bytes // 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = arrived()
    assert size_bytes // 3 <= there < size_bytes
    assert [path for path in files_of(bob) if path.startswith("packs")] == []
    hub.clear_faults()
    hub.reset_counters()
    report = bring(bob)
    assert report.outcome == "pulled"
    packs = [request for request in hub.requests() if request["path"].endswith(".safetensors")]
    assert 0 < sum(request["bytes_out"] for request in packs) <= size_bytes - there + 10_000
    assert corpus_of(bob) == corpus_of(ada.home)
    assert not any("incoming" in path for path in files_of(bob))


def test_a_kill_between_the_packs_and_the_versions(
    shared: HubServer, ada: Maker, bob: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packs are in the store and the version is not: what is there is used."""
    from registry.pipeline.pull import attempt

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(attempt, "record_versions", killed)
        with pytest.raises(KeyboardInterrupt):
            bring(bob)
    assert is_sound(bob, but=LEFTOVERS)
    shared.reset_counters()
    assert bring(bob).outcome == "pulled"
    assert not any(kind.startswith("GET object") for kind in shared.counters()["by_kind"])
    assert corpus_of(bob) == corpus_of(ada.home)
    assert is_sound(bob)


def test_a_pack_that_only_the_store_knows_is_not_fetched(
    shared: HubServer, ada: Maker, bob: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.pipeline.opened import Registry

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    # Killed with the bytes in the store, and no row yet.
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "store", lambda self, write, record: (write(), killed()))
        with pytest.raises(KeyboardInterrupt):
            bring(bob)
    shared.reset_counters()
    report = bring(bob)
    assert (report.packs_fetched, report.packs_reused) == (0, 1)
    assert not [request for request in shared.requests() if request["path"].endswith(".safetensors")]
    assert corpus_of(bob) == corpus_of(ada.home)


def test_a_full_disk_stops_a_pull_that_goes_on_later(
    hub: HubServer, ada: Maker, bob: Home, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    ada.build(dict.fromkeys(range(60), 0))
    publish(ada.home)
    with largest_file(300_000), pytest.raises(StorageError, match="disk is full"):
        bring(bob)
    hub.reset_counters()
    assert bring(bob).outcome == "pulled"
    assert hub.counters()["ranged"] >= 1
    assert is_sound(bob)


def test_two_pulls_at_once(hub: HubServer, ada: Maker, bob: Home) -> None:
    ada.build(dict.fromkeys(range(80), 0))
    publish(ada.home)
    hub.fault("slow", route="object", bytes_per_second=2_000_000)
    outcomes: list[str] = []
    threads = [threading.Thread(target=lambda: outcomes.append(bring(bob).outcome)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["equal", "pulled"]
    assert corpus_of(bob) == corpus_of(ada.home)
    assert is_sound(bob)


def test_a_build_meanwhile_is_seen(shared: HubServer, ada: Maker, bob: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus got a version of its own while the pull fetched: nothing is put on top of what it was not made for."""
    from registry.pipeline.pull import attempt

    record = attempt.record_versions

    def late(*given: object, **named: object) -> object:
        monkeypatch.setattr(attempt, "record_versions", record)
        with maker(bob) as mine:
            mine.build({1: 3})
        return record(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(attempt, "record_versions", late)
    with pytest.raises(DivergedError):
        bring(bob)
    assert is_sound(bob, but=["index-missing", *LEFTOVERS])


def write_source(path: Path, made: Maker, takes: dict[int, int]) -> Path:
    """Write a file that holds these notes as they were built."""
    documents = (made.document(number, take) for number, take in takes.items())
    path.write_text("".join(json.dumps({"title": it.title, "text": it.text}) + "\n" for it in documents))
    return path


def test_texts_that_are_withheld_come_from_sources(hub: HubServer, ada: Maker, bob: Home, tmp_path: Path) -> None:
    publish(ada.home, has_text=False)
    report = bring(bob)
    assert (report.documents, report.withheld, report.filled) == (13, 13, 0)
    with pytest.raises(NotFoundError, match="texts are not here"):
        search(bob, "default", ada.document(7).text, 3)
    assert is_sound(bob)
    some = write_source(tmp_path / "some.jsonl", ada, {7: 0, 8: 0, 99: 0})
    hub.reset_counters()
    report = bring(bob, texts=(str(some),))
    assert (report.outcome, report.withheld, report.filled) == ("equal", 11, 2)
    assert hub.counters()["requests"] == 1
    assert search(bob, "default", ada.document(7).text, 3)[1][0].document == ada.document(7)
    rest = write_source(tmp_path / "rest.jsonl", ada, {**NOTES, 3: 1, 5: 2, 12: 0})
    report = bring(bob, texts=(str(rest),))
    assert (report.withheld, report.filled) == (0, 11)
    with open_catalog(bob.catalog_url) as catalog, catalog.read() as session:
        standings = delta(session, "default", None, 2, {}).opened
    assert {place.source_uri.rpartition("#")[0] for it in standings for place in it.places} == {str(some), str(rest)}
    assert search(bob, "default", ada.document(12).text, 3)[1][0].document == ada.document(12)
    assert is_sound(bob)


def test_texts_come_where_they_are_published_later(hub: HubServer, ada: Maker, bob: Home) -> None:
    publish(ada.home, has_text=False)
    assert bring(bob).withheld == 13
    publish(ada.home, repository="ada/open")
    report = bring(bob, "ada/open")
    assert (report.outcome, report.versions, report.withheld, report.packs_fetched) == ("pulled", (), 0, 0)
    assert bring(bob, "ada/open").outcome == "equal"
    assert corpus_of(bob).records.keys() == corpus_of(ada.home).records.keys()
    # Where documents stand came with their texts.
    assert corpus_of(bob, repository="ada/open").standings[1] == corpus_of(ada.home).standings[1]
    assert is_sound(bob)


def test_only_what_is_signed_comes_where_that_is_asked_for(
    hub: HubServer, ada: Maker, bob: Home, tmp_path: Path
) -> None:
    keys = {}
    for name in ("ada", "eve"):
        key = Ed25519PrivateKey.generate()
        path = tmp_path / f"id_{name}"
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        keys[name] = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    publish(ada.home)
    with pytest.raises(IntegrityError, match="not signed"):
        bring(bob, required_key=keys["ada"])
    publish(ada.home, key_file=tmp_path / "id_ada")
    with pytest.raises(IntegrityError, match="unknown key"):
        bring(bob, required_key=keys["eve"])
    trusting = replace(bob, publishers={"Ada": keys["ada"]})
    report = bring(trusting, required_key="Ada")
    assert (report.outcome, report.publisher) == ("pulled", "Ada")
    hub.reset_counters()
    assert bring(trusting, required_key="Ada").outcome == "equal"
    assert hub.counters()["requests"] == 2
    # Signed by the same key, but for another repository.
    root, signature = (hub.read(SHARED, name) for name in ("pragreg.json", "pragreg.json.sig"))
    hub.commit("eve/copy", {"pragreg.json": root, "pragreg.json.sig": signature})
    with pytest.raises(IntegrityError, match="signed for ada/notes"):
        bring(trusting, "eve/copy", required_key="Ada")


def test_the_command_says_what_came(
    hub: HubServer, ada: Maker, bob: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    publish(ada.home, has_text=False)

    def run(*arguments: str) -> tuple[int, dict[str, str], str]:
        status = main.run(["pull", SHARED, "--home", str(bob.path), *arguments])
        out, err = capsys.readouterr()
        return status, dict(line.split(None, 1) for line in out.splitlines()), err

    status, lines, err = run("--lazy")
    assert status == 0
    assert (lines["version"], lines["documents"]) == ("default@v2", "13")
    assert lines["texts"] == "13 of 13 withheld"
    assert lines["adapters"] == "13 stay in the repository until they are asked for"
    assert f"pragreg pull {SHARED} --texts SOURCE" in err
    sources = [
        str(write_source(tmp_path / "one.jsonl", ada, {3: 1, 5: 2, 12: 0})),
        str(write_source(tmp_path / "two.jsonl", ada, {key: 0 for key in NOTES if key not in (3, 5)})),
    ]
    status, lines, err = run("--texts", *sources)
    assert status == 0
    assert lines["texts"] == "all here, 13 filled in now"
    assert lines["packs"] == "1 fetched, 0 here already"
    assert "adapters" not in lines
    assert "try" not in err
    assert "pragreg query QUESTION --corpus default" in err
    assert main.run(["pull", SHARED, "--home", str(bob.path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["outcome"], report["version"], report["withheld"]) == ("equal", "default@v2", 0)
    assert main.run(["pull", SHARED, "and-more", "--home", str(bob.path)]) == 2


def test_packs_may_lie_in_object_storage(shared: HubServer, ada: Maker, bob: Home) -> None:
    cloud = replace(bob, packs_url="memory://bob/packs")
    assert bring(cloud).packs_fetched == 1
    assert corpus_of(cloud) == corpus_of(ada.home)
    assert is_sound(cloud)
    assert not any("incoming" in path or path.startswith("packs") for path in files_of(bob))


@pytest.mark.postgres
def test_a_pull_into_postgresql(
    hub: HubServer, ada: Maker, tmp_path: Path, tiny_model_path: Path, postgres_url: str
) -> None:
    from registry.settings import create_home

    home = create_home(tmp_path / "team", catalog_url=postgres_url, base_model=str(tiny_model_path))
    publish(ada.home)
    assert bring(home, f"{SHARED}@v1").versions == ("default@v1",)
    assert bring(home).versions == ("default@v2",)
    assert corpus_of(home) == corpus_of(ada.home)
    assert is_sound(home)
