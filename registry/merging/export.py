"""Standard PEFT folders: one adapter with a configuration made from the recipe, and a card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from peft import LoraConfig

from registry.base_model.location import DEFAULT_ALIAS, DEFAULT_REPOSITORY
from registry.digests import sha256_hex, short
from registry.merging.folders import new_folder
from registry.recipe import Recipe
from registry.records import BaseModel
from registry.store.layout import AdapterLayout, read_layout

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
CARD_FILE = "README.md"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOCK = re.compile(r"(?P<blocks>\w+)\.(?P<number>\d+)\.")


def export_adapter(
    data: bytes | memoryview,
    folder: Path,
    *,
    recipe: Recipe,
    base_model: BaseModel,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a PEFT folder whose ``adapter_model.safetensors`` is ``data``, byte for byte.

    ``about`` is shown on the card, such as the title of the adapter's document; control characters are dropped.

    Raises:
        IntegrityError: ``data`` is not a LoRA adapter.
        UsageError: ``folder`` exists and is not empty.
        StorageError: it cannot be written.
    """
    layout = read_layout(data)
    facts = {"adapter": f"sha256:{sha256_hex(data)}", "recipe": f"sha256:{recipe.digest}", **(about or {})}
    with new_folder(folder) as partial:
        write_adapter(partial, data, lora_config(layout, recipe.alpha, base_model), base_model, facts)


def write_adapter(
    folder: Path, data: bytes | memoryview, config: LoraConfig, base_model: BaseModel, about: Mapping[str, str]
) -> None:
    """Write the three files of a PEFT folder into an existing folder; errors are the system's own."""
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    (folder / ADAPTER_FILE).write_bytes(data)
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card(config, base_model, about), encoding="utf-8")


def lora_config(layout: AdapterLayout, alpha: float, base_model: BaseModel) -> LoraConfig:
    """Return PEFT's configuration of adapters of this layout with the scale ``alpha`` / rank.

    Blocks are named one by one only where the layout leaves some out below its first.
    """
    name, revision = published_name(base_model)
    blocks = [match for match in map(_BLOCK.search, layout.modules) if match]
    numbers = sorted({int(match["number"]) for match in blocks})
    named = {"layers_to_transform": numbers, "layers_pattern": blocks[0]["blocks"]} if numbers and numbers[0] else {}
    return LoraConfig(
        r=layout.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=sorted({module.rpartition(".")[2] for module in layout.modules}),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=name,
        revision=revision,
        **named,
    )


def published_name(base_model: BaseModel) -> tuple[str, str | None]:
    """Return the name and revision under which others find a base model; local ones have no revision."""
    name = DEFAULT_REPOSITORY if base_model.reference == DEFAULT_ALIAS else base_model.reference
    is_commit = base_model.revision is not None and _COMMIT.fullmatch(base_model.revision)
    return name, base_model.revision if is_commit else None


def card(config: Any, base_model: BaseModel, about: Mapping[str, str]) -> str:
    """Return the README.md of an adapter: the Hub's metadata, what it is, and how to load it."""
    name, _ = published_name(base_model)
    on_hub = _HUB_ID.fullmatch(name) is not None
    metadata = ModelCardData(
        base_model=name if on_hub else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=[*([f"base_model:adapter:{name}"] if on_hub else []), "lora", "pragreg"],
    )
    facts = {
        **about,
        "base model": f"{name}, fingerprint sha256:{base_model.fingerprint}",
        "base model source": base_model.revision or "local files",
        "rank": str(config.r),
        "alpha": str(config.lora_alpha),
        "modules": ", ".join(sorted(config.target_modules)),
    }
    rows = "\n".join(f"| {_plain(label)} | {_plain(value)} |" for label, value in facts.items())
    return f"""---
{metadata.to_yaml()}
---

# LoRA adapter {_plain(short(about.get("adapter", "").removeprefix("sha256:")))}

Parametric memory of documents, made by pragreg: with this adapter the base model can answer questions about them
without their text in the prompt.

| | |
|---|---|
{rows}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{_plain(name)}"), "path/of/this/folder")
```

It belongs to exactly the base model of that fingerprint; on other weights, even of the same name, answers may differ.
"""


def _plain(text: str) -> str:
    """Return ``text`` on one line, without control characters and without what would end a table's cell."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).replace("|", "/").split())
