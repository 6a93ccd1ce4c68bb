"""A registry of random adapters of a tiny Llama, and the exact sum of some of them without any library."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from registry.catalog.aliases import set_alias
from registry.catalog.members import member_digests
from registry.pipeline.opened import Registry, opened
from registry.records import Version
from registry.settings import Home, open_home
from registry.store.layout import read_layout
from tests.engines import vllm_protocol
from tests.hub.maker import maker, new_home

vllm_protocol.install()

RANK = 2
NOTES = dict.fromkeys(range(6), 0)
IDS = torch.arange(4, 36).reshape(2, 16)

Terms = Sequence[tuple[str, float]]


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Home:
    """``default``: v1 of six notes, called production; v2 in which note 3 is edited."""
    home = new_home(tmp_path_factory.mktemp("engines") / "home", tiny_model_path)
    with maker(home, rank=RANK) as made:
        version = made.build(NOTES)
        made.build({**NOTES, 3: 1})
        with made.catalog.write() as session:
            set_alias(session, version, "production", who="ada")
    return home


@pytest.fixture
def engine_home(made_home: Home, tmp_path: Path) -> Home:
    """A copy of the home that a test may change."""
    shutil.copytree(made_home.path, tmp_path / "home")
    return open_home(tmp_path / "home")


@pytest.fixture
def registry(engine_home: Home) -> Iterator[Registry]:
    with opened(engine_home) as registry:
        yield registry


@pytest.fixture
def first(registry: Registry) -> list[tuple[str, str]]:
    """The digests of the documents of v1 with those of their adapters."""
    return digests_of(registry, registry.version("default@v1"))


def digests_of(registry: Registry, version: Version) -> list[tuple[str, str]]:
    with registry.catalog.read() as session:
        return list(member_digests(session, version))


@pytest.fixture
def fresh_model(tiny_model_path: Path) -> Callable[[], PreTrainedModel]:
    """A function to the base model, loaded anew."""
    return lambda: AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)


def deltas(registry: Registry, terms: Terms, scale: float) -> dict[str, Tensor]:
    """Return what the sum of adapters adds to each module's weight, in float64."""
    summed: dict[str, Tensor] = {}
    for digest, factor in terms:
        data = registry.adapters([digest])[digest]
        layout = read_layout(data)
        vector = torch.frombuffer(bytearray(layout.body(data)), dtype=getattr(torch, layout.dtype)).double()
        for module, specs in layout.modules.items():
            a, b = (vector[s.offset_elements : s.offset_elements + s.elements].view(s.shape) for s in specs)
            summed[module] = summed.get(module, torch.zeros(())) + factor * scale * (b @ a)
    return summed


def exact_logits(model: PreTrainedModel, added: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        for module, delta in added.items():
            weight = model.get_submodule(module).weight
            weight.copy_((weight.double() + delta).float())
    return logits(model)


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())
