"""A PEFT adapter made by anyone, taken apart and written anew as we write adapters.

Of ``adapter_config.json`` an allow-list of keys is understood, and everything that would change what the tensors mean
is refused; which modules are adapted is what the tensors say, and patterns are never evaluated. Of
``adapter_model.safetensors`` every entry of the header is checked; anything but LoRA weights would overwrite the base
model where PEFT loads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, TypeGuard

import numpy as np

from registry.digests import sha256_hex
from registry.errors import IntegrityError
from registry.store.headers import FOREIGN_ITEM_BYTES, Entry, header_size, parse_header
from registry.store.layout import MAX_HEADER_BYTES, AdapterLayout, check_body, lora_modules

MAX_RANK = 4096
MAX_SCALE = 1000.0
"""The largest alpha / rank: what goes beyond drowns the base model, and no training that anyone published needs it."""

_EMPTY: tuple[object, ...] = (None, False, [], {})
_IGNORED = frozenset(
    {"auto_mapping", "peft_version", "inference_mode", "megatron_core", "qalora_group_size", "ephemeral_gpu_offload"}
    # How it was trained, or which modules were chosen, which the tensors say.
    | {"lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "runtime_config"}
    | {"merge_weights", "eva_config", "ensure_weight_tying"}
)
"""Settings that do not change what a finished adapter's tensors mean."""
_READ = frozenset({"r", "lora_alpha", "use_rslora", "base_model_name_or_path", "revision"})


def _only(*accepted: object) -> Callable[[object], bool]:
    return lambda value: any(type(value) is type(one) and value == one for one in accepted)


_ACCEPTED: Mapping[str, Callable[[object], bool]] = {
    "peft_type": _only("LORA"),
    "task_type": _only("CAUSAL_LM", None),
    "bias": _only("none", None),
    # The others begin with a base model whose weights were changed.
    "init_lora_weights": _only(True, False, "gaussian", "eva", "orthogonal", None),
}


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """What an ``adapter_config.json`` says. ``alpha`` means alpha / rank, whatever way of scaling it was made for."""

    rank: int
    alpha: float
    base_model: str | None
    revision: str | None


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter as it is stored: ``data`` is its ``adapter_model.safetensors``, of ``layout``."""

    digest: str
    config: PeftConfig
    layout: AdapterLayout
    data: bytes


def read_config(data: bytes, *, what: str) -> PeftConfig:
    """Return what a configuration says; ``what`` names it in messages.

    Raises:
        IntegrityError: it is malformed, or has a setting that would change what the tensors mean.
    """
    settings = _json_object(data, what)
    for name, value in settings.items():
        if name in _IGNORED or name in _READ:
            continue
        accepts = _ACCEPTED.get(name, _only(*_EMPTY))
        if not accepts(value):
            raise IntegrityError(f"{what} has {_shown(name)}: {_shown(value)}, which is not supported")
    rank, alpha, rooted = settings.get("r"), settings.get("lora_alpha"), settings.get("use_rslora")
    if settings.get("peft_type") != "LORA":
        raise IntegrityError(f"{what} is of no LoRA adapter: it says no peft_type")
    if type(rank) is not int or not 0 < rank <= MAX_RANK:
        raise IntegrityError(f"{what} has the rank {_shown(rank)}; from 1 to {MAX_RANK} are accepted")
    if rooted not in (None, False, True):
        raise IntegrityError(f"{what} has use_rslora: {_shown(rooted)}")
    if not _is_number(alpha):
        raise IntegrityError(f"{what} has the lora_alpha {_shown(alpha)}, which is no number")
    # With use_rslora the scale is alpha / sqrt(r).
    alpha = float(alpha) * sqrt(rank) if rooted else float(alpha)
    if not 0 < alpha / rank <= MAX_SCALE:
        raise IntegrityError(
            f"{what} has the lora_alpha {_shown(settings['lora_alpha'])} at rank {rank}, which would scale the adapter "
            f"by {alpha / rank:g}; over 0 and up to {MAX_SCALE:g} are accepted"
        )
    return PeftConfig(rank, alpha, _text(settings, "base_model_name_or_path", what), _text(settings, "revision", what))


def read_adapter(data: bytes, config: PeftConfig, *, what: str) -> PeftAdapter:
    """Return an adapter in our layout; half precision becomes float32, which holds the same numbers.

    Raises:
        IntegrityError: the file is malformed, holds anything but LoRA weights of linear modules, or does nothing.
    """
    size_bytes = header_size(data[:8], limit=MAX_HEADER_BYTES, what=what)
    header = parse_header(data[:size_bytes], what=what, item_bytes=FOREIGN_ITEM_BYTES)
    if len(data) != size_bytes + header.body_bytes:
        raise IntegrityError(f"{what} has {len(data)} bytes; its header describes {size_bytes + header.body_bytes}")
    try:
        shapes, rank = lora_modules(header)
        if rank != config.rank:
            raise IntegrityError(f"the adapter has rank {rank}, and its configuration says {config.rank}")
        dtypes = {entry.dtype for entry in header.entries}
        layout = AdapterLayout.of(shapes, rank, "bfloat16" if dtypes == {"BF16"} else "float32")
        body = _body(memoryview(data)[size_bytes:], {entry.name: entry for entry in header.entries}, layout)
        check_body(layout, body.data)
    except (IntegrityError, ValueError) as error:
        raise IntegrityError(f"{what} is refused: {error}") from error
    serialised = layout.serialise(body.data)
    return PeftAdapter(sha256_hex(serialised), config, layout, serialised)


def _body(data: memoryview, entries: Mapping[str, Entry], layout: AdapterLayout) -> np.ndarray[Any, Any]:
    """Return the flat vector of a layout from tensors in any order."""
    numbers = np.empty(layout.elements, dtype="<u2" if layout.dtype == "bfloat16" else "<f4")
    for spec in layout.tensors:
        entry = entries[spec.name]
        numbers[spec.offset_elements : spec.offset_elements + spec.elements] = _numbers(
            data[entry.begin : entry.end], entry.dtype, wide=layout.dtype == "float32"
        )
    return numbers


def _numbers(data: memoryview, dtype: str, *, wide: bool) -> np.ndarray[Any, Any]:
    if dtype == "BF16":
        halves = np.frombuffer(data, dtype="<u2")
        # bfloat16 is the upper half of float32.
        return (halves.astype("<u4") << 16).view("<f4") if wide else halves
    if dtype not in ("F32", "F16"):
        raise IntegrityError(f"its numbers are of dtype {dtype}, which is none of F32, BF16 and F16")
    return np.frombuffer(data, dtype="<f4" if dtype == "F32" else "<f2")


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        settings = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is malformed: {error}") from error
    if not isinstance(settings, dict):
        raise IntegrityError(f"{what} is malformed: it is no JSON object")
    return settings


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in pairs:
        if name in settings:
            raise ValueError(f"the key {_shown(name)} occurs twice")
        settings[name] = value
    return settings


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) in (int, float) and abs(value) < 1e12 and isfinite(value)  # type: ignore[arg-type]


def _text(settings: Mapping[str, Any], name: str, what: str) -> str | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, str):
        raise IntegrityError(f"{what} has {name}: {_shown(value)}, which is no text")
    return value


def _shown(value: object) -> str:
    """Return a value from elsewhere as it is shown: on one line, without control characters, and not long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
