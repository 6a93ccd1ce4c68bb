from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from registry.base_model import LoadedModel, fingerprint, load, locate
from registry.errors import BaseModelError, UsageError


@pytest.fixture
def folder(tiny_model_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_path, tmp_path / "model"))


def load_from(folder: Path, tmp_path: Path, **options: Any) -> LoadedModel:
    options = {"device": "cpu", "dtype": "float32"} | options
    return load(locate(str(folder), models_path=tmp_path / "models"), **options)


def test_a_model_is_loaded_frozen_and_as_transformers_loads_it(folder: Path, tmp_path: Path) -> None:
    loaded = load_from(folder, tmp_path)
    assert loaded.base_model == fingerprint(locate(str(folder), models_path=tmp_path / "models"))
    assert (loaded.device, loaded.dtype) == ("cpu", "float32")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    ids = torch.tensor([loaded.tokenizer("Who built the lighthouse?")["input_ids"]])
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert torch.equal(loaded.model(ids).logits, reference(ids).logits)


def test_the_dtype_is_that_of_all_parameters(folder: Path, tmp_path: Path) -> None:
    loaded = load_from(folder, tmp_path, dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    with pytest.raises(UsageError, match="float64"):
        load_from(folder, tmp_path, dtype="float64")


@pytest.mark.parametrize(("family", "attention"), [("gemma2", "eager"), ("gemma3_text", "sdpa"), ("qwen3", "sdpa")])
def test_attention_is_fused_unless_scores_are_capped(
    family: str, attention: str, family_path: Callable[[str], Path], tmp_path: Path
) -> None:
    assert load_from(family_path(family), tmp_path).model.config._attn_implementation == attention


def test_loading_is_quiet_and_leaves_logging_as_it_was(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_from(folder, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_a_tokenizer_without_padding_pads_with_its_end(folder: Path, tmp_path: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_from(folder, tmp_path).tokenizer.pad_token == "<|im_end|>"


def change_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def use_foreign_code(folder: Path) -> None:
    auto_map = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    change_config(folder, model_type="evil", auto_map=auto_map)
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_weight, r"missing weights: model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda folder: change_config(folder, intermediate_size=48), "mlp"),
        (lambda folder: change_config(folder, num_hidden_layers=4), r"missing weights: model\.layers\.3"),
        (lambda folder: change_config(folder, model_type="nonesuch"), "nonesuch"),
        (lambda folder: change_config(folder, model_type="t5", architectures=["T5Model"]), "AutoModelForCausalLM"),
        (lambda folder: change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
        (use_foreign_code, "evil|code"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (
            lambda folder: (folder / "tokenizer.json").write_text('{"model": {}, "added_tokens": []}'),
            "cannot be loaded",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("\0"), "cannot be loaded"),
        (lambda folder: change_config(folder, rope_parameters=7, hidden_size="wide"), "cannot be loaded"),
    ],
)
def test_unsuitable_models_are_refused_in_a_line(
    damage: Callable[[Path], object], message: str, folder: Path, tmp_path: Path
) -> None:
    damage(folder)
    with pytest.raises(BaseModelError, match=message) as caught:
        load_from(folder, tmp_path)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600
    assert caught.value.hint
    assert not (folder / "executed").exists()
