"""``pragreg adapters import``: what comes in of folders and repositories of single adapters, and what does not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cli.main import run as run_command
from registry.base_model import fingerprint, locate, target_shapes
from registry.digests import sha256_hex
from registry.merging.export import export_adapter
from registry.recipe import Recipe
from registry.settings import Home, create_home
from registry.store.layout import AdapterLayout
from tests.hub.server import HubServer
from tests.pipeline.conftest import state

TARGETS = ("down_proj", "gate_proj", "up_proj")
CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


@pytest.fixture
def peft_home(tmp_path: Path, sqlite_template: Path, tiny_model_path: Path) -> Home:
    """An empty home whose base model is the tiny one."""
    home = create_home(tmp_path / "home", base_model=str(tiny_model_path))
    shutil.copy(sqlite_template, home.path / "catalog.sqlite")
    return home


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], peft_home: Home) -> Run:
    """Run a command line on ``peft_home`` in this process; nothing may go wrong in a way that is a bug."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        status = run_command([*map(str, arguments), "--home", str(peft_home.path)])
        result = Result(status, *capsys.readouterr())
        assert "Traceback" not in result.err
        assert "bug" not in result.err
        return result

    return run


@pytest.fixture
def write_folder(tmp_path: Path, tiny_model_path: Path) -> Callable[..., tuple[Path, str]]:
    """A function that writes a PEFT folder of a random adapter for the tiny model, and returns it and the digest."""
    base_model = fingerprint(locate(str(tiny_model_path), models_path=tmp_path / "models"))

    def write(name: str = "theirs", seed: int = 1, first_layer: int = 1, dtype: str = "float32") -> tuple[Path, str]:
        shapes = target_shapes(tiny_model_path, TARGETS, first_layer)
        layout = AdapterLayout.of(shapes, 2, dtype)  # type: ignore[arg-type]
        numbers = np.random.default_rng(seed).standard_normal(layout.elements, dtype=np.float32)
        halves = (numbers.view("<u4") >> 16).astype("<u2")
        data = layout.serialise((numbers if dtype == "float32" else halves).data)
        folder = tmp_path / name
        export_adapter(data, folder, recipe=Recipe(rank=2, alpha=6.0, targets=TARGETS), base_model=base_model)
        return folder, sha256_hex(data)

    return write


def test_a_folder_becomes_an_adapter_of_an_unknown_document(
    write_folder: Callable[..., tuple[Path, str]], run: Run, tmp_path: Path
) -> None:
    folder, digest = write_folder()
    (imported,) = run("adapters", "import", folder, "--json").rows
    assert imported == {
        "digest": digest,
        "title": "theirs",
        "rank": 2,
        "alpha": 6.0,
        "targets": list(TARGETS),
        "size_bytes": (folder / ADAPTER).stat().st_size,
        "is_new": True,
    }
    (listed,) = run("adapters", "list", "--json").rows
    assert (listed["digest"], listed["title"], listed["last_loss"]) == (digest, "theirs", 0.0)
    (row,) = run("sql", "SELECT adapter_digest, producer FROM v_adapters", "--json").rows
    assert row == {"adapter_digest": digest, "producer": "imported"}
    assert run("export", digest[:12], "--out", tmp_path / "out").status == 0
    assert (tmp_path / "out" / ADAPTER).read_bytes() == (folder / ADAPTER).read_bytes()
    ours, theirs = (json.loads((path / CONFIG).read_text()) for path in (tmp_path / "out", folder))
    assert ours == theirs
    assert run("verify", "--json").status == 0


def test_a_second_import_changes_nothing(
    write_folder: Callable[..., tuple[Path, str]], run: Run, peft_home: Home
) -> None:
    folder, digest = write_folder()
    run("adapters", "import", folder)
    before = state(peft_home)
    (again,) = run("adapters", "import", folder, "--json").rows
    assert (again["digest"], again["is_new"]) == (digest, False)
    assert state(peft_home) == before


def test_imported_adapters_can_be_merged(
    write_folder: Callable[..., tuple[Path, str]], run: Run, tmp_path: Path
) -> None:
    digests = [write_folder(f"number{seed}", seed)[1] for seed in (1, 2)]
    assert [run("adapters", "import", tmp_path / f"number{seed}").status for seed in (1, 2)] == [0, 0]
    assert run("merge", *digests, "--out", tmp_path / "merged").status == 0
    assert json.loads((tmp_path / "merged" / CONFIG).read_text())["r"] == 4


