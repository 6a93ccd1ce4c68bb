"""What an ``adapter_config.json`` says, without PEFT: the other engines' environments need not have it.

Only what PEFT has known since its first releases is in it, so that old and new readers agree (one that meets a key of
a later PEFT refuses the adapter). ``registry.merging.export.lora_config`` is PEFT's own object of the same settings.
"""

from __future__ import annotations

import re
from typing import Any

from registry.base_model.location import published_name
from registry.records import BaseModel
from registry.store.layout import AdapterLayout

BLOCK = re.compile(r"(?P<blocks>\w+)\.(?P<number>\d+)\.")
"""In a module's path, its block: ``layers.7.``."""


def adapter_settings(layout: AdapterLayout, alpha: float, base_model: BaseModel) -> dict[str, Any]:
    """Return the settings of adapters of this layout with the scale ``alpha`` / rank, as ``LoraConfig`` takes them.

    Blocks are named one by one only where the layout leaves some out below its first.
    """
    name, revision = published_name(base_model)
    blocks = [match for match in map(BLOCK.search, layout.modules) if match]
    numbers = sorted({int(match["number"]) for match in blocks})
    named = {"layers_to_transform": numbers, "layers_pattern": blocks[0]["blocks"]} if numbers and numbers[0] else {}
    return {
        "r": layout.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in layout.modules}),
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": name,
        "revision": revision,
        **named,
    }
