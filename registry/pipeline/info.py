"""What a registry is, where everything of it lies, and what computes here. Imports no torch."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from registry.base_model import library_versions
from registry.catalog import schema
from registry.catalog.listing import CorpusLine, Summary, list_corpora, summary
from registry.documents.failures import without_password
from registry.pipeline.opened import opened
from registry.settings import Home

LIBRARIES = ("click", "sqlalchemy", "alembic", "tantivy", "huggingface_hub")
"""What is shown beside the libraries that decide an adapter's numbers."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute with; ``device`` is what "auto" will take: cuda, mps or cpu."""

    device: str
    processors: int
    memory_bytes: int
    free_memory_bytes: int
    system: str


@dataclass(frozen=True, slots=True)
class RegistryInfo:
    """Where a registry is, what is in it, and what runs it. URLs are without passwords."""

    home: Path
    catalog_url: str
    schema: str
    packs_url: str
    index_path: Path
    models_path: Path
    base_model: str
    contents: Summary
    corpora: tuple[CorpusLine, ...]
    version: str
    library_versions: dict[str, str]
    machine: Machine


def info(home: Home) -> RegistryInfo:
    """Look at a registry.

    Raises:
        HomeError: its catalog cannot be reached or has another schema.
    """
    with opened(home) as registry:
        with registry.catalog.read() as session:
            contents, corpora = summary(session), tuple(list_corpora(session, limit=None))
        return RegistryInfo(
            home=home.path,
            catalog_url=registry.catalog.safe_url,
            schema=schema.head(),
            packs_url=without_password(home.packs_url),
            index_path=home.index_path,
            models_path=home.models_path,
            base_model=home.base_model,
            contents=contents,
            corpora=corpora,
            version=importlib.metadata.version("pragreg"),
            library_versions=_versions(),
            machine=_machine(),
        )


def _versions() -> dict[str, str]:
    return library_versions() | {name: importlib.metadata.version(name) for name in LIBRARIES}


def _machine() -> Machine:
    memory = psutil.virtual_memory()
    return Machine(
        device=_device(),
        processors=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        system=f"{platform.system()} {platform.machine()}",
    )


def _device() -> str:
    """Tell what torch will find, by asking the driver: torch itself takes seconds to import."""
    if sys.platform == "darwin":
        return "mps" if platform.machine() == "arm64" else "cpu"
    if "+cpu" in importlib.metadata.version("torch"):
        return "cpu"
    return "cuda" if _cuda_devices() else "cpu"


def _cuda_devices() -> int:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    succeeded = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if succeeded else 0
