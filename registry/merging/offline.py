"""Merging adapters once and for all: by any of PEFT's methods, into a PEFT folder or into the base model itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from registry.base_model import LoadedModel
from registry.base_model.library import quiet
from registry.digests import sha256_hex
from registry.errors import IntegrityError, UsageError
from registry.merging.export import lora_config, write_adapter
from registry.merging.folders import new_folder
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout, check_body

Method = Literal[
    "cat",
    "linear",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]
METHODS: tuple[Method, ...] = get_args(Method)
"""PEFT's names. ``cat`` is the exact sum (rank n r); ``svd`` its best approximation of a smaller rank; the others keep
the rank and trim, vote on or average A and B (``*_svd``: B A) instead of summing products. The svd ones decompose every
module's full matrix, which takes half a minute for SmolLM2 on one core; the others take seconds."""

DEFAULT_DENSITY = 0.5
MERGED = "merged"


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """How to merge.

    ``density`` is the share of entries that pruning methods keep, over 0 and up to 1 (None: ``DEFAULT_DENSITY``);
    ``svd_rank`` the rank that svd methods end with (None: the adapters'); ``seed`` decides what dare drops.
    """

    method: Method = "cat"
    density: float | None = None
    svd_rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that do not fit together."""
        if self.method not in METHODS:
            raise UsageError(f"there is no merge method {self.method!r}", hint=f"use one of: {', '.join(METHODS)}")
        if self.density is not None and not (self.prunes and 0 < self.density <= 1):
            why = f"{self.density} is not over 0 and up to 1" if self.prunes else f"{self.method} prunes nothing"
            raise UsageError(
                f"the density cannot be used: {why}",
                hint="give --density a share such as 0.5, and only to ties, dare and magnitude_prune methods",
            )
        if self.svd_rank is not None and not (self.method.endswith("svd") and self.svd_rank > 0):
            raise UsageError(f"rank {self.svd_rank} cannot be asked of method {self.method}", hint="use an svd method")

    @property
    def prunes(self) -> bool:
        """Whether the method leaves entries out."""
        return self.method.startswith(("ties", "dare", "magnitude_prune"))


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged adapter: ``data`` is its ``adapter_model.safetensors``, of ``layout``, to be used with scale 1."""

    layout: AdapterLayout
    data: bytes
    config: LoraConfig


def merge_offline(
    loaded: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    adapters: Mapping[str, bytes | memoryview],
    weights: Sequence[float],
    folder: Path,
    settings: MergeSettings = MergeSettings(),
) -> Merged:
    """Merge adapters and write the result as a PEFT folder, which is loaded once to see that it has an effect.

    Args:
        loaded: the recipe's base model, without adapter slots; it is left as it was.
        recipe: the one that all adapters were encoded with.
        layout: theirs.
        adapters: ``adapter_model.safetensors`` by digest, in the order of the weights.
        weights: one for each adapter.
        folder: does not exist, or is empty.
        settings: method and its numbers.

    Raises:
        UsageError: there is nothing to merge, not a weight for each, or the merge cancels itself out.
        IntegrityError: an adapter is not of the layout, or the folder's model computes what the base model computes.
        StorageError: the folder cannot be written.
    """
    with new_folder(folder) as partial:
        merged = merge_adapters(loaded, recipe, layout, adapters, weights, settings)
        about = {"adapter": f"sha256:{sha256_hex(merged.data)}", **_lineage(recipe, adapters, weights, settings)}
        write_adapter(partial, merged.data, merged.config, loaded.base_model, about)
        _check_effect(loaded, partial)
    return merged


def merge_into_base(
    loaded: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    adapters: Mapping[str, bytes | memoryview],
    weights: Sequence[float],
    folder: Path,
    settings: MergeSettings = MergeSettings(),
) -> None:
    """Merge adapters and write the base model with W + B A in place of W, for ``AutoModelForCausalLM``.

    The folder holds safetensors in the dtype that the model was loaded in, config and tokenizer. Arguments and errors
    are those of :func:`merge_offline`; the loaded model itself is not changed.
    """
    with new_folder(folder) as partial:
        merged = merge_adapters(loaded, recipe, layout, adapters, weights, settings)
        state = loaded.model.state_dict()
        changed = False
        for module, delta in _deltas(merged):
            old = state[f"{module}.weight"]
            new = (old.float() + delta.to(old.device)).to(old.dtype)
            changed = changed or not torch.equal(old, new)
            state[f"{module}.weight"] = new
        if not changed:
            raise UsageError(
                f"the merged adapter is too small to change the base model in {loaded.dtype}",
                hint="give larger --weights",
            )
        with quiet():
            loaded.model.save_pretrained(partial, state_dict=state)
            loaded.tokenizer.save_pretrained(partial)
        for weights_file in partial.glob("*.safetensors"):  # written for their owner alone
            weights_file.chmod((partial / "config.json").stat().st_mode)


