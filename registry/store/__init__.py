"""Bytes by digest: the layout of adapters and the packs that hold them. No SQL, no torch."""

from registry.store.files import StoredPack
from registry.store.layout import AdapterDtype, AdapterLayout, TensorSpec, check_body, read_layout
from registry.store.packs import PackCheck, PackStore

__all__ = [
    "AdapterDtype",
    "AdapterLayout",
    "PackCheck",
    "PackStore",
    "StoredPack",
    "TensorSpec",
    "check_body",
    "read_layout",
]
