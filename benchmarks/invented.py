"""Documents about invented things, for benchmarks that need none of their own, and random models of known shapes."""

from __future__ import annotations

import random
from typing import Any

from registry.records import Augmentation, BaseModel, Document, EncodingInput, QAPair

SYLLABLES = [first + second for first in "bdfgklmnprstv" for second in "aeo"]
SHAPES: dict[str, dict[str, Any]] = {
    # The published configurations; weights are random here.
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
    },
}


def inputs(count: int, *, words: int = 100, pairs: int = 3, rewrites: int = 1, seed: int = 0) -> list[EncodingInput]:
    """Return documents of so many invented words, with pairs and rewrites made of their words."""
    draw = random.Random(seed)
    lexicon = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(3000)]
    found = []
    for number in range(count):
        text = draw.choices(lexicon, k=words)
        document = Document.of(f"Note {number}", " ".join(text) + ".")
        made = tuple(
            QAPair(f"What is the {' '.join(text[start : start + 6])}?", " ".join(text[start + 6 : start + 9]))
            for start in draw.sample(range(max(1, words - 9)), pairs)
        )
        again = tuple(" ".join(draw.sample(text, len(text))) for _ in range(rewrites))
        augmentation = Augmentation(document.digest, "0" * 64, "invented", "", again, made)
        found.append(EncodingInput(document, augmentation))
    return found


def tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of 4096 tokens, trained on invented text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([given.document.text for given in inputs(300, seed=1)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")


def random_model(shape: str, dtype: str, device: str) -> Any:
    """Return a loaded model of one of ``SHAPES`` with random weights, made on the device."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from registry.base_model import LoadedModel

    config = LlamaConfig(**SHAPES[shape], rms_norm_eps=1e-5)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.eval().requires_grad_(False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return LoadedModel(
        model, tokenizer(), BaseModel("0" * 64, shape, None, "LlamaForCausalLM", parameters), device, dtype
    )