def test_of_a_folder_of_folders_all_or_some_are_taken(
    write_folder: Callable[..., tuple[Path, str]], run: Run, tmp_path: Path, peft_home: Home
) -> None:
    digests = {name: write_folder(f"set/{name}", seed)[1] for seed, name in enumerate(("a", "b", "deep/c"), 1)}
    (tmp_path / "set" / "notes.txt").write_text("not an adapter")
    (b,) = run("adapters", "import", tmp_path / "set", "--subfolder", "b", "--json").rows
    assert (b["digest"], b["title"]) == (digests["b"], "set/b")
    both = run("adapters", "import", tmp_path / "set", "--json").rows
    assert [(one["digest"], one["is_new"]) for one in both] == [(digests["a"], True), (digests["b"], False)]
    (deep,) = run("adapters", "import", tmp_path / "set", "--subfolder", "deep/c", "--json").rows
    assert deep["digest"] == digests["deep/c"]
    assert len({row["recipe_digest"] for row in run("adapters", "list", "--json").rows}) == 1


def test_half_precision_and_other_dtypes(
    write_folder: Callable[..., tuple[Path, str]], run: Run, tmp_path: Path
) -> None:
    folder, digest = write_folder("narrow", dtype="bfloat16")
    assert run("adapters", "import", folder, "--json").rows[0]["digest"] == digest
    folder, digest = write_folder("wide", seed=2)
    halves = {name: value.astype(np.float16) for name, value in load_file(folder / ADAPTER).items()}
    save_file(halves, folder / ADAPTER)
    (imported,) = run("adapters", "import", folder, "--json").rows
    assert imported["digest"] != digest
    assert imported["size_bytes"] > (folder / ADAPTER).stat().st_size
    assert run("export", imported["digest"], "--out", tmp_path / "out").status == 0
    for name, value in load_file(tmp_path / "out" / ADAPTER).items():
        np.testing.assert_array_equal(value, halves[name].astype(np.float32))


def test_gc_keeps_imported_adapters_until_they_are_forgotten(
    write_folder: Callable[..., tuple[Path, str]], run: Run
) -> None:
    folder, digest = write_folder()
    run("adapters", "import", folder)
    assert run("gc", "--yes", "--grace", "0").status == 0
    assert run("verify", "--json").status == 0
    assert run("export", digest, "--out", folder.parent / "out").status == 0
    assert run("adapters", "forget", digest[:10], "--json").rows == [{"digest": digest}]
    (again,) = run("adapters", "import", folder, "--json").rows
    run("gc", "--yes", "--grace", "0")
    assert (again["is_new"], run("export", digest, "--out", folder.parent / "two").status) == (False, 0)
    run("adapters", "forget", digest)
    run("gc", "--yes", "--grace", "0")
    gone = run("export", digest, "--out", folder.parent / "three")
    assert (gone.status, "lies in no pack" in gone.err) == (5, True)
    assert run("adapters", "import", folder, "--json").rows[0]["is_new"]
    assert run("export", digest, "--out", folder.parent / "four").status == 0


def edit(folder: Path, **changes: object) -> None:
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(settings | changes))


def retensor(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / ADAPTER)), folder / ADAPTER)


def linked(folder: Path) -> None:
    (folder / ADAPTER).rename(folder.parent / "secret")
    (folder / ADAPTER).symlink_to(folder.parent / "secret")


def pickled(folder: Path) -> None:
    (folder / ADAPTER).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")


def piped(folder: Path) -> None:
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)


def enlarged(folder: Path, name: str, size_bytes: int) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(size_bytes)


def relayered(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("layers.2", "layers.9"): value for name, value in tensors.items()}


