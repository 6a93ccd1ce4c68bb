"""What the plug-in takes from its environment, and which base models it answers for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from registry.base_model import conversion, fingerprint, locate
from registry.digests import sha256_hex
from registry.engines.merges import is_base, settings_of
from registry.records import BaseModel
from registry.settings import Home


def test_settings_come_from_the_environment(engine_home: Home) -> None:
    home = str(engine_home.path)
    usual = settings_of({"PRAGREG_HOME": home})
    assert usual is not None
    assert (usual.cache, usual.cache_bytes, usual.merge) == (engine_home.path / "merged", 10 * 1024**3, "near")
    given = settings_of(
        {
            "PRAGREG_HOME": home,
            "PRAGREG_VLLM_CACHE": "/var/cache/pragreg",
            "PRAGREG_VLLM_CACHE_BYTES": "5000",
            "PRAGREG_VLLM_CACHE_FOLDERS": "7",
            "PRAGREG_VLLM_MERGE": "0.7,0.3+common",
        }
    )
    assert given is not None
    assert (str(given.cache), given.cache_bytes, given.cache_folders) == ("/var/cache/pragreg", 5000, 7)
    assert given.merge == "0.7,0.3+common"
    assert settings_of({}) is None


def test_the_served_model_must_be_the_adapters_own(
    tiny_model_path: Path, family_path: Callable[[str], Path], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    with_hub_id = BaseModel("f" * 64, "quarrel/point-1b", "a" * 40, "LlamaForCausalLM", 1)
    assert is_base("quarrel/point-1b", with_hub_id, models)
    assert not is_base("quarrel/point-3b", with_hub_id, models)
    assert not is_base(str(tiny_model_path), with_hub_id, models)
    from_gguf = BaseModel("f" * 64, "smollm2-135m", "sha256:" + "a" * 64, "LlamaForCausalLM", 1)
    assert not is_base("HuggingFaceTB/SmolLM2-135M-Instruct", from_gguf, models)
    assert not is_base(str(tiny_model_path), from_gguf, models)
    own = fingerprint_of(tiny_model_path, models)
    copy = shutil.copytree(tiny_model_path, tmp_path / "copy")
    assert is_base(str(copy), own, models)
    assert not is_base(str(family_path("qwen3")), own, models)


def test_of_a_gguf_file_a_converted_copy_is_served(tiny_model_path: Path, tmp_path: Path) -> None:
    own = BaseModel("f" * 64, "smollm2-135m", "sha256:" + "a" * 64, "LlamaForCausalLM", 1)
    copy = shutil.copytree(tiny_model_path, tmp_path / "copy")
    assert not is_base(str(copy), own, tmp_path / "models")
    record = {
        "format": conversion.FORMAT,
        "gguf_sha256": "a" * 64,
        "weights_sha256": sha256_hex((copy / conversion.WEIGHTS_FILE).read_bytes()),
    }
    (copy / conversion.RECORD_FILE).write_text(json.dumps(record))
    assert is_base(str(copy), own, tmp_path / "models")
    assert not is_base(str(copy), replace(own, revision="sha256:" + "b" * 64), tmp_path / "models")
    assert not is_base("HuggingFaceTB/SmolLM2-135M-Instruct", own, tmp_path / "models")


def fingerprint_of(folder: Path, models: Path) -> BaseModel:
    return fingerprint(locate(str(folder), models_path=models))
