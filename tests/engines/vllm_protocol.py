"""What the plug-in sees of vLLM 0.33.0, written from its sources: for tests where vLLM itself is not installed.

``vllm.lora.request.LoRARequest``, ``vllm.lora.resolver.LoRAResolver`` and its registry, as far as a resolver touches
them; how ``OpenAIServingModels.resolve_lora`` calls resolvers; and what ``PEFTHelper`` and ``LoRAModel`` require of a
folder. ``install`` puts the modules where the plug-in imports them from; a real vLLM is left alone.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""``vllm.config.lora.MaxLoRARanks``."""
EXPECTED_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""The modules of an adapter for Llama: the parts of the packed ``qkv_proj`` and ``gate_up_proj``, and the others."""

IS_REAL = find_spec("vllm") is not None
"""Whether vLLM itself is installed."""


@dataclass(eq=False)
class LoRARequest:
    """An adapter that an engine is to load: equal and hashed by its name alone."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoRARequest) and self.lora_name == other.lora_name

    def __hash__(self) -> int:
        return hash(self.lora_name)


class LoRAResolver(ABC):
    """The base class of resolvers."""

    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...


@dataclass
class _Registry:
    resolvers: dict[str, LoRAResolver] = field(default_factory=dict)

    def get_supported_resolvers(self) -> Any:
        return self.resolvers.keys()

    def register_resolver(self, resolver_name: str, resolver: LoRAResolver) -> None:
        self.resolvers[resolver_name] = resolver

    def get_resolver(self, resolver_name: str) -> LoRAResolver:
        return self.resolvers[resolver_name]


LoRAResolverRegistry = _Registry()


@dataclass(frozen=True)
class LoadedModule:
    """What vLLM has of one module after loading: A [r, in], B [out, r] and the factor of their product."""

    a: Any
    b: Any
    scaling: float


def install() -> None:
    """Put the modules into ``sys.modules``, unless vLLM is installed."""
    if IS_REAL:
        return
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request", "vllm.lora.resolver")}
    for module in modules.values():
        module.__path__ = []
    modules["vllm.lora.request"].__dict__.update(LoRARequest=LoRARequest)
    modules["vllm.lora.resolver"].__dict__.update(LoRAResolver=LoRAResolver, LoRAResolverRegistry=LoRAResolverRegistry)
    sys.modules.update(modules)


def load_folder(folder: Path, max_lora_rank: int) -> dict[str, LoadedModule]:
    """Return what vLLM loads from a folder, by module; raises where it refuses the folder."""
    if IS_REAL:
        return _load_with_vllm(folder, max_lora_rank)
    from safetensors.torch import load_file

    assert max_lora_rank in MAX_LORA_RANKS
    config = json.loads((folder / "adapter_config.json").read_text())
    rank, alpha = config["r"], config["lora_alpha"]
    assert config["target_modules"]
    assert 0 < rank <= max_lora_rank
    assert config.get("bias", "none") == "none"
    refused = ("modules_to_save", "use_dora", "lora_bias", "layer_replication", "alora_invocation_tokens")
    assert not any(config.get(name) for name in refused)
    assert not isinstance(config.get("init_lora_weights", True), str)
    matrices: dict[str, dict[str, Any]] = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        *path, which, last = name.removeprefix("base_model.model.").split(".")
        assert which in ("lora_A", "lora_B")
        assert last == "weight"
        assert path[-1] in EXPECTED_MODULES
        matrices.setdefault(".".join(path), {})[which] = tensor
    return {name: LoadedModule(both["lora_A"], both["lora_B"], alpha / rank) for name, both in matrices.items()}


def _load_with_vllm(folder: Path, max_lora_rank: int) -> dict[str, LoadedModule]:
    import torch
    from vllm.config.lora import LoRAConfig
    from vllm.lora import lora_model
    from vllm.lora.peft_helper import PEFTHelper

    lora_model.PIN_MEMORY = torch.cuda.is_available()
    helper = PEFTHelper.from_local_dir(str(folder), 512)
    helper.validate_legal(LoRAConfig(max_lora_rank=max_lora_rank))
    loaded = lora_model.LoRAModel.from_local_checkpoint(
        str(folder), EXPECTED_MODULES, helper, lora_model_id=1, device="cpu"
    )
    return {name: LoadedModule(layer.lora_a, layer.lora_b, layer.scaling) for name, layer in loaded.loras.items()}


class Serving:
    """How vLLM's server comes from a model name to a request, and what it remembers of it."""

    def __init__(self, model: str, resolvers: list[Any]) -> None:
        self.model, self.resolvers = model, resolvers
        self.lora_requests: dict[str, Any] = {}
        self.loaded: list[Any] = []

    async def resolve_lora(self, lora_name: str) -> Any:
        if lora_name in self.lora_requests:
            return self.lora_requests[lora_name]
        number = len(self.lora_requests) + 1
        for resolver in self.resolvers:
            request = await resolver.resolve_lora(self.model, lora_name)
            if request is not None:
                request.lora_int_id = number
                self.loaded.append(load_folder(Path(request.lora_path), 512))
                self.lora_requests[lora_name] = request
                return request
        return None
