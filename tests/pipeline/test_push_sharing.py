"""Pushes beside other people: what they pushed or edited stays, and what they hold is never overwritten."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from registry.catalog.adapters import forget_packs
from registry.catalog.engine import Catalog
from registry.errors import DivergedError, PragregError, UsageError
from registry.hub.names import ROOT, SIGNATURE
from registry.hub.signatures import read_public_key, verify
from registry.pipeline.push import publish as publishing
from registry.pipeline.push.request import PushRequest
from registry.pipeline.push.run import push
from registry.progress import Silent
from registry.settings import Home
from tests.hub.maker import maker, new_home
from tests.hub.server import HubServer
from tests.pipeline.pushed import REPOSITORY, Push, check, copied, other_maker, takes
from tests.upkeep.corpus_maker import CorpusMaker


def test_two_that_push_at_once_lose_nothing(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push, tmp_path: Path
) -> None:
    crafted.build(takes(4))
    crafted.build(takes(4, d1=1))
    other = other_maker(crafted.home, tmp_path / "copy")
    failures: list[PragregError] = []

    def run(home: Home, reference: str) -> None:
        try:
            push(home, PushRequest(REPOSITORY, reference), Silent())
        except PragregError as error:
            failures.append(error)

    # Both are on their way before one commits.
    hub.fault("slow", route="commit", bytes_per_second=20_000, times=2)
    threads = [
        threading.Thread(target=run, args=args) for args in ((crafted.home, "handbook"), (other.home, "handbook@v1"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    there = check(hub, catalog)
    assert len(there.root.versions) == 2
    assert hub.state(REPOSITORY).tags.keys() == {"v1", "v2"}


def test_what_others_pushed_is_never_overwritten(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push, tmp_path: Path
) -> None:
    crafted.build(takes(4))
    send()
    other = other_maker(crafted.home, tmp_path / "copy")
    other.build(takes(4, d1=1))
    send(home=other.home)
    head = hub.state(REPOSITORY).head
    behind = send()
    assert (behind.state, behind.behind, behind.commit_id) == ("behind", 1, None)
    crafted.build(takes(4, d2=1))
    with pytest.raises(DivergedError, match=r"v2 of handbook is not there, v2 of ada/handbook is not here") as refused:
        send()
    assert "--rebase" in str(refused.value.hint)
    assert "--as" in str(refused.value.hint)
    assert hub.state(REPOSITORY).head == head
    other.catalog.close()


def test_somebody_who_edits_another_file_meanwhile_is_kept(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted.build(takes(4))
    send()
    crafted.build(takes(4, d1=1))
    real = publishing.readme

    def edited(*arguments: object) -> object:
        monkeypatch.setattr(publishing, "readme", real)
        found = real(*arguments)  # type: ignore[arg-type]
        hub.commit(REPOSITORY, {"README.md": b"# By hand", "NOTICE": b"mine"})
        return found

    monkeypatch.setattr(publishing, "readme", edited)
    report = send()
    assert (report.card, report.versions) == ("kept", (2,))
    check(hub, catalog)
    assert hub.read(REPOSITORY, "README.md") == b"# By hand"
    assert "NOTICE" in hub.state(REPOSITORY).files
    # It stays until it is told to go.
    crafted.build(takes(4, d2=1))
    assert send().card == "kept"
    assert send(replace_card=True).card == "written"
    assert b"By hand" not in hub.read(REPOSITORY, "README.md")
    assert send(replace_card=True).commit_id is None


def test_repositories_of_others_are_left_alone(
    hub: HubServer, catalog: Catalog, crafted: CorpusMaker, send: Push
) -> None:
    crafted.build(takes(4))
    head = hub.commit(REPOSITORY, {"README.md": b"---\nlicense: mit\n---\n", "model.safetensors": b"weights"})
    with pytest.raises(UsageError, match=r"ada/handbook holds something else: model\.safetensors"):
        send()
    assert hub.state(REPOSITORY).head == head
    hub.commit(REPOSITORY, {"LICENSE": b"MIT"}, deleted=["model.safetensors"])
    assert send().card == "kept"
    check(hub, catalog)


def test_signatures_come_and_go_with_the_manifest(
    hub: HubServer, crafted: CorpusMaker, send: Push, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    publishers = {"ada": read_public_key(f"{key}.pub")}
    crafted.build(takes(2))
    assert send(key_file=key).is_signed
    assert verify(hub.read(REPOSITORY, ROOT), hub.read(REPOSITORY, SIGNATURE), publishers) == "ada"
    assert send(key_file=key).commit_id is None
    assert hub.counters()["requests"] < 5
    crafted.build(takes(2, d1=1))
    assert send().dropped_signature
    assert SIGNATURE not in hub.state(REPOSITORY).files
    assert send(key_file=key).is_signed
    assert verify(hub.read(REPOSITORY, ROOT), hub.read(REPOSITORY, SIGNATURE), publishers) == "ada"


def test_a_lazy_corpus_is_pushed_elsewhere_with_what_it_has_not_here(
    hub: HubServer, tiny_model_path: Path, tmp_path: Path, send: Push
) -> None:
    home = new_home(tmp_path / "lazy", tiny_model_path)
    with maker(home) as made:
        made.build(takes(6), corpus="handbook")
        send(home=home)
        packs = [stored.digest for stored in made.packs.list()]
        with made.catalog.write() as session:
            forget_packs(session, packs)
        for digest in packs:
            made.packs.delete(digest)
        assert send(home=home).commit_id is None
        assert send(home=home, repository="bob/copy").sent.adapters == 6
        check(hub, made.catalog, repository="bob/copy")


def test_rebase_puts_ours_on_theirs_and_pushes(
    hub: HubServer, tiny_model_path: Path, tmp_path: Path, send: Push
) -> None:
    home = new_home(tmp_path / "ours", tiny_model_path)
    with maker(home) as ours:
        ours.build(takes(4), corpus="handbook")
        send(home=home)
        theirs = copied(home, tmp_path / "theirs")
        with maker(theirs) as made:
            made.build(takes(4, d1=1), corpus="handbook", message="theirs")
        send(home=theirs)
        # A document that comes, and is edited before anybody else sees it.
        ours.build(takes(5, d2=1), corpus="handbook")
        ours.build(takes(5, d2=1, d4=1), corpus="handbook")
        report = send(home=home, rebase=True)
        assert (report.state, report.versions, report.references) == ("ahead", (3,), ("handbook@v5",))
        there = check(hub, ours.catalog)
        assert there.root.versions[1].message == "theirs"
        edited = {ours.document(number, 1).digest for number in (1, 2, 4)}
        assert edited <= there.pairs(3).keys()
        assert ours.document(4, 0).digest not in {row.document_digest for row in there.rows}
        # What was left behind is never published, and named as such.
        with pytest.raises(UsageError, match="handbook@v2 can never be in ada/handbook"):
            send(home=home, reference="handbook@v2")
        assert send(home=home).commit_id is None
