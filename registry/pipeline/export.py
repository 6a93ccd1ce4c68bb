"""Export and merge: adapters as standard PEFT folders, and base models with adapters merged into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.base_model import load
from registry.catalog.adapters import resolve_adapter
from registry.catalog.documents import resolve_document
from registry.catalog.members import members
from registry.catalog.recipes import get_base_model, get_recipe
from registry.digests import short
from registry.errors import NotFoundError, UsageError
from registry.merging.export import export_adapter
from registry.merging.folders import check_free
from registry.merging.offline import MergeSettings, merge_into_base, merge_offline
from registry.pipeline.base_models import files_of
from registry.pipeline.opened import Registry, opened
from registry.progress import Progress
from registry.settings import Home
from registry.store.layout import read_layout

MAX_MERGED = 64
"""The most adapters that are merged into one: more would neither fit the memory nor mean anything."""


@dataclass(frozen=True)
class Exported:
    """A folder that was written, and what it holds."""

    folder: Path
    digests: tuple[str, ...]


def export(home: Home, adapters: Sequence[str], out: Path) -> list[Exported]:
    """Write each adapter (a digest or its beginning) as a PEFT folder: ``out`` itself for one, a subfolder for several.

    Raises:
        NotFoundError: an adapter is not in the catalog.
        UsageError: a folder exists and is not empty; then nothing is written.
        IntegrityError: an adapter's bytes are damaged.
    """
    written: list[Exported] = []
    with opened(home) as registry:
        with registry.catalog.read() as session:
            records = [resolve_adapter(session, prefix) for prefix in dict.fromkeys(adapters)]
            recipes = {record.recipe_digest: get_recipe(session, record.recipe_digest) for record in records}
            bases = {recipe.base_model: get_base_model(session, recipe.base_model) for recipe in recipes.values()}
        data = registry.adapters(record.digest for record in records)
        folders = [out if len(records) == 1 else out / f"adapter-{short(record.digest)}" for record in records]
        for folder in folders:
            check_free(folder)
        for record, folder in zip(records, folders, strict=True):
            recipe = recipes[record.recipe_digest]
            export_adapter(
                data[record.digest],
                folder,
                recipe=recipe,
                base_model=bases[recipe.base_model],
                about={"document": record.title, "document digest": record.document_digest},
            )
            written.append(Exported(folder, (record.digest,)))
    return written


@dataclass(frozen=True)
class MergeRequest:
    """What `pragreg merge` was asked for.

    ``what`` names documents or adapters (digests or their beginnings), or one version, whose every adapter is taken;
    ``corpus`` is the version in which documents are looked up. ``weights`` has one number each, or is empty for 1.
    """

    what: tuple[str, ...]
    corpus: str
    out: Path
    settings: MergeSettings = field(default_factory=MergeSettings)
    weights: tuple[float, ...] = ()
    into_base: bool = False
    device: str = "auto"


def merge(home: Home, request: MergeRequest, progress: Progress) -> Exported:
    """Merge adapters of one recipe through PEFT and write a PEFT folder, or with ``into_base`` a whole model.

    Raises:
        NotFoundError: a document, adapter or version is not in the catalog.
        UsageError: the adapters have different recipes, or are too many, or the weights are not as many.
    """
    check_free(request.out)
    with opened(home) as registry:
        digests = _adapters_of(registry, request)
        weights = request.weights or (1.0,) * len(digests)
        if len(weights) != len(digests):
            raise UsageError(
                f"{len(weights)} weights are given for {len(digests)} adapters", hint="give --weights one number each"
            )
        with registry.catalog.read() as session:
            found = {resolve_adapter(session, digest).recipe_digest for digest in digests}
            if len(found) > 1:
                raise UsageError(
                    f"the adapters have {len(found)} different recipes, and only adapters of one can be merged",
                    hint="pragreg adapters list shows each adapter's recipe",
                )
            recipe = get_recipe(session, found.pop())
            base_model = get_base_model(session, recipe.base_model)
        adapters = registry.adapters(digests)
        layout = read_layout(next(iter(adapters.values())))
        progress.say(f"merging {len(digests)} adapter{'s' if len(digests) > 1 else ''} by {request.settings.method}")
        loaded = load(files_of(registry, base_model, progress), device=request.device, dtype="float32")
        if request.into_base:
            merge_into_base(loaded, recipe, layout, adapters, weights, request.out, request.settings)
        else:
            merge_offline(loaded, recipe, layout, adapters, weights, request.out, request.settings)
    return Exported(request.out, tuple(digests))


def _adapters_of(registry: Registry, request: MergeRequest) -> list[str]:
    digests: list[str] = []
    for name in request.what:
        digests += _version_adapters(registry, name) or [_one_adapter(registry, request.corpus, name)]
    unique = list(dict.fromkeys(digests))
    if len(unique) > MAX_MERGED:
        raise UsageError(
            f"{len(unique)} adapters cannot be merged into one; the most is {MAX_MERGED}",
            hint="name the documents to merge; `pragreg search` finds them",
        )
    return unique


def _version_adapters(registry: Registry, reference: str) -> list[str]:
    """Return the adapters of the version that ``reference`` names, none if it names no version."""
    try:
        version = registry.version(reference)
    except NotFoundError:
        if "@" in reference:
            raise
        return []
    if version.documents > MAX_MERGED:
        raise UsageError(
            f"{version.reference} has {version.documents} documents, and the most that can be merged is {MAX_MERGED}",
            hint="name the documents to merge; `pragreg search` finds them",
        )
    with registry.catalog.read() as session:
        return [adapter for _, adapter in members(session, version)]


def _one_adapter(registry: Registry, corpus: str, name: str) -> str:
    """Return the adapter of a document of ``corpus``, or the adapter of that digest."""
    with registry.catalog.read() as session:
        try:
            return resolve_adapter(session, name).digest
        except NotFoundError as error:
            no_adapter = error.message
        try:
            document = resolve_document(session, name).digest
        except NotFoundError as error:
            raise NotFoundError(
                f"{name!r} is no corpus; {no_adapter}; {error.message}",
                hint="pragreg corpora list, pragreg documents list and pragreg adapters list show what there is",
            ) from error
    version = registry.version(corpus)
    found = registry.documents(version, [document])
    if document not in found:
        raise NotFoundError(
            f"document {short(document)} is not in {version.reference}",
            hint="name its corpus with --corpus, or see `pragreg documents show`",
        )
    return found[document][1]
