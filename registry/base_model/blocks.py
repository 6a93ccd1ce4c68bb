"""The blocks of Llama and its kin: norm, attention with rotated queries and keys, norm, SwiGLU; all of one kind.

What computes them by hand (``registry.encoding.decoder``, ``registry.generation.runners``) takes the weights from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose blocks are: norm, attention with rotated queries and keys, norm, SwiGLU; all of one kind."""
ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotation that do not depend on the length of the row."""


def is_supported(model: Any) -> bool:
    """Whether the blocks of ``model`` are of this kind."""
    config: Any = model.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    rotation = getattr(config, "rope_parameters", None) or {}
    return (
        getattr(config, "model_type", "") in MODEL_TYPES
        and set(kinds) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and getattr(config, "hidden_act", "") in ("silu", "swish")
        and not getattr(config, "mlp_bias", False)
        and rotation.get("rope_type", "default") in ROTATIONS
    )


@dataclass(frozen=True, slots=True)
class Linear:
    """Linear modules of one input as one: ``weight`` ``[sum of outs, in]``, ``bias`` ``[sum of outs]`` if there is one.

    ``paths`` are the modules' in the model, ``outs`` how many of the outputs are each one's, in that order.
    """

    paths: tuple[str, ...]
    outs: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Block:
    """The weights of one block; norms ``[hidden]``, those of queries and keys ``[width]`` where there are some."""

    number: int
    norm: Tensor
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    second_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Blocks:
    """A model of such blocks: ``queries`` heads share ``keys`` key heads of ``width`` elements.

    ``embedding`` and ``head`` are ``[vocabulary, hidden]`` and often the same tensor, ``last_norm`` is ``[hidden]``.
    """

    blocks: tuple[Block, ...]
    embedding: Tensor
    head: Tensor
    last_norm: Tensor
    epsilon: float
    queries: int
    keys: int
    width: int


def blocks_of(model: Any) -> Blocks:
    """Take the weights of a model that ``is_supported``; those that share an input are laid together once, in place."""
    import torch

    config, body = model.config, model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is body.layers)
    paths = [f"{prefix}.{number}" for number in range(len(body.layers))]
    # What is copied here is first read from the disk; each copy is one thread's work.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        blocks = tuple(pool.map(_block, body.layers, range(len(paths)), paths))
    return Blocks(
        blocks=blocks,
        embedding=model.get_input_embeddings().weight.detach(),
        head=model.get_output_embeddings().weight.detach(),
        last_norm=body.norm.weight.detach(),
        epsilon=float(config.rms_norm_eps),
        queries=config.num_attention_heads,
        keys=config.num_key_value_heads,
        width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    )


def _block(layer: Any, number: int, path: str) -> Block:
    attention = layer.self_attn

    def linear(part: str, *names: str) -> Linear:
        return _linear(getattr(layer, part), f"{path}.{part}", names)

    return Block(
        number=number,
        norm=layer.input_layernorm.weight.detach(),
        qkv=linear("self_attn", "q_proj", "k_proj", "v_proj"),
        query_norm=attention.q_norm.weight.detach() if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight.detach() if hasattr(attention, "k_norm") else None,
        output=linear("self_attn", "o_proj"),
        second_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=linear("mlp", "gate_proj", "up_proj"),
        down=linear("mlp", "down_proj"),
    )


def _linear(parent: Any, path: str, names: Sequence[str]) -> Linear:
    import torch

    modules = [getattr(parent, name) for name in names]
    weight, bias = laid_together([module.weight for module in modules]), None
    if any(module.bias is not None for module in modules):
        biases = [m.bias if m.bias is not None else torch.zeros_like(m.weight[:, 0]) for m in modules]
        bias = torch.cat([own.detach() for own in biases])
    return Linear(
        paths=tuple(f"{path}.{name}" for name in names),
        outs=tuple(len(module.weight) for module in modules),
        weight=weight,
        bias=bias,
    )


def laid_together(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors one after the other; parameters become views of the result, so nothing is held twice."""
    import torch

    first = parts[0]
    expected = first.data_ptr()
    for part in parts:
        if part.data_ptr() != expected or not part.is_contiguous():
            break
        expected += part.numel() * part.element_size()
    else:
        if all(part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for part in parts):
            shape = (sum(len(part) for part in parts), *first.shape[1:])
            return first.detach().as_strided(shape, first.stride(), first.storage_offset())
    joined = torch.cat([part.detach() for part in parts])
    start = 0
    for part in parts:
        part.data = joined[start : start + len(part)]
        start += len(part)
    return joined


def rotation(model: Any, positions: int, device: str) -> tuple[Tensor, Tensor]:
    """Return cosine and sine ``[positions, width / 2]`` float32 as the model's own module gives them."""
    import torch

    body = model.get_decoder()
    places = torch.arange(positions, device=device)[None]
    cosine, sine = body.rotary_emb(torch.zeros(1, device=device), places)
    half = cosine.shape[-1] // 2
    return cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous()
