from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from registry.base_model import (
    LoadedModel,
    block_count,
    linear_shapes,
    load,
    locate,
    matrices_from_config,
    shapes_from_config,
)
from registry.errors import BaseModelError, UsageError

FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
SUITABLE = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"]


@pytest.mark.parametrize("family", SUITABLE)
def test_separate_projections_are_found_by_name(
    family: str, family_path: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = family_path(family)
    loaded = load(locate(str(folder), models_path=tmp_path), device="cpu", dtype="float32")
    shapes = linear_shapes(loaded.model, FEED_FORWARD)
    assert list(shapes.items()) == [
        (f"model.layers.{block}.mlp.{name}", shape)
        for block in range(3)
        for name, shape in zip(FEED_FORWARD, [(64, 32), (64, 32), (32, 64)], strict=True)
    ]
    for path, (out_features, in_features) in shapes.items():
        assert loaded.model.get_submodule(path).weight.shape == (out_features, in_features)
    assert block_count(loaded.model) == 3
    assert shapes_from_config(folder, FEED_FORWARD) == shapes


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21 asks for it
def test_paths_are_those_that_peft_gives_adapters(tiny_model: LoadedModel) -> None:
    import copy

    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(copy.deepcopy(tiny_model.model), LoraConfig(r=2, target_modules=list(FEED_FORWARD)))
    named = {name for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert named == {
        f"base_model.model.{path}.lora_A.default.weight" for path in linear_shapes(tiny_model.model, FEED_FORWARD)
    }


def test_blocks_below_the_first_layer_are_left_out(tiny_model: LoadedModel) -> None:
    assert list(linear_shapes(tiny_model.model, ("down_proj", "o_proj"), first_layer=2)) == [
        "model.layers.2.mlp.down_proj",
        "model.layers.2.self_attn.o_proj",
    ]
    with pytest.raises(UsageError, match="first_layer is 3, but the base model has 3 blocks"):
        linear_shapes(tiny_model.model, FEED_FORWARD, first_layer=3)


def test_a_target_may_be_a_path_in_the_block(tiny_model: LoadedModel) -> None:
    assert linear_shapes(tiny_model.model, ("mlp.up_proj",), 2) == {"model.layers.2.mlp.up_proj": (64, 32)}


@pytest.mark.parametrize(
    ("family", "message", "hint"),
    [
        (
            "phi3",
            r"Phi3ForCausalLM has no linear module 'gate_proj'.*mlp\.gate_up_proj",
            "--set targets=gate_up_proj,down_proj",
        ),
        ("bloom", r"BloomForCausalLM has no linear module 'gate_proj'", "dense_h_to_4h,dense_4h_to_h"),
        ("gpt2", r"GPT2LMHeadModel has no 'gate_proj'.*mlp\.c_fc \(Conv1D\)", "Llama"),
        ("qwen3_moe", r"routes tokens to experts.*self_attn\.o_proj", "o_proj"),
    ],
)
def test_other_architectures_are_refused_with_the_modules_found(
    family: str, message: str, hint: str, family_path: Callable[[str], Path]
) -> None:
    with pytest.raises(BaseModelError, match=message) as caught:
        shapes_from_config(family_path(family), FEED_FORWARD)
    assert hint in str(caught.value.hint)


def test_fused_projections_work_under_their_own_names(family_path: Callable[[str], Path]) -> None:
    assert shapes_from_config(family_path("phi3"), ("gate_up_proj", "down_proj"), 2) == {
        "model.layers.2.mlp.gate_up_proj": (128, 32),
        "model.layers.2.mlp.down_proj": (32, 64),
    }
    assert shapes_from_config(family_path("qwen3_moe"), ("o_proj",), 2) == {"model.layers.2.self_attn.o_proj": (32, 32)}


def test_no_weights_are_needed(tiny_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model_path / "config.json").read_bytes())
    with torch.device("meta"):
        assert len(shapes_from_config(tmp_path, FEED_FORWARD)) == 9


def test_a_config_of_no_known_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(BaseModelError, match="nonesuch"):
        shapes_from_config(tmp_path, FEED_FORWARD)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3"])
def test_matrices_are_the_linear_modules_with_the_head(family: str, family_path: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(family_path(family))
    found = matrices_from_config(family_path(family))
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert found.parameters == sum(module.weight.numel() for module in linear)
    assert found.head == (model.config.vocab_size, 32)
    assert sum(outputs * inputs * count for outputs, inputs, count in found.shapes) == found.parameters
    assert 3 * found.below(1) == found.below(3) == found.parameters - model.config.vocab_size * 32


def test_of_experts_those_count_that_a_token_is_sent_to(family_path: Callable[[str], Path]) -> None:
    found = matrices_from_config(family_path("qwen3_moe"))
    attention = 32 * 32 + 2 * 16 * 32 + 32 * 32
    router, expert = 4 * 32, 3 * 16 * 32
    assert found.below(1) == attention + router + 2 * expert
