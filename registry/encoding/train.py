"""Encoding: documents and a recipe in, adapters out.

A function of its arguments: no database, no store, and nothing kept but the buffers that belong to a model. Many
documents are trained in one forward and backward pass through the frozen base (arXiv 2501.15915, section 3.2, for what
is trained; the stacking is ours).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from registry.base_model import LoadedModel, library_versions
from registry.base_model.blocks import is_supported
from registry.digests import sha256_hex, short
from registry.encoding.budget import DEVICE_SHARE
from registry.encoding.decoder import Decoder
from registry.encoding.examples import Example, build_examples, plan_steps
from registry.encoding.kernels import Memory, kernels_for
from registry.encoding.library import library_blocks
from registry.encoding.loss import SoftTargets, head_loss
from registry.encoding.packing import Packing, Row, pass_sizes, passes, send
from registry.encoding.stack import AdapterStack
from registry.encoding.teacher import Expected, teach, teacher_rows
from registry.errors import EncodingError, IntegrityError
from registry.recipe import Recipe
from registry.records import EncodedAdapter, EncodingInput, Training
from registry.store.headers import Bytes
from registry.store.layout import AdapterLayout, check_body

FEW_TOKENS = 2048
"""A pass of fewer tokens leaves a GPU idle: rather blocks are run twice."""


@dataclass(frozen=True, slots=True)
class _StepRow:
    """One example of one document in one optimiser step; the loss counts the tokens from ``loss_start`` on."""

    row: Row
    loss_start: int
    weight: float
    expected: Expected | None


@dataclass(slots=True)
class _Losses:
    """Mean loss of every member over its first and its last epoch."""

    first: list[float]
    last: list[float]


def encode_group(
    loaded: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    inputs: Sequence[EncodingInput],
    *,
    pass_tokens: int | None = None,
    start: Bytes | None = None,
) -> list[EncodedAdapter]:
    """Train one adapter for each of ``inputs``, all at once, and return them in that order.

    ``pass_tokens`` go through the model at once at most; by default what is fastest. ``start`` is the body of the
    recipe's task adapter, from which each is trained; by default A is random and B zero.

    In fp32 each equals the one trained alone to about 1e-5 relative norm: only the order of sums differs.

    Raises:
        EncodingError: an adapter came out non-finite or without effect; the message names the document.
        torch.OutOfMemoryError: the group is too large for the device.
    """
    started = time.perf_counter()
    examples = [build_examples(loaded.tokenizer, recipe, given) for given in inputs]
    plans = [plan_steps(recipe, given.document.digest, len(own)) for given, own in zip(inputs, examples, strict=True)]
    stack = AdapterStack(layout, recipe, [len(plan) for plan in plans], loaded.device, kernels_for(loaded.device))
    losses = _train(loaded, recipe, layout, stack, examples, plans, pass_tokens, start)
    elapsed = (time.perf_counter() - started) / len(inputs)
    stored = torch.bfloat16 if recipe.adapter_dtype == "bfloat16" else torch.float32
    bodies = stack.bodies(stored)
    return [
        _finish(
            loaded,
            recipe,
            layout,
            given,
            bodies[member],
            Training(
                examples=len(examples[member]),
                tokens=recipe.epochs * sum(len(example.ids) for example in examples[member]),
                steps=len(plans[member]),
                first_loss=losses.first[member],
                last_loss=losses.last[member],
                elapsed_seconds=elapsed,
                device=loaded.device,
                dtype=recipe.dtype,
                group_size=len(inputs),
                library_versions=library_versions(),
            ),
        )
        for member, given in enumerate(inputs)
    ]


def _finish(
    loaded: LoadedModel, recipe: Recipe, layout: AdapterLayout, given: EncodingInput, body: Tensor, training: Training
) -> EncodedAdapter:
    raw = body.contiguous().view(torch.uint8).numpy().tobytes()
    try:
        check_body(layout, raw)
    except IntegrityError as error:
        named = f"document {short(given.document.digest)} ({given.document.title[:60]!r})"
        raise EncodingError(
            f"training of {named} failed: {error.message}",
            hint="lower the recipe's learning_rate, for example --set learning_rate=1e-3",
        ) from error
    data = layout.serialise(raw)
    return EncodedAdapter(
        digest=sha256_hex(data),
        document_digest=given.document.digest,
        augmentation_digest=given.augmentation.digest,
        recipe_digest=recipe.digest,
        parameters=layout.elements,
        data=data,
        training=training,
    )


class Blocks(Protocol):
    """The model's blocks with the adapters on them."""

    def forward(self, packing: Packing) -> Tensor:
        """Return the last hidden states ``[tokens, hidden]``."""

    def backward(self, slope: Tensor) -> None:
        """Add to the stack's gradients what follows from the gradient by the last hidden states."""


