"""Repositories of every hostile kind: each is refused with its own message, and the registry stays as it was."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.main import run as run_command
from registry.hub.retrying import RETRY_VARIABLE
from registry.settings import Home, open_home
from tests.hub import (
    hostile_adapters,
    hostile_files,
    hostile_manifests,
    hostile_records,
    hostile_roots,
    hostile_task_adapters,
)
from tests.hub.hostile import KINDS, REPOSITORY, Forgery, Kind, flipped
from tests.hub.maker import maker, new_home
from tests.hub.server import HubServer
from tests.pipeline.conftest import state

MODULES = (
    hostile_adapters,
    hostile_files,
    hostile_manifests,
    hostile_records,
    hostile_roots,
    hostile_task_adapters,
)
"""Where the kinds are noted."""
ASKED = re.compile(
    r"pragreg\.json(\.sig)?|adapter_config\.json"
    r"|(packs|shards|records)/[0-9a-f]{2}/[0-9a-f]{64}\.(safetensors|parquet)"
)
"""All that may be asked of a repository."""


@dataclass(frozen=True)
class Published:
    """A repository after three pushes: its files then, and after the second; homes before any pull and after that."""

    files: dict[str, bytes]
    before: dict[str, bytes]
    empty: Path
    updated: Path


@pytest.fixture(scope="module")
def published(
    hub_process: HubServer, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hub_process.environment().items():
            patch.setenv(name, value)
        hub_process.reset()
        home, empty, updated = (new_home(folder / name, tiny_model_path) for name in ("home", "empty", "updated"))
        seen = []
        with maker(home) as made:
            for takes in ({n: 0 for n in range(4)}, {n: int(n < 2) for n in range(6)}, {n: 1 for n in range(6)}):
                made.build(takes, message=f"of {len(takes)}")
                assert run_command(["push", REPOSITORY, "--home", str(home.path)]) == 0
                state = hub_process.state(REPOSITORY)
                seen.append({path: hub_process.read(REPOSITORY, path) for path in state.files})
                if len(seen) == 2:
                    assert run_command(["pull", REPOSITORY, "--home", str(updated.path)]) == 0
        assert run_command(["info", "--home", str(empty.path)]) == 0
        yield Published(seen[2], seen[1], empty.path, updated.path)


def serve(hub: HubServer, forgery: Forgery) -> None:
    hub.commit(REPOSITORY, forgery.files | forgery.entries)
    for kind, rule in forgery.faults:
        hub.fault(kind, **rule)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.of_first])
def test_a_first_pull_is_refused(
    name: str,
    hub: HubServer,
    published: Published,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _refused(name, hub, published, published.empty, tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.of_update])
def test_an_update_is_refused(
    name: str,
    hub: HubServer,
    published: Published,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _refused(name, hub, published, published.updated, tmp_path, capsys, monkeypatch)


def _refused(
    name: str,
    hub: HubServer,
    published: Published,
    template: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.001")
    home = _home(template, tmp_path)
    forgery = Forgery(published.files, published.before, tmp_path)
    KINDS[name].change(forgery)
    serve(hub, forgery)
    before = _kept(home, KINDS[name])
    capsys.readouterr()
    status = run_command(["pull", REPOSITORY, "--home", str(home.path), *forgery.arguments])
    out, err = capsys.readouterr()
    assert KINDS[name].message in " ".join(err.split())
    assert (status, out) == (KINDS[name].status, "")
    assert "Traceback" not in err
    assert re.search("^error: ", err, re.MULTILINE)
    assert _kept(home, KINDS[name]) == before
    for request in hub.requests():
        if "/resolve/" in request["path"]:
            assert ASKED.fullmatch(request["path"].split("/resolve/")[1].split("/", 1)[1].partition("?")[0])


def _kept(home: Home, kind: Kind) -> tuple[list[str], list[tuple[str, bytes]]]:
    """What must not change; of what is only not to be had now, parts may stay to go on from."""
    rows, files = state(home)
    return rows, [file for file in files if kind.status != 12 or not Path(file[0]).is_relative_to(home.hub_path)]


def _home(template: Path, tmp_path: Path) -> Home:
    shutil.copytree(template, tmp_path / "home")
    return open_home(tmp_path / "home")


def test_what_was_not_changed_is_pulled(
    hub: HubServer, published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The repositories are refused for what was changed in them alone."""
    templates = (published.empty, published.updated, published.empty)
    for number, template in enumerate(templates):
        hub.reset()
        forgery = Forgery(published.files, published.before, tmp_path)
        forgery.seal() if number < 2 else hostile_task_adapters.with_task_adapter(forgery)
        serve(hub, forgery)
        home = _home(template, tmp_path / str(number))
        assert run_command(["pull", REPOSITORY, "--home", str(home.path)]) == 0
        assert run_command(["verify", "--home", str(home.path)]) == 0
        assert "bug" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, at: flipped(data, at + 3000), "arrived with bytes of another digest"),
        (lambda data, at: data[: at + 100], "cannot read a part of"),
        (lambda data, at: bytes(len(data)), "arrived with bytes of another digest"),
    ],
    ids=["bit_flip", "truncated", "zeros"],
)
def test_what_is_fetched_later_is_checked_like_everything(
    change: Callable[[bytes, int], bytes],
    message: str,
    hub: HubServer,
    published: Published,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.001")
    home = _home(published.empty, tmp_path)
    forgery = Forgery(published.files, published.before, tmp_path)
    serve(hub, forgery)
    assert run_command(["pull", REPOSITORY, "--lazy", "--home", str(home.path)]) == 0
    path = forgery.paths("packs")[-1]
    hub.replace(REPOSITORY, path, change(forgery.files[path], forgery.newest()["offset"]))
    before = state(home)
    capsys.readouterr()
    adapter = forgery.newest()["adapter"].hex()
    status = run_command(["export", adapter, "--out", str(tmp_path / "out"), "--home", str(home.path)])
    err = " ".join(capsys.readouterr().err.split())
    assert (status in (7, 12), message in err, "Traceback" in err) == (True, True, False), err
    assert state(home) == before
    assert not (tmp_path / "out").exists()
    hub.replace(REPOSITORY, path, forgery.files[path])
    assert run_command(["export", adapter, "--out", str(tmp_path / "out"), "--home", str(home.path)]) == 0


def test_a_signature_that_is_right_is_accepted(hub: HubServer, published: Published, tmp_path: Path) -> None:
    home = _home(published.empty, tmp_path)
    forgery = Forgery(published.files, published.before, tmp_path)
    hostile_roots.sound_signature(forgery)
    serve(hub, forgery)
    assert run_command(["pull", REPOSITORY, *forgery.arguments, "--home", str(home.path)]) == 0


def test_there_are_many_kinds() -> None:
    assert len(KINDS) >= 30
    assert len({kind.message for kind in KINDS.values()}) >= 30