REFUSED: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "another base model": (lambda f: edit(f, base_model_name_or_path="a/b"), 6, "is for the base model 'a/b', not for"),
    "no base model": (lambda f: edit(f, base_model_name_or_path=None), 6, "is for the base model None"),
    "dora": (lambda f: edit(f, use_dora=True), 7, "has 'use_dora': True, which is not supported"),
    "another rank": (lambda f: edit(f, r=4), 7, "has rank 2, and its configuration says 4"),
    "huge alpha": (lambda f: edit(f, lora_alpha=1e9), 7, "would scale the adapter by"),
    "no configuration": (
        lambda f: (f / CONFIG).unlink(),
        5,
        "theirs holds no adapter: there is no adapter_config.json",
    ),
    "no tensors": (lambda f: (f / ADAPTER).unlink(), 5, "holds no adapter: there is no adapter_model.safetensors"),
    "pickle": (pickled, 7, "has its tensors as a pickle (adapter_model.bin) only, which is never read"),
    "symbolic link": (linked, 7, "adapter_model.safetensors is a symbolic link"),
    "pipe": (piped, 7, "adapter_config.json is no file"),
    "large configuration": (
        lambda f: enlarged(f, CONFIG, 2**20 + 1),
        7,
        "theirs/adapter_config.json has 1048577 bytes; at most",
    ),
    "large tensors": (lambda f: enlarged(f, ADAPTER, 2**31 + 1), 7, "theirs/adapter_model.safetensors has 2147483649"),
    "cut off": (lambda f: enlarged(f, ADAPTER, 1000), 7, "adapter_model.safetensors"),
    "base weights": (
        lambda f: retensor(f, lambda t: t | {"base_model.model.lm_head.weight": np.ones((4, 4), "f4")}),
        7,
        "'base_model.model.lm_head.weight', which is no LoRA weight",
    ),
    "head": (
        lambda f: retensor(f, lambda t: {n.replace("model.layers.2.mlp.up_proj", "lm_head"): v for n, v in t.items()}),
        7,
        "adapts 'lm_head', which lies in none of the blocks",
    ),
    "missing block": (lambda f: retensor(f, relayered), 6, "does not fit"),
    "other shapes": (
        lambda f: retensor(
            f, lambda t: {n: np.ones((v.shape[0], 16), "f4") if "lora_A" in n else v for n, v in t.items()}
        ),
        6,
        "has the shape",
    ),
    "unknown module": (
        lambda f: retensor(f, lambda t: {n.replace("up_proj", "side_proj"): v for n, v in t.items()}),
        6,
        "no linear module 'side_proj'",
    ),
    "some modules only": (
        lambda f: retensor(f, lambda t: {n: v for n, v in t.items() if "layers.2.mlp.up_proj" not in n}),
        7,
        "adapts only some of the blocks from 1 on: 'model.layers.2.mlp.up_proj' is left out",
    ),
    "nan": (
        lambda f: retensor(f, lambda t: {n: np.full_like(v, np.nan) for n, v in t.items()}),
        7,
        "holds a number that is not finite",
    ),
    "no effect": (lambda f: retensor(f, lambda t: {n: v * 0 for n, v in t.items()}), 7, "every B is zero"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_kept_is_refused_and_nothing_changes(
    kind: str, write_folder: Callable[..., tuple[Path, str]], run: Run, peft_home: Home
) -> None:
    change, status, message = REFUSED[kind]
    folder, _ = write_folder()
    change(folder)
    before = state(peft_home)
    result = run("adapters", "import", folder)
    assert (result.status, result.out) == (status, "")
    assert message in result.err.replace("\n", " ")
    assert state(peft_home) == before


def test_one_bad_adapter_keeps_all_of_them_out(
    write_folder: Callable[..., tuple[Path, str]], run: Run, peft_home: Home, tmp_path: Path
) -> None:
    write_folder("set/a", 1)
    folder, _ = write_folder("set/b", 2)
    edit(folder, use_dora=True)
    before = state(peft_home)
    assert "set/b/adapter_config.json has 'use_dora'" in run("adapters", "import", tmp_path / "set").err
    assert state(peft_home) == before


def test_the_user_may_say_which_base_model_it_is(
    write_folder: Callable[..., tuple[Path, str]],
    run: Run,
    tiny_model_path: Path,
    family_path: Callable[[str], Path],
) -> None:
    folder, digest = write_folder()
    edit(folder, base_model_name_or_path="elsewhere/the-same")
    refused = run("adapters", "import", folder)
    assert (refused.status, f"--base-model {tiny_model_path}" in refused.err) == (6, True)
    (imported,) = run("adapters", "import", folder, "--base-model", tiny_model_path, "--json").rows
    assert imported["digest"] == digest
    other = run("adapters", "import", folder, "--base-model", family_path("gpt2"))
    assert (other.status, "does not fit" in other.err) == (6, True)


@pytest.mark.parametrize("folder", ["../b", "/b", "a//b", "a\\b", "a\x1b[2J", ".", "a" * 201])
def test_subfolders_that_lead_elsewhere(
    folder: str, write_folder: Callable[..., tuple[Path, str]], run: Run, tmp_path: Path
) -> None:
    write_folder("set/a")
    write_folder("b")
    result = run("adapters", "import", tmp_path / "set", "--subfolder", folder)
    assert (result.status, "cannot have an adapter in the folder" in result.err) == (7, True)


def test_what_is_neither_folder_nor_repository(run: Run, tmp_path: Path) -> None:
    result = run("adapters", "import", tmp_path / "none")
    assert (result.status, "is neither a folder nor a repository on the Hub" in result.err) == (2, True)


@pytest.fixture
def published(hub: HubServer, write_folder: Callable[..., tuple[Path, str]]) -> dict[str, str]:
    """Repositories made by others, by a commit each; the digest of the adapter in each place."""
    digests = {}
    files: dict[str, Any] = {"evil.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04.", ".gitattributes": b""}
    for seed, place in enumerate(("", "one/", "two/", "deep/er/"), 1):
        folder, digests[place] = write_folder(f"published{seed}", seed)
        for file in (CONFIG, ADAPTER):
            files[place + file] = (folder / file).read_bytes()
        files[f"{place}adapter_model.bin"] = b"\x80\x04."
    hub.commit("bo/mixed", files)
    hub.commit("bo/folders", {path: data for path, data in files.items() if "/" in path})
    return digests


def requested(hub: HubServer) -> set[str]:
    return {
        request["path"].split("/resolve/")[1].split("/", 1)[1].split("?")[0]
        for request in hub.requests()
        if "/resolve/" in request["path"]
    }


def test_of_a_repository_only_two_files_are_fetched(hub: HubServer, published: dict[str, str], run: Run) -> None:
    hub.reset_counters()
    (imported,) = run("adapters", "import", "bo/mixed", "--json").rows
    assert (imported["digest"], imported["title"]) == (published[""], "bo/mixed")
    assert requested(hub) == {CONFIG, ADAPTER}
    hub.reset_counters()
    found = run("adapters", "import", "bo/folders", "--json").rows
    assert [(one["digest"], one["title"]) for one in found] == [
        (published["one/"], "bo/folders/one"),
        (published["two/"], "bo/folders/two"),
    ]
    assert requested(hub) == {f"{place}/{file}" for place in ("one", "two") for file in (CONFIG, ADAPTER)}
    (deep,) = run("adapters", "import", "bo/mixed", "--subfolder", "deep/er", "--json").rows
    assert deep["digest"] == published["deep/er/"]


def test_a_commit_is_pinned_and_older_ones_can_be_had(hub: HubServer, published: dict[str, str], run: Run) -> None:
    first = hub.state("bo/mixed").head
    hub.ref("bo/mixed", "good", first)
    hub.commit("bo/mixed", {CONFIG: b"{}"}, deleted=[ADAPTER])
    assert run("adapters", "import", "bo/mixed").status == 7
    for revision in ("good", first):
        assert run("adapters", "import", f"bo/mixed@{revision}", "--json").rows[0]["digest"] == published[""]


def test_repositories_that_lie_about_sizes_or_are_not_there(
    hub: HubServer, published: dict[str, str], run: Run, peft_home: Home
) -> None:
    before = state(peft_home)
    hub.commit("bo/mixed", {ADAPTER: {"content": b"x" * 5000, "claimed_size": 3 * 2**30}})
    result = run("adapters", "import", "bo/mixed")
    assert (result.status, f"has {3 * 2**30} bytes; at most" in result.err) == (7, True)
    hub.commit("bo/mixed", {ADAPTER: {"content": b"x" * 5000, "claimed_size": 100}})
    assert run("adapters", "import", "bo/mixed").status in (7, 12)
    assert run("adapters", "import", "bo/nothing").status == 12
    hub.commit("bo/pickles", {CONFIG: b"{}", "adapter_model.bin": b"\x80\x04."})
    hub.reset_counters()
    result = run("adapters", "import", "bo/pickles")
    assert (result.status, "as a pickle (adapter_model.bin) only" in result.err) == (7, True)
    assert requested(hub) == set()
    assert state(peft_home) == before
