"""The shapes of linear modules by the headers of the weights' files, without torch.

Setting a model up, even without its weights, takes the seconds that the import of torch and transformers takes.
Families whose weights are named as their modules are can do without.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.base_model.architecture import shapes_from_config
from registry.base_model.hub import DAMAGED_HINT, weight_files
from registry.errors import BaseModelError

MAX_HEADER_BYTES = 100_000_000

PLAIN_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"})
"""Values of ``model_type`` of models whose every matrix in ``model.layers.N.`` is the weight of a linear module."""
_PLAIN_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
_BLOCKS = "model.layers"


def target_shapes(folder: Path, targets: Sequence[str], first_layer: int = 0) -> dict[str, tuple[int, int]]:
    """Return what ``shapes_from_config`` returns of a model's folder; by its weights' headers where names allow it.

    Raises:
        BaseModelError: as ``shapes_from_config``, or the weights cannot be read.
        UsageError: ``first_layer`` is beyond the last block.
    """
    found = _plain_shapes(folder, targets, first_layer)
    return shapes_from_config(folder, targets, first_layer) if found is None else found


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a safetensors file by its name, from the header alone.

    Raises:
        BaseModelError: it is no safetensors file.
        OSError: it cannot be read.
    """
    return {name: tuple(entry["shape"]) for name, entry in _tensors(path).items()}


def _plain_shapes(folder: Path, targets: Sequence[str], first_layer: int) -> dict[str, tuple[int, int]] | None:
    """Return the shapes by the weights' names, None wherever anything is not as in ``PLAIN_FAMILIES``."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if config["model_type"] not in PLAIN_FAMILIES or "quantization_config" in config:
            return None
        count = config["num_hidden_layers"]
        weights = {name: entry for path in weight_files(folder) for name, entry in _tensors(path).items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    blocks = _blocks(weights)
    if sorted(blocks) != list(range(count)) or first_layer >= count:
        return None
    shapes: dict[str, tuple[int, int]] = {}
    for number in range(first_layer, count):
        for target in targets:
            matching = [path for path in blocks[number] if path == target or path.endswith(f".{target}")]
            if len(matching) != 1:
                return None
            entry = blocks[number][matching[0]]
            if len(entry["shape"]) != 2 or entry["dtype"] not in _PLAIN_DTYPES:
                return None
            outputs, inputs = entry["shape"]
            shapes[f"{_BLOCKS}.{number}.{matching[0]}"] = (outputs, inputs)
    return shapes


def _blocks(weights: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the matrices of every block by the path of their module in the block."""
    blocks: dict[int, dict[str, Any]] = {}
    for name, entry in weights.items():
        number, _, path = name.removeprefix(f"{_BLOCKS}.").partition(".")
        if name.startswith(f"{_BLOCKS}.") and number.isdecimal():
            block = blocks.setdefault(int(number), {})
            if path.endswith(".weight"):
                block[path.removesuffix(".weight")] = entry
    return blocks


def _tensors(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if not all(isinstance(entry["shape"], list) for entry in tensors.values()):
            raise ValueError("a tensor without a shape")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BaseModelError(f"{path} is not a safetensors file: {error}", hint=DAMAGED_HINT) from error
    return tensors
