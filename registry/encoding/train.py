"""Encoding: documents and a recipe in, adapters out.

A function of its arguments: no database, no store, no global. Many documents are trained in one forward and
backward pass through the frozen base (arXiv 2501.15915, section 3.2, for what is trained; the stacking is ours).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from registry.base_model import LoadedModel, library_versions
from registry.digests import sha256_hex, short
from registry.encoding.attention import packed
from registry.encoding.examples import Example, build_examples, plan_steps
from registry.encoding.loss import head_loss
from registry.encoding.lower import Upper, upper_blocks
from registry.encoding.packing import Packing, pass_tokens, passes
from registry.encoding.stack import AdapterStack, Attached, attached
from registry.errors import EncodingError, IntegrityError
from registry.recipe import Recipe
from registry.records import EncodedAdapter, EncodingInput, Training
from registry.store.layout import AdapterLayout, check_body


@dataclass(frozen=True, slots=True)
class _Row:
    """One example of one document (``member`` of the group) in one optimiser step."""

    member: int
    example: Example
    weight: float


@dataclass(slots=True)
class _Losses:
    """Mean loss of every member over its first and its last epoch."""

    first: list[float]
    last: list[float]


def encode_group(
    loaded: LoadedModel, recipe: Recipe, layout: AdapterLayout, inputs: Sequence[EncodingInput]
) -> list[EncodedAdapter]:
    """Train one adapter for each of ``inputs``, all at once, and return them in that order.

    In fp32 each equals the one trained alone to about 1e-5 relative norm: only the order of sums differs.

    Raises:
        EncodingError: an adapter came out non-finite or without effect; the message names the document.
        torch.OutOfMemoryError: the group is too large for the device.
    """
    started = time.perf_counter()
    examples = [build_examples(loaded.tokenizer, recipe, given) for given in inputs]
    plans = [plan_steps(recipe, given.document.digest, len(own)) for given, own in zip(inputs, examples, strict=True)]
    stack = AdapterStack(layout, recipe, [len(plan) for plan in plans], loaded.device)
    losses = _train(loaded, recipe, layout, stack, examples, plans)
    elapsed = (time.perf_counter() - started) / len(inputs)
    stored = torch.bfloat16 if recipe.adapter_dtype == "bfloat16" else torch.float32
    bodies = stack.parameters.detach().to("cpu", stored)
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


def _train(
    loaded: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    stack: AdapterStack,
    examples: Sequence[Sequence[Example]],
    plans: Sequence[Sequence[Sequence[int]]],
) -> _Losses:
    count = len(examples)
    sums: list[list[float]] = [[] for _ in range(count)]
    everything = [example for own in examples for example in own]
    with (
        packed(loaded.model),
        attached(loaded.model, layout, stack, recipe.scale) as modules,
        upper_blocks(loaded, recipe.first_layer, everything) as upper,
    ):
        for number in range(max(len(plan) for plan in plans)):
            active = [member for member in range(count) if number < len(plans[member])]
            rows = [
                row
                for member in active
                for row in _rows(member, [examples[member][index] for index in plans[member][number]])
            ]
            step_losses = [0.0] * count
            for part in passes([len(row.example.ids) for row in rows], pass_tokens(loaded.device)):
                for row, loss in zip(rows[part], _pass(loaded, modules, upper, rows[part]), strict=True):
                    step_losses[row.member] += loss
            stack.step(active)
            for member in active:
                sums[member].append(step_losses[member])
    # An epoch at either end, or half of the steps where there is only one.
    window = [max(1, min(len(plan) // recipe.epochs, len(plan) // 2)) for plan in plans]
    return _Losses(
        first=[_mean(own[:n]) for own, n in zip(sums, window, strict=True)],
        last=[_mean(own[-n:]) for own, n in zip(sums, window, strict=True)],
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rows(member: int, examples: Sequence[Example]) -> Iterator[_Row]:
    """A step's loss of one document is the mean over all its loss tokens."""
    weight = 1 / sum(example.loss_tokens for example in examples)
    return (_Row(member=member, example=example, weight=weight) for example in examples)


def _pass(loaded: LoadedModel, modules: Attached, upper: Upper, batch: Sequence[_Row]) -> list[float]:
    """Run one forward and backward pass, and return every row's share of its document's loss."""
    device = loaded.device
    examples = [row.example for row in batch]
    lengths = [len(example.ids) for example in examples]
    packing = Packing(lengths, [row.member for row in batch], device, loaded.model.dtype)
    modules.choose(packing)
    hidden = upper(examples, packing)
    # A token's hidden state predicts the token after it.
    at = torch.cat(
        [
            torch.arange(end - example.loss_tokens - 1, end - 1)
            for end, example in zip(accumulate(lengths), examples, strict=True)
        ]
    )
    counts = [example.loss_tokens for example in examples]
    targets = torch.tensor([token for example in examples for token in example.ids[example.loss_start :]])
    weights = torch.tensor([row.weight for row in batch]).repeat_interleave(torch.tensor(counts)).to(device)
    total, losses = head_loss(
        hidden[at.to(device)],
        loaded.model.get_output_embeddings().weight,
        targets.to(device),
        weights,
        getattr(loaded.model.config, "final_logit_softcapping", None),
    )
    total.backward()  # type: ignore[no-untyped-call]
    shares = torch.split((losses * weights).cpu(), counts)
    return [float(share.sum()) for share in shares]