def merge_adapters(
    loaded: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    adapters: Mapping[str, bytes | memoryview],
    weights: Sequence[float],
    settings: MergeSettings,
) -> Merged:
    """Merge adapters in float32 through PEFT's ``add_weighted_adapter``; see :func:`merge_offline`."""
    if not adapters or len(adapters) != len(weights):
        raise UsageError(f"{len(adapters)} adapters cannot be merged with {len(weights)} weights")
    # Not "0", "1": PEFT's filter of keys takes such names for the numbers of layers and drops the tensors.
    names = [f"document_{index}" for index in range(len(adapters))]
    config = lora_config(layout, recipe.alpha, loaded.base_model)
    with _own_randomness(loaded), _peft_model(loaded.model, config, names) as model:
        for name, data in zip(names, adapters.values(), strict=True):
            _put(model, name, layout, layout.body(data))
        density = (settings.density or DEFAULT_DENSITY) if settings.prunes else None
        torch.manual_seed(settings.seed)
        model.base_model.add_weighted_adapter(
            names,
            list(weights),
            MERGED,
            combination_type=settings.method,
            svd_rank=settings.svd_rank,
            svd_full_matrices=False,
            density=density,
        )
        tensors = get_peft_model_state_dict(model, adapter_name=MERGED, save_embedding_layers=False)
        rank = model.peft_config[MERGED].r
    result = AdapterLayout.of(layout.shapes, rank, "float32")
    body = torch.cat([tensors[spec.name].detach().float().cpu().flatten() for spec in result.tensors]).numpy()
    try:
        check_body(result, body.data)
    except IntegrityError as error:
        raise UsageError(
            f"the merge by {settings.method} cannot be used: {error.message}",
            hint="choose other --weights or another --method",
        ) from error
    return Merged(result, result.serialise(body.data), lora_config(result, rank, loaded.base_model))


def _own_randomness(loaded: LoadedModel) -> AbstractContextManager[None]:
    """Leave the process' random numbers as they were: PEFT starts every adapter at random, and dare draws."""
    return torch.random.fork_rng(devices=[loaded.device] if loaded.device.startswith("cuda") else [])


@contextmanager
def _peft_model(base: Any, config: LoraConfig, names: Sequence[str]) -> Iterator[Any]:
    """Attach an adapter of each name to ``base``, and take all of them off again."""
    with _unbothered():
        model = PeftModel(base, config, adapter_name=names[0])
    try:
        for name in names[1:]:
            model.add_adapter(name, config)
        yield model
    finally:
        model.unload()


@contextmanager
def _unbothered() -> Iterator[None]:
    """Keep from the user that PEFT asks transformers for something under its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def _put(model: Any, name: str, layout: AdapterLayout, body: memoryview) -> None:
    vector = torch.frombuffer(bytearray(body), dtype=getattr(torch, layout.dtype))
    tensors = {
        spec.name: vector[spec.offset_elements : spec.offset_elements + spec.elements].view(spec.shape)
        for spec in layout.tensors
    }
    report = set_peft_model_state_dict(model, tensors, adapter_name=name)
    if report.unexpected_keys:
        raise IntegrityError(f"the base model has no place for {report.unexpected_keys[0]!r} of an adapter")


def _deltas(merged: Merged) -> Iterator[tuple[str, Tensor]]:
    """Yield the path of every module and its B A ``[out, in]`` float32."""
    vector = torch.from_numpy(np.frombuffer(merged.layout.body(merged.data), dtype=np.float32).copy())
    for module, (a, b) in merged.layout.modules.items():
        a_values = vector[a.offset_elements : a.offset_elements + a.elements].view(a.shape)
        b_values = vector[b.offset_elements : b.offset_elements + b.elements].view(b.shape)
        yield module, b_values @ a_values


def _lineage(
    recipe: Recipe, adapters: Mapping[str, bytes | memoryview], weights: Sequence[float], settings: MergeSettings
) -> dict[str, str]:
    parts = (f"sha256:{digest} x {weight:g}" for digest, weight in zip(adapters, weights, strict=True))
    facts = {"recipe": f"sha256:{recipe.digest}", "merged from": ", ".join(parts), "method": settings.method}
    if settings.prunes:
        facts["density"] = f"{settings.density or DEFAULT_DENSITY:g}"
        facts["seed"] = str(settings.seed)
    return facts


@torch.no_grad()
def _check_effect(loaded: LoadedModel, folder: Path) -> None:
    """Load a PEFT folder as others will, and compare the logits of a token with the base model's."""
    ids = torch.tensor([[loaded.tokenizer.eos_token_id]], device=loaded.device)
    before = loaded.model(input_ids=ids).logits
    with _unbothered(), _own_randomness(loaded):
        model = PeftModel.from_pretrained(loaded.model, str(folder), adapter_name=MERGED)
    try:
        after = model(input_ids=ids).logits
    finally:
        model.unload()
    if torch.equal(before, after):
        raise IntegrityError("the merged adapter was written, but the model that loads it answers as without it")
