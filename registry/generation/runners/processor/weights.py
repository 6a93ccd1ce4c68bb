"""A model's weights as the processor's runners compute with them, shared by all runners of one model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from registry.base_model.blocks import Block, Blocks, Linear, blocks_of
from registry.generation.runners.processor.packed import PackedLinear


@dataclass(slots=True)
class PackedBlock:
    """The linear maps of a block; ``block`` has the norms, and the paths of the maps' modules."""

    block: Block
    qkv: PackedLinear
    output: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear

    def maps(self) -> tuple[tuple[Linear, PackedLinear], ...]:
        """Return every map as it is in the model, and as it is computed with."""
        own = self.block
        return (
            (own.qkv, self.qkv),
            (own.output, self.output),
            (own.gate_up, self.gate_up),
            (own.down, self.down),
        )


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a model; ``head`` gives logits."""

    blocks: Blocks
    packed: tuple[PackedBlock, ...]
    head: PackedLinear


_KNOWN: WeakKeyDictionary[Any, Weights] = WeakKeyDictionary()


def weights_of(model: Any) -> Weights:
    """Return the packed weights of a model, packed the first time that they are asked for."""
    if model not in _KNOWN:
        blocks = blocks_of(model)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # PyTorch lays out one weight with one thread
            packed = tuple(pool.map(_packed, blocks.blocks))
        head = PackedLinear(blocks.head, getattr(model.get_output_embeddings(), "bias", None))
        _KNOWN[model] = Weights(blocks, packed, head)
    return _KNOWN[model]


def release(model: Any) -> None:
    """Give back the memory of the linear weights that are packed: the model's own modules cannot be run any more.

    Tied embeddings stay, since tokens are looked up there.
    """
    weights = weights_of(model)
    for block in weights.packed:
        for linear, packed in block.maps():
            if packed.is_copy:
                _empty(linear.weight)
    if weights.head.is_copy and weights.blocks.head.data_ptr() != weights.blocks.embedding.data_ptr():
        _empty(weights.blocks.head)


def _empty(weight: Tensor) -> None:
    storage = weight.untyped_storage()
    if storage.resizable():  # else it is a part of the mapped file, and holds no memory
        storage.resize_(0)


def _packed(block: Block) -> PackedBlock:
    return PackedBlock(block, *(PackedLinear(one.weight, one.bias) for one in _maps(block)))


def _maps(block: Block) -> tuple[Linear, ...]:
    return block.qkv, block.output, block.gate_up, block.down
