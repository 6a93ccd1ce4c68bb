from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from registry.base_model import ModelFiles, shapes_from_config, target_shapes
from registry.errors import BaseModelError, UsageError

FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", *FEED_FORWARD)
WITHOUT_TORCH = """
import sys
from pathlib import Path
from registry.base_model import target_shapes
print(len(target_shapes(Path(sys.argv[1]), ("q_proj", "mlp.up_proj"), 1)), "torch" in sys.modules)
"""


@pytest.mark.parametrize("targets", [FEED_FORWARD, ALL, ("mlp.up_proj", "o_proj")])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_names_of_weights_give_the_shapes_of_modules(
    family: str, targets: tuple[str, ...], family_path: Callable[[str], Path]
) -> None:
    folder = family_path(family)
    for first_layer in (0, 2):
        found = target_shapes(folder, targets, first_layer)
        assert list(found.items()) == list(shapes_from_config(folder, targets, first_layer).items())


def test_torch_is_not_needed(tiny_model_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tiny_model_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["4", "False"]


@pytest.mark.smollm2
def test_of_the_default_model(smollm2_files: ModelFiles) -> None:
    assert target_shapes(smollm2_files.folder, ALL, 15) == shapes_from_config(smollm2_files.folder, ALL, 15)


@pytest.mark.parametrize(("family", "target"), [("phi3", "gate_up_proj"), ("qwen3_moe", "o_proj")])
def test_other_families_are_set_up_instead(family: str, target: str, family_path: Callable[[str], Path]) -> None:
    folder = family_path(family)
    assert target_shapes(folder, (target,)) == shapes_from_config(folder, (target,)) != {}


def test_weights_in_several_files(tiny_model_path: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model_path / "config.json", tmp_path)
    tensors = load_file(tiny_model_path / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, inside in halves.items():
        save_file({name: tensors[name] for name in inside}, tmp_path / file)
    index = {"weight_map": {name: file for file, inside in halves.items() for name in inside}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert target_shapes(tmp_path, ALL) == target_shapes(tiny_model_path, ALL)


def test_what_does_not_fit_is_refused_as_ever(tiny_model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no linear module 'gate'.*gate_proj"):
        target_shapes(tiny_model_path, ("gate",))
    with pytest.raises(UsageError, match="first_layer is 3"):
        target_shapes(tiny_model_path, FEED_FORWARD, 3)
    shutil.copy(tiny_model_path / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(BaseModelError, match=r"model\.safetensors is not a safetensors file: a header of \d+ bytes"):
        target_shapes(tmp_path, FEED_FORWARD)
