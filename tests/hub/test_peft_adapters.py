"""What is accepted of adapters that PEFT wrote elsewhere, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import save as save_numpy
from safetensors.torch import load_file, save_file

from registry.base_model import LoadedModel
from registry.digests import sha256_hex
from registry.errors import IntegrityError
from registry.hub.peft_adapters import PeftConfig, read_adapter, read_config
from registry.store.layout import AdapterLayout, read_layout

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SHAPES = {"model.layers.1.mlp.up_proj": (64, 32), "model.layers.1.mlp.down_proj": (32, 64)}
LAYOUT = AdapterLayout.of(SHAPES, 2, "float32")
CONFIG = PeftConfig(rank=2, alpha=4.0, base_model="quarrel/point", revision=None)
SETTINGS: dict[str, Any] = {**LoraConfig(r=2, lora_alpha=4).to_dict(), "peft_type": "LORA"}


def numbers(seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(LAYOUT.elements, dtype=np.float32)


def tensors(vector: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        spec.name: vector[spec.offset_elements : spec.offset_elements + spec.elements].reshape(spec.shape).copy()
        for spec in LAYOUT.tensors
    }


def config(**changes: object) -> bytes:
    return json.dumps({**SETTINGS, **changes}, default=sorted).encode()


@pytest.fixture
def save_with_peft(tiny_model: LoadedModel, tmp_path: Path) -> Callable[..., Path]:
    """A function that has PEFT itself write an adapter of random numbers for the tiny model."""

    def save(**settings: Any) -> Path:
        torch.manual_seed(0)
        settings = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | settings
        model = get_peft_model(copy.deepcopy(tiny_model.model), LoraConfig(**settings))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(tmp_path / "saved")
        return tmp_path / "saved"

    return save


def read(folder: Path) -> Any:
    found = read_config((folder / "adapter_config.json").read_bytes(), what="the configuration")
    return read_adapter((folder / "adapter_model.safetensors").read_bytes(), found, what="the adapter")


@pytest.mark.parametrize("use_rslora", [False, True])
def test_what_peft_writes_is_read_and_means_the_same(
    use_rslora: bool, save_with_peft: Callable[..., Path], tiny_model: LoadedModel, tmp_path: Path
) -> None:
    folder = save_with_peft(lora_alpha=3, use_rslora=use_rslora, lora_dropout=0.05, init_lora_weights="gaussian")
    adapter = read(folder)
    assert (adapter.config.rank, adapter.config.alpha) == (2, pytest.approx(3 * 2**0.5 if use_rslora else 3.0))
    assert adapter.data == (folder / "adapter_model.safetensors").read_bytes()
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "adapter_model.safetensors").write_bytes(adapter.data)
    rebuilt = LoraConfig(
        r=2, lora_alpha=adapter.config.alpha, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    rebuilt.save_pretrained(str(ours))
    ids = torch.tensor([[5, 6, 7]])
    logits = [
        PeftModel.from_pretrained(copy.deepcopy(tiny_model.model), str(path))(input_ids=ids).logits
        for path in (folder, ours)
    ]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(logits[0], tiny_model.model(input_ids=ids).logits)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "lora_only"},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"layer_replication": [(0, 2), (1, 3)]},
        {"init_lora_weights": "olora"},
        {"trainable_token_indices": [1]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_peft_writes_otherwise_is_refused(settings: dict[str, Any], save_with_peft: Callable[..., Path]) -> None:
    with pytest.raises(IntegrityError, match=f"the configuration has '{next(iter(settings))}'"):
        read(save_with_peft(**settings))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is malformed"),
        (b"[]", "it is no JSON object"),
        (b"[" * 100_000, "is malformed"),
        (b"\xff\xfe", "is malformed"),
        (b'{"r": 2, "r": 4}', "the key 'r' occurs twice"),
        (b"{}", "it says no peft_type"),
        (config(peft_type="IA3"), "has 'peft_type': 'IA3'"),
        (config(task_type="SEQ_CLS"), "has 'task_type': 'SEQ_CLS'"),
        (config(r=0), "has the rank 0; from 1 to 4096"),
        (config(r=10**9), "has the rank 1000000000"),
        (config(r=True), "has the rank True"),
        (config(r="2"), "has the rank '2'"),
        (config(lora_alpha=1e9), r"has the lora_alpha 1000000000.0 at rank 2, which would scale the adapter by 5e\+08"),
        (config(lora_alpha=-1), "would scale the adapter by -0.5"),
        (config(lora_alpha=0), "would scale the adapter by 0; over 0"),
        (config(lora_alpha=float("nan")), "has the lora_alpha nan, which is no number"),
        (config(lora_alpha=10**400), "which is no number"),
        (config(lora_alpha="4"), "which is no number"),
        (config(use_rslora="yes"), "has use_rslora: 'yes'"),
        (config(base_model_name_or_path=["x"]), r"has base_model_name_or_path: \['x'\], which is no text"),
        (config(modules_to_save=["lm_head"]), r"has 'modules_to_save': \['lm_head'\]"),
        (config(lora_bias=True), "has 'lora_bias': True"),
        (config(fan_in_fan_out=True), "has 'fan_in_fan_out': True"),
        (config(auto_map={"AutoModel": "x.py"}), "has 'auto_map': {'AutoModel': 'x.py'}"),
        (config(**{"x\x1b[2J": 1}), r"has 'x\\x1b\[2J': 1"),
    ],
)
def test_configurations_that_mean_something_else_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError, match=message) as caught:
        read_config(data, what="the configuration")
    assert caught.value.message.isprintable()


def test_patterns_are_never_evaluated_and_settings_that_are_off_are_passed_over() -> None:
    found = read_config(
        config(
            target_modules="(a+)+$" * 50,
            layers_pattern="(x|x)*",
            layers_to_transform=[1],
            exclude_modules=".*",
            some_new_thing=None,
            another_one=False,
            a_third={},
        ),
        what="the configuration",
    )
    assert found == PeftConfig(rank=2, alpha=4.0, base_model=None, revision=None)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    halves = {name: value.astype(np.float16) for name, value in tensors(numbers()).items()}
    adapter = read_adapter(save_numpy(halves), CONFIG, what="the adapter")
    assert (adapter.layout, adapter.digest) == (LAYOUT, sha256_hex(adapter.data))
    assert adapter.layout == read_layout(adapter.data)
    for spec in LAYOUT.tensors:
        start = spec.offset_elements
        vector = np.frombuffer(LAYOUT.body(adapter.data), dtype=np.float32)
        np.testing.assert_array_equal(vector[start : start + spec.elements], halves[spec.name].ravel().astype("f4"))


def test_bfloat16_stays_and_mixed_dtypes_become_float32(tmp_path: Path) -> None:
    wide = {name: torch.from_numpy(value) for name, value in tensors(numbers()).items()}
    narrow = {name: value.bfloat16() for name, value in wide.items()}
    mixed = {name: narrow[name] if "lora_A" in name else value for name, value in wide.items()}
    for number, (found, dtype) in enumerate([(wide, "float32"), (narrow, "bfloat16"), (mixed, "float32")]):
        file = tmp_path / f"{number}.safetensors"
        save_file(found, file, metadata={"made": "elsewhere"})
        adapter = read_adapter(file.read_bytes(), CONFIG, what="the adapter")
        assert adapter.layout.dtype == dtype
        (tmp_path / "ours.safetensors").write_bytes(adapter.data)
        for name, value in load_file(tmp_path / "ours.safetensors").items():
            assert torch.equal(value.float(), found[name].float())


def changed(**tensors_of: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {**tensors(numbers()), **tensors_of}


UP = "base_model.model.model.layers.1.mlp.up_proj"
NOTHING = {name: np.zeros_like(value) if "lora_B" in name else value for name, value in tensors(numbers()).items()}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({**tensors(numbers()), "base_model.model.lm_head.weight": np.ones((4, 4), "f4")}, "which is no LoRA weight"),
        ({**tensors(numbers()), f"{UP}.base_layer.weight": np.ones((64, 32), "f4")}, "which is no LoRA weight"),
        ({**tensors(numbers()), f"{UP}.lora_magnitude_vector": np.ones(64, "f4")}, "which is no LoRA weight"),
        ({**tensors(numbers()), "../../etc/passwd": np.ones(1, "f4")}, "which is no LoRA weight"),
        ({f"{UP}.lora_A.weight": np.ones((2, 32), "f4")}, "has only one of A and B"),
        ({**tensors(numbers()), f"{UP}.lora_A.weight": np.ones((3, 32), "f4")}, "must have one rank"),
        ({**tensors(numbers()), f"{UP}.lora_A.weight": np.ones((2, 32), "f8")}, "of dtype 'F64'"),
        ({**tensors(numbers()), f"{UP}.lora_A.weight": np.ones((2, 32), "u1")}, "of dtype U8, which is none of"),
        ({**tensors(numbers()), f"{UP}.lora_A.weight": np.full((2, 32), np.nan, "f4")}, "is not finite"),
        ({**tensors(numbers()), f"{UP}.lora_A.weight": np.full((2, 32), np.inf, "f2")}, "is not finite"),
        (NOTHING, "every B is zero"),
        ({}, "no adapter has rank|must have one rank"),
    ],
)
def test_tensors_that_do_something_else_are_refused(found: Mapping[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        read_adapter(save_numpy(dict(found)), CONFIG, what="the adapter")


def test_files_that_are_cut_off_or_of_another_rank_are_refused() -> None:
    data = save_numpy(tensors(numbers()))
    for wrong in (data[:-1], data + b"\0", data[:50], data[:5], b"", (2**60).to_bytes(8, "little") + b"{}"):
        with pytest.raises(IntegrityError, match="the adapter"):
            read_adapter(wrong, CONFIG, what="the adapter")
    with pytest.raises(IntegrityError, match="the adapter has rank 2, and its configuration says 4"):
        read_adapter(data, PeftConfig(4, 4.0, None, None), what="the file")