@contextmanager
def _blocks(
    loaded: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    stack: AdapterStack,
    memory: Memory,
    rows: Sequence[Row],
    most: int,
    *,
    recompute: bool,
) -> Iterator[Blocks]:
    if not is_supported(loaded.model):
        with library_blocks(loaded, layout, stack, recipe.scale) as blocks:
            yield blocks
        return
    decoder = Decoder(
        loaded,
        stack,
        recipe.scale,
        recipe.first_layer,
        kernels_for(loaded.device),
        memory,
        positions=max(len(row.ids) for row in rows),
        recompute=recompute,
    )
    decoder.prepare(rows, most)
    yield decoder


def _train(
    loaded: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    stack: AdapterStack,
    examples: Sequence[Sequence[Example]],
    plans: Sequence[Sequence[Sequence[int]]],
    pass_tokens: int | None,
    start: Bytes | None,
) -> _Losses:
    count = len(examples)
    sums: list[list[float]] = [[] for _ in range(count)]
    first = 0
    rows: list[list[Row]] = []
    for member, own in enumerate(examples):
        starts = [first, *(first + end for end in accumulate(len(example.ids) for example in own))]
        rows.append([Row(member, example.ids, start) for example, start in zip(own, starts, strict=False)])
        first = starts[-1]
    memory = _memory(loaded)
    most, recompute = tokens_of_a_pass(loaded, pass_tokens)
    teachers = teacher_rows(examples, first)
    everything = [*(row for own in rows for row in own), *teachers]
    with _blocks(loaded, recipe, layout, stack, memory, everything, most, recompute=recompute) as blocks:
        taught = teach(loaded, blocks.forward, examples, teachers, most)
        if start is not None:
            stack.start_from(start)
        for number in range(max(len(plan) for plan in plans)):
            active = [member for member in range(count) if number < len(plans[member])]
            batch = [
                step
                for member in active
                for step in _rows(rows[member], examples[member], taught[member], plans[member][number])
            ]
            step_losses = [0.0] * count
            for part in passes([len(step.row.ids) for step in batch], most):
                for step, loss in zip(batch[part], _pass(loaded, recipe, blocks, batch[part], memory), strict=True):
                    step_losses[step.row.member] += loss
            stack.step(active)
            for member in active:
                sums[member].append(step_losses[member])
    # An epoch at either end, or half of the steps where there is only one.
    window = [max(1, min(len(plan) // recipe.epochs, len(plan) // 2)) for plan in plans]
    return _Losses(
        first=[_mean(own[:n]) for own, n in zip(sums, window, strict=True)],
        last=[_mean(own[-n:]) for own, n in zip(sums, window, strict=True)],
    )


def tokens_of_a_pass(loaded: LoadedModel, wanted: int | None = None) -> tuple[int, bool]:
    """Return how many tokens go through the model at once, and whether blocks are run again for the backward pass.

    On a CPU as many as are ``wanted``, or as are fastest.

    On a CUDA device by its memory, less the model's: the same on every device of that kind. Blocks are run again only
    where too few tokens would fit otherwise.
    """
    most = wanted or pass_sizes(loaded.device)[0]
    if not loaded.device.startswith("cuda") or not is_supported(loaded.model):
        return most, False
    total = torch.cuda.get_device_properties(loaded.device).total_memory
    weights = sum(parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters())
    return fitting_tokens(most, DEVICE_SHARE * total - weights, Decoder.kept_bytes(loaded.model), loaded)


def fitting_tokens(most: int, free_bytes: float, kept_bytes: int, loaded: LoadedModel) -> tuple[int, bool]:
    """Return :func:`tokens_of_a_pass` for so much memory, where a token keeps ``kept_bytes``."""
    fitting = int(free_bytes / kept_bytes)
    if fitting >= min(most, FEW_TOKENS):
        return min(most, fitting), False
    blocks = loaded.model.config.num_hidden_layers
    hidden_bytes = loaded.model.config.hidden_size * loaded.model.get_input_embeddings().weight.element_size()
    return max(1, min(most, int(free_bytes / (2 * blocks * hidden_bytes + kept_bytes / blocks)))), True


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rows(
    rows: Sequence[Row], examples: Sequence[Example], taught: Sequence[Expected | None], chosen: Sequence[int]
) -> Iterator[_StepRow]:
    """A step's loss of one document is the mean over all its loss tokens."""
    weight = 1 / sum(examples[index].loss_tokens for index in chosen)
    return (_StepRow(rows[index], examples[index].loss_start, weight, taught[index]) for index in chosen)


def _pass(
    loaded: LoadedModel, recipe: Recipe, blocks: Blocks, batch: Sequence[_StepRow], memory: Memory
) -> list[float]:
    """Run one forward and backward pass, and return every row's share of its document's loss."""
    device = loaded.device
    packing = Packing([step.row for step in batch], device, loaded.model.dtype)
    # A token's hidden state predicts the token after it.
    places = [own[step.loss_start - 1 : -1] for own, step in zip(packing.places, batch, strict=True)]
    counts = [len(own) for own in places]
    at = send(torch.cat(places), device)
    targets = torch.tensor([token for step in batch for token in step.row.ids[step.loss_start :]])
    weights = send(torch.tensor([step.weight for step in batch]).repeat_interleave(torch.tensor(counts)), device)
    hidden = blocks.forward(packing)
    losses, slope = head_loss(
        hidden[at],
        loaded.model.get_output_embeddings().weight.detach(),
        send(targets, device),
        weights,
        getattr(loaded.model.config, "final_logit_softcapping", None),
        kernels_for(device),
        memory,
        _soft_targets(batch, counts, recipe.distillation, device),
    )
    # Tokens that rows share may predict several: their gradients add up.
    blocks.backward(torch.zeros_like(hidden).index_add_(0, at, slope))
    shares = torch.split((losses * weights).cpu(), counts)
    return [float(share.sum()) for share in shares]


def _soft_targets(batch: Sequence[_StepRow], counts: Sequence[int], share: float, device: str) -> SoftTargets | None:
    starts = accumulate(counts, initial=0)
    taught = [(start, step.expected) for start, step in zip(starts, batch, strict=False) if step.expected is not None]
    if not taught:
        return None
    return SoftTargets(
        at=send(torch.cat([torch.arange(start, start + len(one.tokens)) for start, one in taught]), device),
        tokens=torch.cat([one.tokens for _, one in taught]),
        probabilities=torch.cat([one.probabilities for _, one in taught]),
        share=share,
    )


_memories: WeakKeyDictionary[Any, Memory] = WeakKeyDictionary()


def _memory(loaded: LoadedModel) -> Memory:
    """Return the buffers that belong to a model, kept from group to group."""
    if loaded.model not in _memories:
        _memories[loaded.model] = Memory(loaded.device)
    return _memories[loaded.model]
