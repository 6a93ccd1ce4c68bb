"""The recipe: everything besides the document that decides an adapter's bytes.

A recipe is chosen by preset, overridden by a TOML file and by flags, and completed with what only the machine knows
(the base model's fingerprint, the dtype). Its canonical JSON is its identity.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from registry.digests import json_digest
from registry.errors import InputError, UsageError

FORMAT = 1
"""Raised when the meaning of a field changes; part of every recipe's identity."""

HALF = -1
"""The value of ``first_layer`` that stands for half of the base model's blocks until the recipe is completed."""

LATER = frozenset({"task_adapter", "freeze_a", "distillation"})
"""Settings that came after the first recipes: they are part of a recipe's identity only where they are used."""

ExampleKind = Literal[
    "qa",
    "qa-short",
    "qa-both",
    "qa-passage",
    "reversed",
    "cloze",
    "cloze-both",
    "text",
    "statements",
    "rewrite",
    "paper",
]


@dataclass(frozen=True)
class Recipe:
    """All settings of an encoding. Defaults are the ``default`` preset's; ``docs/results.md`` says why.

    The adapter: ``rank`` r and ``alpha`` (W' = W + alpha/r * B A), ``targets`` (names of linear modules in every
    block), ``first_layer`` (blocks below it get no adapter; ``HALF`` until it is completed), ``init_seed`` (A is the
    same random start for every document, B is 0). Training: ``examples`` (kinds, in order), ``loss`` over every token
    or the answer's only, ``examples_per_step``, ``epochs``, ``optimiser``, ``learning_rate``, ``weight_decay``,
    ``schedule``, ``shuffle`` and ``seed``; ``max_tokens`` cuts an example. Texts: ``layout`` of prompts;
    ``augmenter``, ``rewrites`` and ``pairs`` asked for. Numbers: ``dtype`` of the frozen base's computation ("auto"
    until it is completed), ``adapter_dtype`` of the stored adapter.

    Beyond the paper: ``task_adapter`` is the digest of the warm-up that every document starts from ("" for none);
    ``freeze_a`` trains B alone; ``distillation`` is the share of an answer's loss that is taken from the same model
    with the passage in its prompt.
    """

    base_model: str = ""
    rank: int = 4
    alpha: float = 64.0
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    first_layer: int = HALF
    init_seed: int = 0
    augmenter: str = "self"
    prompts_version: str = ""
    rewrites: int = 0
    pairs: int = 14
    examples: tuple[str, ...] = ("qa-both", "cloze-both")
    layout: Literal["chat", "paper"] = "chat"
    loss: Literal["answer", "all"] = "answer"
    examples_per_step: int = 2
    epochs: int = 5
    optimiser: Literal["adamw"] = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "cosine"
    shuffle: bool = True
    seed: int = 0
    max_tokens: int = 1024
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    task_adapter: str = ""
    freeze_a: bool = False
    distillation: float = 0.0
    format: int = field(default=FORMAT)

    def __post_init__(self) -> None:
        """Refuse values that no training could use."""
        positive = ("rank", "alpha", "examples_per_step", "epochs", "learning_rate", "max_tokens")
        for name in positive:
            if not getattr(self, name) > 0:
                raise UsageError(f"recipe setting {name} must be above 0, not {getattr(self, name)}")
        for name in ("first_layer", "rewrites", "pairs", "weight_decay"):
            if getattr(self, name) < (HALF if name == "first_layer" else 0):
                raise UsageError(f"recipe setting {name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.distillation <= 1:
            raise UsageError(f"recipe setting distillation must be a share from 0 to 1, not {self.distillation}")
        if self.freeze_a and self.weight_decay:
            raise UsageError("recipe setting freeze_a goes with weight_decay 0: decay would move A")
        unknown = set(self.examples) - set(get_args(ExampleKind))
        if unknown or not self.examples:
            raise UsageError(
                f"recipe setting examples has {sorted(unknown) or 'no kind'}; "
                f"known kinds are {', '.join(get_args(ExampleKind))}"
            )
        if not self.targets:
            raise UsageError("recipe setting targets is empty; name at least one linear module, such as gate_proj")

    @property
    def scale(self) -> float:
        """The factor alpha / r of the low-rank product."""
        return self.alpha / self.rank

    @property
    def canonical(self) -> dict[str, Any]:
        """The recipe as plain JSON values; its digest is the recipe's identity."""
        unused = {name for name in LATER if not getattr(self, name)}
        return {name: value for name, value in asdict(self).items() if name not in unused}

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON."""
        return json_digest(self.canonical)


PRESETS: dict[str, Recipe] = {
    "default": Recipe(),
    # A third of the default's training tokens: about 3 times the paper's.
    "fast": Recipe(examples=("qa-both", "text"), loss="all", epochs=3),
    # arXiv 2501.15915 and its code: r 2, alpha 32, AdamW 3e-4, batch 1, 1 epoch, fp32, loss on every token.
    "paper": Recipe(
        rank=2,
        alpha=32.0,
        first_layer=0,
        rewrites=1,
        pairs=3,
        examples=("paper",),
        layout="paper",
        loss="all",
        examples_per_step=1,
        epochs=1,
        learning_rate=3e-4,
        weight_decay=0.01,
        schedule="constant",
        shuffle=False,
        max_tokens=3000,
        dtype="float32",
        adapter_dtype="float32",
    ),
}


def preset(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", hint=f"use one of: {', '.join(PRESETS)}")
    return PRESETS[name]


def override(recipe: Recipe, settings: Mapping[str, Any], *, origin: str) -> Recipe:
    """Return ``recipe`` with ``settings`` (plain TOML or JSON values) put over it.

    ``origin`` names where they come from, for the message.

    Raises:
        UsageError: a setting is unknown, of the wrong type, or has an impossible value.
    """
    hints = get_type_hints(Recipe)
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in hints or name == "format":
            known = ", ".join(f.name for f in fields(Recipe) if f.name != "format")
            raise UsageError(f"{origin}: there is no recipe setting {name!r}", hint=f"known settings: {known}")
        values[name] = _coerce(name, value, hints[name], origin)
    return replace(recipe, **values)


def _coerce(name: str, value: Any, hint: Any, origin: str) -> Any:
    wanted: str
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        wanted = "one of " + ", ".join(map(str, get_args(hint)))
    elif hint == tuple[str, ...]:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
            return tuple(value)
        wanted = "a list of names"
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    else:
        wanted = f"of type {hint.__name__}"
    raise UsageError(f"{origin}: recipe setting {name} must be {wanted}, not {value!r}")


def from_canonical(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe whose ``canonical`` is ``values`` (as read back from the catalog).

    Raises:
        UsageError: it was written by another format of recipes.
    """
    if values.get("format") != FORMAT:
        raise UsageError(f"this recipe has format {values.get('format')}, this pragreg reads format {FORMAT}")
    return override(Recipe(), {k: v for k, v in values.items() if k != "format"}, origin="catalog")


def read_recipe_file(path: Path, start: Recipe) -> Recipe:
    """Return ``start`` with the settings of a TOML file put over it.

    Raises:
        InputError: the file cannot be read or is not TOML.
        UsageError: a setting is wrong.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"recipe file {path} cannot be read: {error}") from error
    return override(start, settings, origin=str(path))
