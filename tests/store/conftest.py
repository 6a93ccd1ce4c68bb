from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.digests import sha256_hex
from registry.store import PackStore

Adapters = list[tuple[str, bytes]]


@pytest.fixture
def make_adapters() -> Callable[..., Adapters]:
    """Return a maker of (digest, bytes) pairs of odd sizes; the store does not look inside them."""

    def make(count: int, size_bytes: int = 1001, seed: int = 0) -> Adapters:
        source = random.Random(seed)
        contents = [source.randbytes(size_bytes + index) for index in range(count)]
        return [(sha256_hex(data), data) for data in contents]

    return make


@pytest.fixture(params=["folder", "memory"])
def packs_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give every kind of place that packs can lie in, empty."""
    if request.param == "folder":
        yield str(tmp_path / "home" / "packs")
        return
    from fsspec.implementations.memory import MemoryFileSystem

    yield "memory://registry/packs"
    if MemoryFileSystem().exists("/registry"):
        MemoryFileSystem().rm("/registry", recursive=True)


@pytest.fixture
def store(packs_url: str) -> Iterator[PackStore]:
    packs = PackStore(packs_url, open_packs=4)
    yield packs
    packs.close()
