"""Merged adapters as folders for other engines: what goes into one, and its two files.

A folder is decided by its ``FolderPlan``: the same plan gives the same bytes, and its digest names them. Imports no
torch, PEFT or transformers, because the plug-in for vLLM runs in vLLM's environment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.catalog.adapters import resolve_adapter
from registry.catalog.documents import resolve_document
from registry.catalog.members import member_adapters
from registry.catalog.recipes import get_base_model, get_recipe
from registry.digests import json_digest, short
from registry.errors import NotFoundError, UsageError
from registry.merging.concatenated import concatenate
from registry.merging.methods import DEFAULT_MERGE, Coefficients, Merge, parse_merge
from registry.merging.peft_settings import adapter_settings
from registry.merging.products import inner_products
from registry.pipeline.common_part import common_part, mean_name
from registry.pipeline.opened import Registry
from registry.pipeline.retrievals import NamedDocuments, Retrieval, check_name, recall, retrieval_of
from registry.recipe import Recipe
from registry.records import BaseModel, Hit, Version
from registry.store.headers import Bytes
from registry.store.layout import AdapterLayout, read_layout

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.33 takes for ``--max-lora-rank``."""
FORMAT = 1
"""Raised when the same plan gives other bytes."""
ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True)
class FolderPlan:
    """The adapters (digests) of one merged folder with their factors, and the rank that they are filled up to.

    ``common`` counts the common part of ``version``, and is 0 without one. ``all_blocks`` gives zeros to the blocks
    that have no adapter.
    """

    adapters: tuple[tuple[str, float], ...]
    recipe: Recipe
    base_model: BaseModel
    rank: int
    version: Version | None = None
    common: float = 0.0
    all_blocks: bool = False

    @property
    def alpha(self) -> float:
        """The alpha that keeps the recipe's alpha / r."""
        return self.recipe.alpha * self.rank / self.recipe.rank

    @property
    def digest(self) -> str:
        """Sha256 over all that decides the folder's bytes."""
        common = [self.recipe.task_adapter or mean_name(self.version), self.common] if self.version else []
        return json_digest(
            {
                "format": FORMAT,
                "recipe": self.recipe.digest,
                "adapters": [list(term) for term in self.adapters],
                "common": common if self.common else [],
                "rank": self.rank,
                "all_blocks": self.all_blocks,
            }
        )


def find_retrieval(registry: Registry, name: str, merge: str = DEFAULT_MERGE) -> Retrieval:
    """Return the retrieval that a name stands for: ``CORPUS@REF:DOCUMENT,...`` or the digest of a remembered one.

    Named documents have no scores. They are weighed by ``merge`` as if they had equal ones: the usual method gives
    each the same share.

    Raises:
        UsageError: the name or the merge is wrong, or names a document twice.
        NotFoundError: there is no such version, document or retrieval.
        IntegrityError: an adapter's bytes are damaged.
    """
    parsed = check_name(name)
    if isinstance(parsed, NamedDocuments):
        return _named(registry, parsed, merge)
    retrieval = recall(registry.home, parsed)
    if retrieval is None:
        raise NotFoundError(
            f"there is no retrieval {short(parsed)}",
            hint="`pragreg search QUESTION --retrieval` makes one; of many the last used are kept",
        )
    return retrieval


def plan_of_retrieval(registry: Registry, retrieval: Retrieval) -> FolderPlan:
    """Return the plan of a retrieval's folder.

    Raises:
        NotFoundError: its version is not there any more.
        UsageError: it has too many adapters for any rank.
    """
    version = registry.version(retrieval.reference)
    recipe, base_model = registry.recipe_of(version)
    adapters = tuple((one.adapter, one.factor) for one in retrieval.documents)
    rank = engine_rank((len(adapters) + bool(retrieval.common)) * recipe.rank)
    return FolderPlan(adapters, recipe, base_model, rank, version, retrieval.common)


def plan_of_adapter(registry: Registry, prefix: str) -> FolderPlan:
    """Return the plan of a folder of a single adapter, a digest or its beginning.

    Raises:
        NotFoundError: it is not in the catalog.
        UsageError: its rank is beyond any engine's.
    """
    with registry.catalog.read() as session:
        record = resolve_adapter(session, prefix)
        recipe = get_recipe(session, record.recipe_digest)
        base_model = get_base_model(session, recipe.base_model)
    return FolderPlan(((record.digest, 1.0),), recipe, base_model, engine_rank(recipe.rank))


