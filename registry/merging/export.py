"""Standard PEFT folders: one adapter with a configuration made from the recipe, and a card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from peft import LoraConfig

from registry.base_model.location import published_name
from registry.digests import sha256_hex, short
from registry.merging.folders import new_folder
from registry.merging.peft_settings import adapter_settings
from registry.recipe import Recipe
from registry.records import BaseModel
from registry.store.layout import AdapterLayout, read_layout

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
CARD_FILE = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Published:
    """What the card of a folder says that is published: how it is named in Python, and the fields for its licence."""

    place: str = '"path/of/this/folder"'
    licence: Mapping[str, Any] = field(default_factory=dict)


def export_adapter(
    data: bytes | memoryview,
    folder: Path,
    *,
    recipe: Recipe,
    base_model: BaseModel,
    about: Mapping[str, str] | None = None,
    published: Published | None = None,
) -> None:
    """Write a PEFT folder whose ``adapter_model.safetensors`` is ``data``, byte for byte.

    ``about`` is shown on the card, such as the title of the adapter's document; control characters are dropped.
    ``published`` says where others will find the folder.

    Raises:
        IntegrityError: ``data`` is not a LoRA adapter.
        UsageError: ``folder`` exists and is not empty.
        StorageError: it cannot be written.
    """
    layout = read_layout(data)
    facts = {"adapter": f"sha256:{sha256_hex(data)}", "recipe": f"sha256:{recipe.digest}", **(about or {})}
    with new_folder(folder) as partial:
        write_adapter(partial, data, lora_config(layout, recipe.alpha, base_model), base_model, facts, published)


def write_adapter(
    folder: Path,
    data: bytes | memoryview,
    config: LoraConfig,
    base_model: BaseModel,
    about: Mapping[str, str],
    published: Published | None = None,
) -> None:
    """Write the three files of a PEFT folder into an existing folder; errors are the system's own."""
    (folder / ADAPTER_FILE).write_bytes(data)
    (folder / CONFIG_FILE).write_text(settings_of(config), encoding="utf-8")
    (folder / CARD_FILE).write_text(card(config, base_model, about, published), encoding="utf-8")


def settings_of(config: LoraConfig) -> str:
    """Return the text of an ``adapter_config.json``; the same configuration gives the same text."""
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def lora_config(layout: AdapterLayout, alpha: float, base_model: BaseModel) -> LoraConfig:
    """Return PEFT's configuration of adapters of this layout with the scale ``alpha`` / rank."""
    return LoraConfig(**adapter_settings(layout, alpha, base_model))


def front_matter(base_model: BaseModel, licence: Mapping[str, Any]) -> str:
    """Return the Hub's metadata of a repository or folder of adapters; ``licence`` are its fields for the licence."""
    name, _ = published_name(base_model)
    on_hub = _HUB_ID.fullmatch(name) is not None
    metadata = ModelCardData(
        base_model=name if on_hub else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=[*([f"base_model:adapter:{name}"] if on_hub else []), "lora", "pragreg"],
        **licence,
    )
    return f"---\n{metadata.to_yaml()}\n---\n"


def card(config: Any, base_model: BaseModel, about: Mapping[str, str], published: Published | None = None) -> str:
    """Return the README.md of an adapter: the Hub's metadata, what it is, and how to load it."""
    name, _ = published_name(base_model)
    published = published or Published()
    facts = {
        **about,
        "base model": f"{name}, fingerprint sha256:{base_model.fingerprint}",
        "base model source": base_model.revision or "local files",
        "rank": str(config.r),
        "alpha": str(config.lora_alpha),
        "modules": ", ".join(sorted(config.target_modules)),
    }
    rows = "\n".join(f"| {_plain(label)} | {_plain(value)} |" for label, value in facts.items())
    return f"""{front_matter(base_model, published.licence)}
# LoRA adapter {_plain(short(about.get("adapter", "").removeprefix("sha256:")))}

Parametric memory of documents, made by pragreg: with this adapter the base model can answer questions about them
without their text in the prompt.

| | |
|---|---|
{rows}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{_plain(name)}"), {published.place})
```

It belongs to exactly the base model of that fingerprint; on other weights, even of the same name, answers may differ.
"""


def _plain(text: str) -> str:
    """Return ``text`` on one line, without control characters and without what would end a table's cell."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).replace("|", "/").split())
