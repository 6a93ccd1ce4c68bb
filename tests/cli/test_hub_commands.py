"""The commands ``push``, ``status`` and ``remotes``, on a corpus made without training and a stand-in for the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from registry.catalog.engine import Catalog, open_catalog
from registry.settings import Home, open_home
from registry.store.packs import PackStore
from tests.cli.conftest import Run
from tests.hub.server import HubServer
from tests.upkeep.corpus_maker import CorpusMaker

REPOSITORY = "ada/notes"


@pytest.fixture
def made(home: Home, catalog: Catalog) -> CorpusMaker:
    """A home with handbook@v1, of four documents."""
    maker = CorpusMaker(home, catalog, PackStore(home.packs_url))
    maker.build(dict.fromkeys(range(4), 0))
    return maker


def copied(home: Home, folder: Path) -> Home:
    shutil.copytree(home.path, folder)
    return open_home(folder)


def test_push_says_what_it_did(run: Run, hub: HubServer, made: CorpusMaker) -> None:
    # The only corpus there is.
    pushed = run("push", REPOSITORY, "--home", made.home.path, "--tag", "good", "-m", "The first one")
    assert pushed.status == 0, pushed.err
    lines = dict(line.split(None, 1) for line in pushed.out.splitlines())
    assert lines["repository"] == f"{hub.endpoint}/{REPOSITORY}"
    assert (lines["corpus"], lines["pushed"], lines["latest"], lines["tags"]) == ("handbook", "v1", "v1", "v1, good")
    assert lines["adapters"] == "4 in 1 pack made for it"
    state = hub.state(REPOSITORY)
    assert state.commits[0][1] == "The first one"
    assert state.tags == {"v1": state.head, "good": state.head}
    again = run("push", REPOSITORY, "--home", made.home.path)
    assert "pushed" in again.out
    assert "nothing new" in again.out


def test_push_as_json(run: Run, hub: HubServer, made: CorpusMaker) -> None:
    pushed = run("push", REPOSITORY, "--home", made.home.path, "--no-text", "--private", "--json")
    (report,) = pushed.rows
    assert (report["commit_id"], report["versions"]) == (hub.state(REPOSITORY).head, [1])
    assert report["sent"]["packs_bytes"] > 12_000
    assert (report["has_text"], report["created"], hub.state(REPOSITORY).private) == (False, True, True)
    assert "no texts are published" in pushed.err
    again = run("push", REPOSITORY, "--home", made.home.path, "--no-text", "--private", "--json")
    assert "--private changes nothing" in again.err


def test_dry_run(run: Run, hub: HubServer, made: CorpusMaker) -> None:
    said = run("push", REPOSITORY, "--home", made.home.path, "--dry-run")
    assert "would be pushed" in said.out
    assert "would be made" in said.out
    (row,) = run("push", REPOSITORY, "--home", made.home.path, "--dry-run", "--json").rows
    assert (row["dry_run"], row["commit_id"], row["sent"]["adapters"]) == (True, None, 4)
    assert {request["method"] for request in hub.requests()} == {"GET"}


def test_mistakes(run: Run, hub: HubServer, made: CorpusMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    home = made.home.path
    wrong = run("push", "notes", "--home", home)
    assert (wrong.status, "no repository on the Hub" in wrong.err) == (2, True)
    assert run("push", REPOSITORY, "--corpus", "nothing", "--home", home).status == 5
    assert "--sign" in run("push", REPOSITORY, "--key", "x", "--home", home).err
    assert "--format peft" in run("push", REPOSITORY, "--adapter", "1f", "--home", home).err
    assert run("push", REPOSITORY, "--format", "peft", "--sign", "--home", home).status == 2
    assert run("push", REPOSITORY, "--pack-size", "much", "--home", home).status == 2
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = run("push", REPOSITORY, "--home", home)
    assert (offline.status, "HF_HUB_OFFLINE" in offline.err) == (12, True)
    assert hub.counters()["requests"] == 0
    assert "hf_test" not in wrong.err + offline.err


def test_status_says_what_comes_next(run: Run, hub: HubServer, made: CorpusMaker, tmp_path: Path) -> None:
    home = made.home.path

    def status(*options: object, home: Path = home) -> tuple[str, str | None, dict[str, object]]:
        (row,) = run("status", REPOSITORY, "--home", home, "--json", *options).rows
        return row["state"], row["next_command"], row

    assert status("--corpus", "handbook")[:2] == ("missing", f"pragreg push {REPOSITORY} --corpus handbook")
    run("push", REPOSITORY, "--home", home)
    assert status()[:2] == ("equal", None)
    theirs = copied(made.home, tmp_path / "theirs")
    with open_catalog(theirs.catalog_url) as catalog:
        other = CorpusMaker(theirs, catalog, PackStore(theirs.packs_url))
        other.build({0: 1, 1: 0, 2: 0, 3: 0})
    state, command, row = status(home=theirs.path)
    assert (state, command) == ("ahead", f"pragreg push {REPOSITORY} --corpus handbook")
    assert [(note["version"], note["documents"]) for note in row["only_here"]] == [(2, 4)]  # type: ignore[attr-defined]
    run("push", REPOSITORY, "--home", theirs.path)
    assert status()[:2] == ("behind", f"pragreg pull {REPOSITORY}")
    shown = run("status", REPOSITORY, "--home", home)
    assert "behind by 1 version" in shown.out
    assert f"only in {REPOSITORY}:" in shown.out
    assert shown.err == f"try: pragreg pull {REPOSITORY}\n"
    made.build({0: 0, 1: 1, 2: 0, 3: 0})
    assert status()[:2] == ("diverged", f"pragreg push {REPOSITORY} --corpus handbook --rebase")
    refused = run("push", REPOSITORY, "--home", home)
    assert (refused.status, "have diverged" in refused.err) == (13, True)
    assert run("status", REPOSITORY, "--home", home, "--corpus", "nothing").status == 5


def test_status_of_a_repository_of_another_corpus(run: Run, hub: HubServer, made: CorpusMaker, tmp_path: Path) -> None:
    run("push", REPOSITORY, "--home", made.home.path)
    empty = tmp_path / "empty"
    run("init", "--home", empty)
    (row,) = run("status", REPOSITORY, "--home", empty, "--json").rows
    assert (row["state"], row["corpus"], row["next_command"]) == ("unknown", None, f"pragreg pull {REPOSITORY}")


def test_remotes_lists_what_is_known(run: Run, hub: HubServer, made: CorpusMaker) -> None:
    home = made.home.path
    none = run("remotes", "--home", home)
    assert (none.status, "no repository is known" in none.err) == (0, True)
    run("push", REPOSITORY, "--home", home)
    run("push", "bob/other", "--home", home, "--no-text")
    hub.reset_counters()
    rows = run("remotes", "--home", home, "--json").rows
    assert hub.counters()["requests"] == 0
    assert [(row["repository"], row["corpus"], row["versions"], row["has_text"]) for row in rows] == [
        (REPOSITORY, "handbook", 1, True),
        ("bob/other", "handbook", 1, False),
    ]
    assert rows[0]["commit_id"] == hub.state(REPOSITORY).head
    assert rows[0]["pulled_at"] is None
    table = run("remotes", "--home", home, "--corpus", "handbook").out.splitlines()
    assert table[0].split("\t")[:3] == ["repository", "endpoint", "corpus"]
    assert len(table) == 3
    assert run("remotes", "--home", home, "--corpus", "nothing").status == 5


def test_the_token_is_never_shown(run: Run, hub: HubServer, made: CorpusMaker) -> None:
    hub.settings(write_tokens=["another"])
    refused = run("push", REPOSITORY, "--home", made.home.path)
    assert refused.status == 12
    assert "hf_test" not in refused.out + refused.err
    assert json.dumps(hub.counters()["tokens_at_files"]) in ("0", "[]", "{}")
