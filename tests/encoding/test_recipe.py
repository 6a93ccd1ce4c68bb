"""A recipe's identity: what changes it, and that recipes of earlier versions keep theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.errors import UsageError
from registry.recipe import LATER, PRESETS, Recipe, from_canonical

BEFORE_TASK_ADAPTERS = {
    "adapter_dtype": "float32",
    "alpha": 64.0,
    "augmenter": "self",
    "base_model": "0" * 64,
    "dtype": "bfloat16",
    "epochs": 3,
    "examples": ("qa", "text", "rewrite"),
    "examples_per_step": 2,
    "first_layer": 15,
    "format": 1,
    "init_seed": 0,
    "layout": "chat",
    "learning_rate": 3e-3,
    "loss": "answer",
    "max_tokens": 1024,
    "optimiser": "adamw",
    "pairs": 14,
    "prompts_version": "",
    "rank": 4,
    "rewrites": 0,
    "schedule": "cosine",
    "seed": 0,
    "shuffle": True,
    "targets": ("gate_proj", "up_proj", "down_proj"),
    "weight_decay": 0.0,
}


def test_a_recipe_from_before_keeps_its_digest() -> None:
    recipe = from_canonical(BEFORE_TASK_ADAPTERS)
    assert recipe.digest == "2ee5a889d1a3300496b84f8c5046351de850d6238045a7e88bd2ad5f9261ddd8"
    assert recipe.canonical == BEFORE_TASK_ADAPTERS


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_recipe_comes_back_from_its_canonical_form(preset: Recipe) -> None:
    used = replace(preset, task_adapter="1" * 64, freeze_a=True, distillation=0.5, weight_decay=0.0)
    for recipe in (preset, used):
        assert from_canonical(recipe.canonical) == recipe
    assert not LATER & preset.canonical.keys()
    assert used.canonical.keys() >= LATER
    assert len({preset.digest, used.digest}) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distillation": 1.5}, "distillation must be a share from 0 to 1"),
        ({"distillation": -0.1}, "distillation must be a share from 0 to 1"),
        ({"freeze_a": True, "weight_decay": 0.1}, "freeze_a goes with weight_decay 0"),
        ({"examples": ("qa", "qb")}, "examples has"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(Recipe(), **settings)  # type: ignore[arg-type]
