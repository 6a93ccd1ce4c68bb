"""``pragreg export --vllm``: merged adapters as folders, and the command that serves them with vLLM."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from registry.base_model import locate
from registry.base_model.location import GGUF_REVISION, published_name
from registry.digests import sha256_hex, short
from registry.errors import NotFoundError, UsageError
from registry.merging.export import CARD_FILE, card, lora_config
from registry.merging.folders import check_free, new_folder
from registry.merging.methods import DEFAULT_MERGE
from registry.pipeline.merged_folders import (
    FolderPlan,
    find_retrieval,
    merged_adapter,
    plan_of_adapter,
    plan_of_retrieval,
    write_files,
)
from registry.pipeline.opened import Registry, opened
from registry.pipeline.retrievals import NAME, NamedDocuments, parse_name, recall, retrieval_name
from registry.progress import Progress
from registry.records import BaseModel
from registry.settings import Home

MOST_AT_ONCE = 8
"""So many adapters are held on the device for one batch at most: each costs its memory from the start."""


@dataclass(frozen=True)
class VllmFolder:
    """A folder that was written: ``name`` is what requests call it, ``digest`` that of its adapter file.

    ``adapters`` are digests with their factors, the common part not counted.
    """

    name: str
    folder: Path
    digest: str
    rank: int
    alpha: float
    adapters: tuple[tuple[str, float], ...]
    common: float
    size_bytes: int


@dataclass(frozen=True)
class VllmExport:
    """What was written, and the words of the command that serves it."""

    folders: tuple[VllmFolder, ...]
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.words)


def export_for_vllm(
    home: Home, names: Sequence[str], out: Path, progress: Progress, *, merge: str = DEFAULT_MERGE
) -> VllmExport:
    """Write what each name stands for as a folder: ``out`` itself for one, a subfolder for several.

    A name is ``CORPUS@REF:DOCUMENT,...``, the digest of a retrieval, or an adapter's digest or its beginning.
    Every folder's rank is one that vLLM takes, and every block of the model has weights in it, be they zeros.

    Raises:
        NotFoundError: a version, document, retrieval or adapter is unknown.
        UsageError: the merge is wrong, the base models differ, the rank is too large, or a folder is not empty.
        IntegrityError: an adapter's bytes are damaged.
        BaseModelError: the base model cannot be had.
        StorageError: a folder cannot be written.
    """
    with opened(home) as registry:
        named = (_planned(registry, name, merge) for name in dict.fromkeys(names))
        plans = {name: replace(plan, all_blocks=True) for name, plan in named}  # LoRAX passes over others, silently
        bases = {plan.base_model.fingerprint: plan.base_model for plan in plans.values()}
        if len(bases) > 1:
            listed = ", ".join(base.reference for base in bases.values())
            raise UsageError(
                f"the adapters belong to {len(bases)} base models: {listed}",
                hint="export those of one base model at a time: vLLM serves one",
            )
        distinct = {plan.digest: plan for plan in plans.values()}
        targets = {digest: out if len(distinct) == 1 else out / f"merged-{short(digest)}" for digest in distinct}
        for target in targets.values():
            check_free(target)
        served = _served_model(registry, next(iter(bases.values())), progress)
        written = {digest: _write(registry, plan, targets[digest], served) for digest, plan in distinct.items()}
    folders = tuple(replace(written[plan.digest], name=name) for name, plan in plans.items())
    return VllmExport(folders, tuple(_words(served, folders)))


def _planned(registry: Registry, name: str, merge: str) -> tuple[str, FolderPlan]:
    """Return a name that means the same for ever, and the plan of its folder."""
    parsed = parse_name(name)
    if isinstance(parsed, NamedDocuments) or (parsed and recall(registry.home, parsed)):
        retrieval = find_retrieval(registry, name, merge)
        plan = plan_of_retrieval(registry, retrieval)
        if isinstance(parsed, NamedDocuments) and plan.version:
            return retrieval_name(plan.version.reference, [one.document for one in retrieval.documents]), plan
        return name, plan
    try:
        plan = plan_of_adapter(registry, name)
    except NotFoundError as error:
        if ":" not in name:
            raise
        raise NotFoundError(f"{error.message}, and {name[:80]!r} is no {NAME}", hint=error.hint) from error
    ((digest, _),) = plan.adapters
    return f"adapter-{short(digest)}", plan


def _write(registry: Registry, plan: FolderPlan, folder: Path, served: tuple[str, str | None]) -> VllmFolder:
    layout, data = merged_adapter(registry, plan)
    digest = sha256_hex(data)
    about = {"adapter": f"sha256:{digest}", "recipe": f"sha256:{plan.recipe.digest}"}
    about |= {f"adapter {number}": f"{factor:g} times {own}" for number, (own, factor) in enumerate(plan.adapters, 1)}
    if plan.common:
        about["common part"] = f"{plan.common:g} times"
    with new_folder(folder) as partial:
        write_files(partial, layout, data, plan, served)
        text = card(lora_config(layout, plan.alpha, plan.base_model), plan.base_model, about)
        (partial / CARD_FILE).write_text(text, encoding="utf-8")
    path = folder.expanduser().absolute()
    return VllmFolder("", path, digest, plan.rank, plan.alpha, plan.adapters, plan.common, len(data))


def _served_model(registry: Registry, base_model: BaseModel, progress: Progress) -> tuple[str, str | None]:
    """Return the model that vLLM is to load, and its revision on the Hub.

    A GGUF file's is its converted copy: those are the weights that the adapters were trained on.
    """
    if base_model.revision and base_model.revision.startswith(GGUF_REVISION):
        files = locate(
            base_model.reference,
            models_path=registry.home.models_path,
            revision=base_model.revision,
            notify=progress.say,
        )
        return str(files.folder), None
    return published_name(base_model)


def _words(served: tuple[str, str | None], folders: Sequence[VllmFolder]) -> Iterator[str]:
    model, revision = served
    yield from ("vllm", "serve", model)
    if revision:
        yield from ("--revision", revision)
    yield from ("--enable-lora", "--max-lora-rank", str(max(folder.rank for folder in folders)))
    at_once = min(len(folders), MOST_AT_ONCE)
    yield from ("--max-loras", str(at_once), "--max-cpu-loras", str(len(folders)))
    yield "--lora-modules"
    for folder in folders:
        # As JSON: where a name holds a comma, vLLM does not read NAME=FOLDER.
        yield json.dumps({"name": folder.name, "path": str(folder.folder)})
