"""A base model in memory, frozen and ready to compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.base_model.devices import choose_device, choose_dtype
from registry.base_model.identity import fingerprint
from registry.base_model.library import reading, require_all_weights
from registry.records import BaseModel

if TYPE_CHECKING:
    from torch import nn

    from registry.base_model.location import ModelFiles


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal LM in evaluation mode whose parameters take no gradient, and its tokenizer.

    ``device`` is "cpu", "cuda", "cuda:1" or "mps", ``dtype`` "float32" or "bfloat16"; all parameters have them.
    """

    model: Any
    tokenizer: Any
    base_model: BaseModel
    device: str
    dtype: str


def load_tokenizer(files: ModelFiles) -> Any:
    """Load a located model's tokenizer alone.

    Raises:
        BaseModelError: its files are malformed.
    """
    with reading(
        f"the tokenizer of base model {files.reference} cannot be loaded", hint="check that its files are whole"
    ):
        return _load_tokenizer(files)


def load(files: ModelFiles, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a located model onto ``device`` in ``dtype`` ("auto" chooses by measuring).

    Raises:
        BaseModelError: transformers has no such architecture (code from the model's folder is never run), the files
            are malformed, or it does not fit into memory.
        UsageError: the device or dtype is unknown or not available.
    """
    base_model = fingerprint(files)
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    hint = "check that its files are whole; it must be a causal language model that transformers knows by itself"
    with reading(f"base model {files.reference} cannot be loaded", hint=hint):
        tokenizer = _load_tokenizer(files)
        model = _load_model(files, dtype).to(device)
    model.eval()
    model.requires_grad_(False)
    return LoadedModel(model=model, tokenizer=tokenizer, base_model=base_model, device=device, dtype=dtype)


def _load_model(files: ModelFiles, dtype: str) -> nn.Module:
    """Load by safetensors only; transformers takes PyTorch's fused attention unless the scores are capped (Gemma 2)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError("its weights are quantised; name the model in full precision, or a GGUF file")
    model, report = AutoModelForCausalLM.from_pretrained(
        files.folder,
        config=config,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # to be told which, and refuse them below
        output_loading_info=True,
    )
    require_all_weights(report)
    loaded: nn.Module = model
    return loaded


def _load_tokenizer(files: ModelFiles) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ValueError("its tokenizer has no end-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
