"""One document's adapter, read whole: its bytes, its tensors, and a PEFT folder made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from registry.recipe import Recipe
from registry.records import BaseModel, Document
from registry.store.layout import AdapterLayout, read_layout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DocumentAdapter:
    """One document's adapter; ``bytes`` are its ``adapter_model.safetensors``, ``digest`` is their sha256."""

    digest: str
    document: Document
    recipe: Recipe = field(repr=False)
    base_model: BaseModel = field(repr=False)
    bytes: bytes = field(repr=False)

    @cached_property
    def layout(self) -> AdapterLayout:
        """The modules that it changes, with rank, dtype and the place of each tensor."""
        return read_layout(self.bytes)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors, a copy of the bytes, by the names that PEFT gives them and in the order of the layout."""
        from safetensors.torch import load

        loaded: dict[str, Tensor] = load(self.bytes)
        return {spec.name: loaded[spec.name] for spec in self.layout.tensors}

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write a standard PEFT folder and return it, as ``pragreg export`` does.

        Raises:
            UsageError: the folder exists and is not empty.
            StorageError: it cannot be written.
        """
        from registry.merging.export import export_adapter

        path = Path(folder).expanduser()
        about = {"document": self.document.title, "document digest": self.document.digest}
        export_adapter(self.bytes, path, recipe=self.recipe, base_model=self.base_model, about=about)
        return path