def engine_rank(rank: int) -> int:
    """Return the next rank that vLLM takes.

    Raises:
        UsageError: there is none.
    """
    for allowed in VLLM_RANKS:
        if rank <= allowed:
            return allowed
    raise UsageError(
        f"the merged adapter would have rank {rank}, and vLLM takes {VLLM_RANKS[-1]} at most",
        hint="name fewer documents; `pragreg merge --method svd --svd-rank N` makes a smaller one",
    )


def merged_adapter(registry: Registry, plan: FolderPlan) -> tuple[AdapterLayout, bytes]:
    """Return the layout and the ``adapter_model.safetensors`` of a plan's folder.

    Whatever builds and gc do meanwhile, the version keeps its adapters: it is being read.

    Raises:
        NotFoundError: the version or an adapter is gone.
        IntegrityError: an adapter's bytes are damaged.
        HubError: an adapter lies in a repository only, which cannot be reached.
    """
    if plan.version is None:
        return _merged(registry, plan)
    with registry.leased(plan.version):
        return _merged(registry, plan)


def write_files(
    folder: Path, layout: AdapterLayout, data: bytes, plan: FolderPlan, model: tuple[str, str | None] | None = None
) -> None:
    """Write the two files of a folder that PEFT, vLLM and LoRAX load; errors are the system's own.

    ``model`` names the base model (a folder or Hub id, and the revision) where others would find it elsewhere.
    """
    settings = {"peft_type": "LORA", **adapter_settings(layout, plan.alpha, plan.base_model)}
    if model is not None:
        settings["base_model_name_or_path"], settings["revision"] = model
    (folder / ADAPTER_FILE).write_bytes(data)
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def coefficients(registry: Registry, version: Version, hits: Sequence[Hit], merge: Merge) -> Coefficients:
    """Return the factors of the adapters of hits, best first.

    Raises:
        IntegrityError: an adapter's bytes are damaged.
    """
    scores = [hit.score for hit in hits]
    if not merge.needs_products or not hits:
        return merge.coefficients(scores)
    recipe, _ = registry.recipe_of(version)
    layout, bodies = _bodies(registry, [hit.adapter_digest for hit in hits])
    common = [common_part(registry, version, recipe, layout)] if merge.needs_common else []
    return merge.coefficients(scores, inner_products(layout, [*bodies, *common], recipe.scale))


def _named(registry: Registry, named: NamedDocuments, merge: str) -> Retrieval:
    method = parse_merge(merge, len(named.documents))
    version = registry.version(named.reference)
    with registry.catalog.read() as session:
        digests = [resolve_document(session, prefix).digest for prefix in named.documents]
    if len(set(digests)) < len(digests):
        raise UsageError("a document is named twice", hint="name each document once")
    known = registry.documents(version, digests)
    for digest in digests:
        if digest not in known:
            raise NotFoundError(
                f"document {short(digest)} is not in {version.reference}",
                hint=f"`pragreg documents list --corpus {version.corpus}` shows what is",
            )
    hits = [Hit(rank, 1.0, *known[digest]) for rank, digest in enumerate(digests, 1)]
    return retrieval_of(version, hits, coefficients(registry, version, hits, method))


def _merged(registry: Registry, plan: FolderPlan) -> tuple[AdapterLayout, bytes]:
    layout, bodies = _bodies(registry, [digest for digest, _ in plan.adapters] or [_any_adapter(registry, plan)])
    terms: list[tuple[Bytes, float]] = [
        (body, factor) for body, (_, factor) in zip(bodies, plan.adapters, strict=False)
    ]
    if plan.common and plan.version is not None:
        terms.append((common_part(registry, plan.version, plan.recipe, layout), plan.common))
    return concatenate(layout, terms, plan.rank, all_blocks=plan.all_blocks)


def _any_adapter(registry: Registry, plan: FolderPlan) -> str:
    """Return an adapter that shows the layout, where only the common part is merged."""
    if plan.version is None:
        raise UsageError("nothing is named that could be merged")
    with registry.catalog.read() as session:
        return next(member_adapters(session, plan.version))


def _bodies(registry: Registry, digests: Sequence[str]) -> tuple[AdapterLayout, list[memoryview]]:
    data = registry.adapters(digests)
    layout = read_layout(data[digests[0]])
    return layout, [layout.body(data[digest]) for digest in digests]
