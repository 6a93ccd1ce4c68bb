from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import registry
from registry.base_model import fingerprint, locate, require_same
from registry.errors import BaseModelError
from registry.records import BaseModel


def identify(folder: Path, models_path: Path) -> BaseModel:
    return fingerprint(locate(str(folder), models_path=models_path))


@pytest.fixture
def folder(tiny_model_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_path, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=3))


def test_a_folder_is_identified_by_what_it_holds(folder: Path, tmp_path: Path) -> None:
    base = identify(folder, tmp_path / "models")
    assert base.reference == str(folder)
    assert base.revision is None
    assert base.architecture == "LlamaForCausalLM"
    assert base.parameters == 41_312
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert identify(moved, tmp_path / "models").fingerprint == base.fingerprint


def test_how_a_config_was_saved_is_not_what_the_model_is(folder: Path, tmp_path: Path) -> None:
    before = identify(folder, tmp_path / "models").fingerprint
    edit(folder / "config.json", transformers_version="4.0.0", dtype="bfloat16", _name_or_path="x", use_cache=False)
    edit(folder / "tokenizer_config.json", local_files_only=True)
    assert identify(folder, tmp_path / "models").fingerprint == before


def test_every_part_decides(folder: Path, tmp_path: Path) -> None:
    seen = {identify(folder, tmp_path / "models").fingerprint}

    def is_new() -> bool:
        found = identify(folder, tmp_path / "models").fingerprint
        return found not in seen and not seen.add(found)  # type: ignore[func-returns-value]

    edit(folder / "config.json", rms_norm_eps=1e-3)
    assert is_new()
    edit(folder / "tokenizer_config.json", add_bos_token=True)
    assert is_new()
    edit(folder / "tokenizer.json", truncation={"max_length": 5})
    assert is_new()
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert is_new()
    (folder / "chat_template.jinja").unlink()
    assert is_new()
    edit(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    assert not is_new()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert is_new()


def test_a_file_is_hashed_again_only_when_it_has_changed(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    before, state = identify(folder, tmp_path / "models"), weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert identify(folder, tmp_path / "models") == before, "same size and time: remembered"
    assert identify(folder, tmp_path / "other") != before, "nothing remembered there"
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert identify(folder, tmp_path / "models") != before


def test_what_is_remembered_may_be_lost_or_broken(folder: Path, tmp_path: Path) -> None:
    models_path = tmp_path / "models"
    before = identify(folder, models_path)
    for nonsense in (b"", b"[1]", b"\xff", b'{"' + str(folder / "tokenizer.json").encode() + b'": [1]}'):
        (models_path / "digests.json").write_bytes(nonsense)
        assert identify(folder, models_path) == before


def test_sharded_weights_are_counted_together(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(weights)}
    for shard in set(shards.values()):
        save_file({name: weights[name] for name in weights if shards[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert identify(folder, tmp_path / "models").parameters == 41_312


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("tokenizer_config.json", b"nonsense"),
        ("model.safetensors", b"PK\x03\x04 a zip file, so to say"),
        ("model.safetensors", b"\xff" * 64),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0[]"),
        ("model.safetensors", b""),
    ],
)
def test_malformed_files_are_named(file: str, content: bytes, folder: Path, tmp_path: Path) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(BaseModelError, match=file):
        identify(folder, tmp_path / "models")


def test_another_model_than_the_recipes_is_refused(folder: Path, tmp_path: Path) -> None:
    mine = identify(folder, tmp_path / "models")
    require_same(mine, mine)
    theirs = BaseModel("ab" * 32, "acme/tiny", "c" * 40, "LlamaForCausalLM", 7)
    with pytest.raises(BaseModelError) as caught:
        require_same(mine, theirs)
    for part in (mine.reference, mine.fingerprint[:12], "acme/tiny", "c" * 40, "ab" * 6):
        assert part in caught.value.message
    assert "acme/tiny" in str(caught.value.hint)


def test_a_folder_that_was_changed_is_refused_as_changed(folder: Path, tmp_path: Path) -> None:
    before = identify(folder, tmp_path / "models")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    with pytest.raises(BaseModelError, match="has changed since") as caught:
        require_same(identify(folder, tmp_path / "models"), before)
    assert f"--base-model {folder}" in str(caught.value.hint)


def test_importing_and_identifying_import_no_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from registry.base_model import *; import registry.base_model.chat\n"
        f"fingerprint(locate({str(folder)!r}, models_path=Path({str(tmp_path)!r})))\n"
        "print(sorted({'torch', 'transformers', 'peft', 'huggingface_hub', 'jinja2'} & sys.modules.keys()))"
    )
    root = Path(registry.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
