"""What a model is made of: the linear modules that adapters attach to, and everything that multiplies a token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.base_model.library import reading
from registry.errors import BaseModelError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from registry.base_model.location import ModelFiles


@dataclass(frozen=True, slots=True)
class Matrices:
    """All that a token is multiplied by on its way through a model, each matrix as (out, in).

    ``blocks`` are in their order, ``head`` is the output embedding, which counts even where it is tied to the input's:
    that one is looked up and multiplies nothing. Norms and biases are vectors and do not count. Of experts as many
    count as a token is sent to.
    """

    blocks: tuple[tuple[tuple[int, int], ...], ...]
    head: tuple[int, int]

    @property
    def parameters(self) -> int:
        """Numbers that multiply a token."""
        return self.below(len(self.blocks)) + self.head[0] * self.head[1]

    def below(self, first_layer: int) -> int:
        """Return how many of them are in the blocks below ``first_layer``."""
        return sum(outputs * inputs for block in self.blocks[:first_layer] for outputs, inputs in block)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(out, in, how many there are) of every shape, the head's last."""
        counted = Counter(shape for block in self.blocks for shape in block)
        return [(*shape, count) for shape, count in counted.items()] + [(*self.head, 1)]


def block_count(model: Any) -> int:
    """Return the number of transformer blocks.

    Raises:
        BaseModelError: the model is not a stack of blocks.
    """
    return len(_blocks(model)[1])


def block_count_of(files: ModelFiles) -> int:
    """Return the number of transformer blocks by the model's config.json alone, without torch.

    Raises:
        BaseModelError: the configuration does not say.
    """
    try:
        config = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
        own = config.get("text_config", config)
        return int(own.get("num_hidden_layers") or own["n_layer"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BaseModelError(
            f"the config.json of {files.reference} does not say how many blocks it has",
            hint="use a decoder-only model, such as Llama, Qwen, Mistral or Gemma",
        ) from error


def linear_shapes(model: Any, targets: Sequence[str], first_layer: int = 0) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every target linear module, by its path in ``model`` as PEFT names it.

    Ordered by block, then as in ``targets``. Works by the modules' names (``gate_proj``, ...), so for Llama, Qwen2 and
    3, Mistral, Gemma and whatever else has such modules; a model on the meta device will do.

    Raises:
        BaseModelError: a block lacks a target, or has it inside experts; the message names the modules found.
        UsageError: ``first_layer`` is beyond the last block.
    """
    prefix, blocks = _blocks(model)
    if first_layer >= len(blocks):
        raise UsageError(
            f"first_layer is {first_layer}, but the base model has {len(blocks)} blocks",
            hint=f"set first_layer below {len(blocks)}",
        )
    shapes: dict[str, tuple[int, int]] = {}
    for number, block in enumerate(blocks[first_layer:], first_layer):
        for target in targets:
            path, module = _find(model, block, target)
            shapes[f"{prefix}.{number}.{path}"] = (module.out_features, module.in_features)
    return shapes


def shapes_from_config(folder: Path, targets: Sequence[str], first_layer: int = 0) -> dict[str, tuple[int, int]]:
    """Return :func:`linear_shapes` of the model in a folder by its config.json alone; no weights are read.

    Raises:
        BaseModelError: as :func:`linear_shapes`, or transformers has no such architecture.
        UsageError: ``first_layer`` is beyond the last block.
    """
    return linear_shapes(_without_weights(folder), targets, first_layer)


def matrices_from_config(folder: Path) -> Matrices:
    """Return the matrices of the model in a folder by its config.json alone; no weights are read.

    Raises:
        BaseModelError: the model is not a stack of blocks, or transformers has no such architecture.
    """
    model = _without_weights(folder)
    routes = getattr(model.config.get_text_config(), "num_experts_per_tok", None) or 0
    _, blocks = _blocks(model)
    return Matrices(
        blocks=tuple(tuple(_multiplying(block, routes)) for block in blocks),
        head=tuple(model.get_output_embeddings().weight.shape),
    )


def _multiplying(block: nn.Module, routes: int) -> Iterator[tuple[int, int]]:
    for parameter in block.parameters():
        if parameter.ndim == 2:
            yield parameter.shape[0], parameter.shape[1]
        elif parameter.ndim == 3:  # experts, [experts, out, in]
            yield from [(parameter.shape[1], parameter.shape[2])] * routes


def _without_weights(folder: Path) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    failure, hint = (
        f"the base model in {folder} cannot be set up",
        "use a causal language model that transformers knows: code from a model's folder is never run",
    )
    with reading(failure, hint=hint), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model


def _blocks(model: Any) -> tuple[str, Sequence[nn.Module]]:
    """Return the path of the text decoder's list of blocks and the blocks."""
    from torch import nn

    expected = model.config.get_text_config().num_hidden_layers
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and id(module) in inside and len(module) == expected:
            return path, list(module)
    raise BaseModelError(
        f"{type(model).__name__} is not a stack of {expected} blocks, so there is nothing to adapt",
        hint="use a decoder-only model, such as Llama, Qwen, Mistral or Gemma",
    )


def _find(model: Any, block: nn.Module, target: str) -> tuple[str, Any]:
    """Return the one linear module of the block whose path ends in ``target``, and that path."""
    found = [(path, module) for path, module in _linear(block) if path == target or path.endswith(f".{target}")]
    if len(found) == 1 and "expert" not in found[0][0]:
        return found[0]
    if found or any("expert" in path for path, _ in block.named_modules()):
        raise BaseModelError(
            f"{type(model).__name__} routes tokens to experts, and {target!r} is not one linear module that every "
            f"token goes through; its linear modules are {_listing(path for path, _ in _linear(block))}",
            hint="use a dense model, or adapt modules outside the experts, such as --set targets=o_proj",
        )
    others = [path for path, _ in _linear(block)]
    feed_forward = [path.rpartition(".")[2] for path in others if "attn" not in path and "attention" not in path]
    if not others:
        kinds = [
            f"{path} ({type(module).__name__})"
            for path, module in block.named_modules()
            if getattr(module, "weight", None) is not None
        ]
        raise BaseModelError(
            f"{type(model).__name__} has no {target!r}: its blocks have no linear modules, only {_listing(kinds)}",
            hint="use a model with linear feed-forward modules, such as Llama, Qwen, Mistral or Gemma",
        )
    raise BaseModelError(
        f"{type(model).__name__} has no linear module {target!r} in its blocks; those found are {_listing(others)}",
        hint=f"add --set targets={','.join(feed_forward or others)}",
    )


def _linear(block: nn.Module) -> Iterator[tuple[str, Any]]:
    from torch import nn

    return ((path, module) for path, module in block.named_modules() if isinstance(module, nn.Linear))


def _listing(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
