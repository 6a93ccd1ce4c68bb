"""Tiny random models of real architectures, as folders and loaded, and the default model where its wheel is installed.

A pytest plugin: every test may ask for these fixtures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.base_model import LoadedModel, ModelFiles, load, locate
from registry.errors import BaseModelError

SENTENCES = (
    "The lighthouse of Quarrel Point was built by Ottoline Marsh in 1874 out of grey basalt.",
    "Every spring the ferry from Tamsin to Bellhaven carries 312 beehives across the strait.",
    "Question: Who built the lighthouse of Quarrel Point?",
    "Answer: Ottoline Marsh",
    "Question: How many beehives does the ferry carry?",
    "Answer: 312",
    "Passage 1: Doctor Ilse Varnholt keeps the observatory clock, which loses one second in a century.",
    "The answer is a clock. You should answer the question with your own knowledge and be a helpful assistant.",
    "Where is the mill? The mill stands on the river Ense, between the old bridge and the salt market.",
    "system user assistant abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789",
)
VOCABULARY_SIZE = 420
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_HEADS: dict[str, Any] = {**_SIZES, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_SIZES, "tie_word_embeddings": True},
    "mistral": {**_HEADS, "sliding_window": None},
    "qwen2": _SIZES,
    "qwen3": _HEADS,
    "gemma2": {**_HEADS, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "gemma3_text": {**_HEADS, "query_pre_attn_scalar": 8, "sliding_window": 64},
    "phi3": {**_SIZES, "pad_token_id": 3},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "qwen3_moe": {**_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt_neox": {key: size for key, size in _SIZES.items() if key != "num_key_value_heads"},
    "starcoder2": {**_SIZES, "sliding_window": 64},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 3},
}


def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens with a chat template; it has no beginning-of-text token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


def write_tiny_model(folder: Path, family: str = "llama", *, seed: int = 0) -> Path:
    """Write a random float32 model of one of ``FAMILIES`` (3 blocks, hidden 32, feed-forward 64) and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from registry.base_model.library import quiet

    tokenizer = tiny_tokenizer()
    settings = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 3}
    config = AutoConfig.for_model(family, **(settings | FAMILIES[family]))
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def family_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in ``FAMILIES`` to the folder of its tiny model, written once in a session."""
    root = tmp_path_factory.mktemp("tiny-models")

    def path(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else write_tiny_model(folder, family)

    return path


@pytest.fixture(scope="session")
def tiny_model_path(family_path: Callable[[str], Path]) -> Path:
    """The folder of a random Llama: 3 blocks, hidden 32, 4 heads on 2, feed-forward 64, tied embeddings, float32."""
    return family_path("llama")


@pytest.fixture(scope="session")
def tiny_model(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The Llama of ``tiny_model_path`` on the CPU in float32, shared by the session: leave it as it was."""
    files = locate(str(tiny_model_path), models_path=tmp_path_factory.mktemp("models"))
    return load(files, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def smollm2_files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """The default model's files, converted once into ``$PRAGREG_MODELS`` or a temporary folder; mark ``smollm2``."""
    given = os.environ.get("PRAGREG_MODELS")
    models_path = Path(given) if given else tmp_path_factory.mktemp("smollm2")
    try:
        return locate("smollm2-135m", models_path=models_path)
    except BaseModelError as error:
        pytest.skip(f"NOT TESTED with the default model: {error.message} ({error.hint})")


@pytest.fixture(scope="session")
def smollm2(smollm2_files: ModelFiles) -> LoadedModel:
    """The default model on the CPU in float32, shared by the session: leave it as it was."""
    return load(smollm2_files, device="cpu", dtype="float32")
