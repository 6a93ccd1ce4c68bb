"""Inputs and a reference for encoding: documents of different sizes, and training them one by one with PEFT."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from registry.base_model import LoadedModel, ModelFiles, linear_shapes, load, locate
from registry.encoding.examples import Example, build_examples, plan_steps
from registry.encoding.stack import initial_parameters
from registry.encoding.teacher import TOP_TOKENS
from registry.recipe import Recipe
from registry.records import Augmentation, Document, EncodingInput, QAPair
from registry.store.layout import AdapterLayout


def make_input(title: str, text: str, pairs: int, rewrites: int = 1) -> EncodingInput:
    """Return a document whose augmentation has so many pairs and rewrites, all of different lengths."""
    document = Document.of(title, text)
    words = text.split()
    return EncodingInput(
        document,
        Augmentation(
            document_digest=document.digest,
            request_digest="0" * 64,
            generator="test",
            prompts_version="0",
            rewrites=tuple(" ".join(words[n + 1 :]) for n in range(rewrites)),
            pairs=tuple(
                QAPair(f"What is {' '.join(words[n : n + 2 + n % 3])}?", " ".join(words[n : n + 1 + n % 4]))
                for n in range(pairs)
            ),
        ),
    )


@pytest.fixture(scope="session")
def inputs() -> list[EncodingInput]:
    return [
        make_input("Lamp", "the lamp of Ostrel burns green oil every winter night", pairs=5),
        make_input("", "a bell", pairs=1, rewrites=0),
        make_input(
            "Ferry", "the ferry crosses the strait at dawn and carries salt, wool and eleven mules " * 2, pairs=3
        ),
        make_input("Well", "nobody drinks from the well", pairs=0, rewrites=0),
        make_input("Mill", "the mill grinds blue barley for the bakers of Tarn", pairs=7, rewrites=2),
    ]


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        rank=2,
        alpha=8.0,
        first_layer=0,
        epochs=3,
        examples_per_step=2,
        learning_rate=5e-3,
        weight_decay=0.01,
        dtype="float32",
        pairs=9,
    )


@pytest.fixture(scope="session")
def tiny_files(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """The located files of the tiny Llama."""
    return locate(str(tiny_model_path), models_path=tmp_path_factory.mktemp("models"))


def layout_of(loaded: LoadedModel, recipe: Recipe) -> AdapterLayout:
    shapes = linear_shapes(loaded.model, recipe.targets, recipe.first_layer)
    return AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype)


def vector_of(layout: AdapterLayout, data: bytes) -> torch.Tensor:
    """Return an adapter's flat vector as float32."""
    return torch.frombuffer(bytearray(layout.body(data)), dtype=getattr(torch, layout.dtype)).float()


def soft_loss(loaded: LoadedModel, recipe: Recipe, example: Example, logits: torch.Tensor) -> torch.Tensor:
    """The loss of one example: cross-entropy, and where it has a teacher, a share of it against what that expects."""
    targets = torch.tensor(example.ids[example.loss_start :])
    hard = functional.cross_entropy(logits, targets, reduction="sum")
    if not example.teacher:
        return hard
    with torch.no_grad():
        ids = torch.tensor([[*example.teacher, *targets.tolist()]])
        expected = loaded.model(input_ids=ids).logits[0, len(example.teacher) - 1 : -1]
        best = expected.topk(min(TOP_TOKENS, expected.shape[1]))
        wanted = torch.zeros_like(expected).scatter_(1, best.indices, best.values.softmax(1))
    soft = functional.cross_entropy(logits, wanted, reduction="sum")
    return (1 - recipe.distillation) * hard + recipe.distillation * soft


def train_with_peft(
    loaded: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    given: EncodingInput,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Train one document with PEFT's LoRA, torch's AdamW and cross-entropy, one example at a time; the flat vector."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    modules = [tensor.module for tensor in layout.tensors]
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=sorted(set(modules)), lora_dropout=0.0)
    model: Any = get_peft_model(copy.deepcopy(loaded.model), config)
    start = initial_parameters(layout, recipe.init_seed) if start is None else start
    set_peft_model_state_dict(
        model,
        {t.name: start[t.offset_elements : t.offset_elements + t.elements].view(t.shape) for t in layout.tensors},
    )
    if recipe.freeze_a:
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
    examples = build_examples(loaded.tokenizer, recipe, given)
    steps = plan_steps(recipe, given.document.digest, len(examples))
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = None
    if recipe.schedule == "cosine":
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=len(steps))
    for step in steps:
        losses, count = torch.zeros(()), 0
        for index in step:
            example = examples[index]
            ids = torch.tensor([example.ids])
            logits = model(input_ids=ids).logits[0, example.loss_start - 1 : -1]
            losses = losses + soft_loss(loaded, recipe, example, logits)
            count += example.loss_tokens
        (losses / count).backward()
        optimiser.step()
        optimiser.zero_grad()
        if schedule is not None:
            schedule.step()
    state = get_peft_model_state_dict(model)
    return torch.cat([state[tensor.name].detach().flatten() for tensor in layout.tensors])


@pytest.fixture(scope="session")
def load_family(
    family_path: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., LoadedModel]:
    """A function from a family's name (and a dtype) to its tiny model."""
    models_path = tmp_path_factory.mktemp("models")

    def load_one(family: str, dtype: str = "float32") -> LoadedModel:
        return load(locate(str(family_path(family)), models_path=models_path), device="cpu", dtype=dtype)

    return load_one


@pytest.fixture(scope="session")
def tiny_model_bfloat16(load_family: Callable[..., LoadedModel]) -> LoadedModel:
    return load_family("llama", "bfloat16")
