"""``pragreg adapters import``: LoRA adapters made elsewhere, of documents that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.orm import Session

from registry.base_model import ModelFiles, fingerprint, locate, target_shapes
from registry.base_model.location import published_name
from registry.catalog.adapters import add_pack, find_locations
from registry.catalog.imported import IMPORTED, forget_imported, keep_imported
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.remotes.receiving import add_records
from registry.digests import json_digest
from registry.errors import BaseModelError, IntegrityError, UsageError
from registry.hub.client import Hub
from registry.hub.manifest.published_names import published_base_model
from registry.hub.names import parse_repository
from registry.hub.peft_adapters import PeftAdapter, PeftConfig, read_adapter, read_config
from registry.hub.peft_repositories import (
    ADAPTER_FILE,
    ADAPTER_LIMIT_BYTES,
    CONFIG_FILE,
    FolderSource,
    HubSource,
    PeftSource,
    adapter_folders,
)
from registry.pipeline.opened import Registry, opened
from registry.progress import Progress
from registry.published import AnsweredRequest, MemberRecord
from registry.recipe import Recipe
from registry.records import Augmentation, BaseModel, Document, Pack, Training
from registry.settings import Home
from registry.store.layout import AdapterLayout

GENERATOR = "import"
AUGMENTER = "imported"
"""Part of the recipe of every import, so that it is no recipe by which anything is built."""

_IN_BLOCK = re.compile(r".+?\.(?P<number>\d+)\.(?P<path>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNTRAINED = Training(
    examples=0, tokens=0, steps=0, first_loss=0.0, last_loss=0.0, elapsed_seconds=0.0, device="", dtype="", group_size=1
)


@dataclass(frozen=True)
class ImportRequest:
    """What is imported: ``source`` is a folder, or ``NAMESPACE/NAME`` (``@REVISION``) on the Hub.

    ``subfolders`` are the folders in it; none for the root, or where that holds no adapter, all folders right below.
    ``base_model`` is a reference to the model that they were trained for, None for the home's, by whose name they must
    then ask for it.
    """

    source: str
    subfolders: tuple[str, ...] = ()
    base_model: str | None = None


@dataclass(frozen=True)
class ImportedAdapter:
    """An adapter that is in the registry now; ``is_new`` says that it was not before."""

    digest: str
    title: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    size_bytes: int
    is_new: bool


@dataclass(frozen=True)
class _Base:
    """The base model that adapters are for; ``is_named`` says that the user named it."""

    files: ModelFiles
    record: BaseModel
    is_named: bool


@dataclass(frozen=True)
class _Checked:
    """An adapter of the source that can be imported."""

    title: str
    adapter: PeftAdapter
    recipe: Recipe


def import_adapters(home: Home, request: ImportRequest, progress: Progress) -> list[ImportedAdapter]:
    """Check adapters made elsewhere and put them into the registry, all or none.

    Raises:
        UsageError: the source is neither a folder nor a repository's name.
        NotFoundError: it holds no adapter.
        HubError, InputError: it cannot be read.
        IntegrityError: a configuration or adapter is malformed, or says what cannot be kept.
        BaseModelError: the adapters are for another base model.
    """
    source, revision = _source(request.source, progress)
    with opened(home) as registry:
        sizes = adapter_folders(source, request.subfolders)
        total = sum(config + tensors for config, tensors in sizes.values())
        if total > ADAPTER_LIMIT_BYTES:
            raise UsageError(
                f"the {len(sizes)} adapters of {source.name} have {total} bytes; at most {ADAPTER_LIMIT_BYTES} are "
                "imported at once",
                hint="name some with --subfolder",
            )
        reference = request.base_model or home.base_model
        files = locate(reference, models_path=home.models_path, notify=progress.say)
        base = _Base(files, fingerprint(files), request.base_model is not None)
        progress.start("importing", len(sizes))
        checked = []
        for folder, (config_bytes, adapter_bytes) in sizes.items():
            checked.append(_read(source, folder, config_bytes, adapter_bytes, base))
            progress.advance()
        progress.done()
        known = _known(registry, checked)
        _store(registry, [one for one in checked if one.adapter.digest not in known], base.record, revision)
        with registry.catalog.write() as session:
            keep_imported(session, known)
    return [_imported(one, one.adapter.digest not in known) for one in checked]


def forget_adapters(home: Home, digests: Sequence[str]) -> list[str]:
    """Let go of imported adapters (digests or their beginnings), so that gc frees them; return their digests.

    Raises:
        NotFoundError: an adapter is not in the catalog.
        UsageError: it was not imported; then none is let go of.
    """
    with opened(home) as registry, registry.catalog.write() as session:
        return forget_imported(session, digests)


def _source(text: str, progress: Progress) -> tuple[PeftSource, str]:
    """Return where the adapters are and at which commit, "" for a folder."""
    folder = Path(text).expanduser()
    if folder.is_dir():
        return FolderSource(folder), ""
    try:
        repository, revision = parse_repository(text)
    except UsageError as error:
        raise UsageError(
            f"{text!r} is neither a folder nor a repository on the Hub", hint="name a folder, or NAMESPACE/NAME"
        ) from error
    hub = Hub(notify=progress.say)
    commit = hub.commit_of(str(repository), revision or "main")
    return HubSource(hub, str(repository), commit), commit


def _read(source: PeftSource, folder: str, config_bytes: int, adapter_bytes: int, base: _Base) -> _Checked:
    place = f"{folder}/" if folder else ""
    where = f"{source.name}/{place}"
    config = read_config(source.read(place + CONFIG_FILE, config_bytes), what=f"{where}{CONFIG_FILE}")
    _require_base(config, base, f"{where}{CONFIG_FILE}")
    what = f"{where}{ADAPTER_FILE}"
    adapter = read_adapter(source.read(place + ADAPTER_FILE, adapter_bytes), config, what=what)
    targets, first_layer = _fitted(adapter.layout, base, what)
    recipe = Recipe(
        base_model=base.record.fingerprint,
        rank=config.rank,
        alpha=config.alpha,
        targets=targets,
        first_layer=first_layer,
        augmenter=AUGMENTER,
        pairs=0,
        dtype="float32",
        adapter_dtype=adapter.layout.dtype,
    )
    return _Checked(f"{source.title}/{folder}" if folder else source.title, adapter, recipe)


def _require_base(config: PeftConfig, base: _Base, what: str) -> None:
    """Check that a configuration is for the base model by name, unless the user says which it is."""
    if base.is_named:
        return
    name, revision = published_name(base.record)
    hint = f"if they are one model: --base-model {base.record.reference}; else name theirs"
    if config.base_model not in (name, base.record.reference, published_base_model(base.record).reference):
        raise BaseModelError(f"{what} is for the base model {config.base_model!r:.100}, not for {name}", hint=hint)
    is_commit = config.revision is not None and _COMMIT.fullmatch(config.revision)
    if is_commit and revision is not None and config.revision != revision:
        raise BaseModelError(f"{what} is for {name} at {config.revision}, and here it is at {revision}", hint=hint)


def _fitted(layout: AdapterLayout, base: _Base, what: str) -> tuple[tuple[str, ...], int]:
    """Return targets and first layer by which a recipe describes just the modules of a layout.

    Raises:
        BaseModelError: the base model has no such modules.
        IntegrityError: no recipe describes them: some blocks have others than the rest, or they are in no block.
    """
    paths: dict[str, set[int]] = {}
    for module in layout.modules:
        found = _IN_BLOCK.fullmatch(module)
        if found is None:
            raise IntegrityError(f"{what} adapts {module!r}, which lies in none of the blocks")
        paths.setdefault(found["path"], set()).add(int(found["number"]))
    first = min(min(numbers) for numbers in paths.values())
    names = {path.rpartition(".")[2] for path in paths}
    targets = tuple(sorted(names if len(names) == len(paths) else paths))
    try:
        expected = target_shapes(base.files.folder, targets, first)
    except (BaseModelError, UsageError) as error:
        raise BaseModelError(f"{what} does not fit {base.record.reference}: {error.message}") from error
    if differing := _difference(layout.shapes, expected):
        raise BaseModelError(f"{what} does not fit {base.record.reference}: {differing}")
    if missing := expected.keys() - layout.shapes.keys():
        raise IntegrityError(
            f"{what} adapts only some of the blocks from {first} on: {min(missing)!r} is left out",
            hint="only adapters of the same modules in all blocks from one on can be kept",
        )
    return targets, first


def _difference(shapes: Mapping[str, tuple[int, int]], expected: Mapping[str, tuple[int, int]]) -> str | None:
    for module, shape in shapes.items():
        if module not in expected:
            return f"it has no {module!r}"
        if shape != expected[module]:
            return f"{module!r} has the shape {list(expected[module])} there, and {list(shape)} for the adapter"
    return None


def _known(registry: Registry, checked: Sequence[_Checked]) -> set[str]:
    """Return those of the adapters that lie in the store already."""
    with registry.catalog.read() as session:
        return set(find_locations(session, (one.adapter.digest for one in checked)))


def _store(registry: Registry, checked: Sequence[_Checked], base_model: BaseModel, revision: str) -> None:
    if not checked:
        return
    records = [_record(one, revision) for one in checked]

    def write() -> Pack:
        return registry.packs.write((one.adapter.digest, one.adapter.data) for one in checked)

    def record(session: Session, pack: Pack) -> None:
        add_base_model(session, base_model)
        for recipe in {one.recipe.digest: one.recipe for one in checked}.values():
            add_recipe(session, recipe)
        add_records(session, records)
        add_pack(session, pack, [], None)
        keep_imported(session, (one.adapter.digest for one in checked))

    registry.store(write, record)


def _record(one: _Checked, revision: str) -> MemberRecord:
    """Return what the catalog keeps; the commit stands in the place of the version of prompts."""
    document = Document.of(one.title, "")
    augmentation = Augmentation(document.digest, json_digest([GENERATOR, one.title, revision]), GENERATOR, revision)
    return MemberRecord(
        document_digest=document.digest,
        title=document.title,
        text=document.text,
        augmentation_digest=augmentation.digest,
        generator=GENERATOR,
        prompts_version=revision,
        rewrites=0,
        pairs=0,
        payload=augmentation.payload,
        requests=(AnsweredRequest(augmentation.request_digest, 0, 0, 0, 0.0),),
        adapter_digest=one.adapter.digest,
        recipe_digest=one.recipe.digest,
        kind="lora",
        producer=IMPORTED,
        size_bytes=len(one.adapter.data),
        parameters=one.adapter.layout.elements,
        training=_UNTRAINED,
        created_at=datetime.now(UTC),
    )


def _imported(one: _Checked, is_new: bool) -> ImportedAdapter:
    recipe, adapter = one.recipe, one.adapter
    return ImportedAdapter(
        adapter.digest, one.title, recipe.rank, recipe.alpha, recipe.targets, len(adapter.data), is_new
    )
