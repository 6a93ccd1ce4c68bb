"""Which folders a push of single adapters consists of: written by us, also where a merge or an export lies ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCard

from registry.base_model.location import published_name
from registry.catalog.adapters import resolve_adapter
from registry.catalog.members import members
from registry.catalog.recipes import get_base_model, get_recipe
from registry.digests import short
from registry.errors import InputError, UsageError
from registry.hub.card import licence_fields
from registry.hub.client import NewFile
from registry.hub.manifest.published_names import published_base_model
from registry.hub.manifest.text import plain
from registry.hub.names import CARD
from registry.hub.peft_adapters import PeftAdapter, read_adapter, read_config
from registry.hub.peft_repositories import ADAPTER_FILE, CONFIG_FILE, FolderSource, adapter_folders
from registry.merging.export import Published, export_adapter, front_matter, lora_config, settings_of
from registry.pipeline.opened import Registry
from registry.records import BaseModel

MOST_ADAPTERS = 64
"""More than that are a corpus, which `pragreg push` without ``--format peft`` sends in a few files."""

FOLDER_PREFIX = "adapter-"
FOLDER_FILES = (CONFIG_FILE, ADAPTER_FILE, CARD)
CARD_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True)
class PeftPushRequest:
    """What is pushed where: one of ``adapters`` (digests or their beginnings), ``folder`` and ``reference``.

    ``folder`` is what `pragreg merge` or `pragreg export` wrote; ``reference`` names a version (``corpus@ref``), whose
    every adapter is taken. ``has_text`` has the cards name the documents. ``tag`` is put on the commit.
    """

    repository: str
    adapters: tuple[str, ...] = ()
    folder: Path | None = None
    reference: str | None = None
    private: bool = False
    message: str | None = None
    has_text: bool = True
    tag: str | None = None
    licence: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class PeftFolder:
    """A PEFT folder on its way: where it goes ("" is the root), the adapter's digest, and what it is called."""

    path: str
    digest: str
    title: str
    base_model: BaseModel
    files: tuple[NewFile, ...]


def folders_of_registry(
    registry: Registry, request: PeftPushRequest, repository: str, scratch: Path
) -> list[PeftFolder]:
    """Write the folders of adapters of this registry."""
    digests = list(request.adapters)
    if request.reference is not None:
        version = registry.version(request.reference)
        _require_few(version.documents, version.reference)
        with registry.catalog.read() as session:
            digests = sorted({adapter for _, adapter in members(session, version)})
    with registry.catalog.read() as session:
        records = {record.digest: record for record in (resolve_adapter(session, digest) for digest in digests)}
        recipes = {record.recipe_digest: get_recipe(session, record.recipe_digest) for record in records.values()}
        bases = {recipe.base_model: get_base_model(session, recipe.base_model) for recipe in recipes.values()}
    _require_few(len(records), "the push")
    if len(bases) > 1:
        raise UsageError(
            f"the adapters are for {len(bases)} base models, and a repository names one",
            hint="push them to a repository for each",
        )
    data = registry.adapters(records)
    folders = []
    for digest, record in records.items():
        path = "" if len(records) == 1 else f"{FOLDER_PREFIX}{short(digest)}"
        recipe = recipes[record.recipe_digest]
        base_model = published_base_model(bases[recipe.base_model])
        title = plain(record.title) if request.has_text else ""
        about = {"document": title} if title else {}
        export_adapter(
            data[digest],
            scratch / digest,
            recipe=recipe,
            base_model=base_model,
            about=about | {"document digest": record.document_digest},
            published=_published(repository, path, request),
        )
        files = tuple(
            NewFile(joined(path, file), scratch / digest / file, digest if file == ADAPTER_FILE else None)
            for file in FOLDER_FILES
        )
        folders.append(PeftFolder(path, digest, title, base_model, files))
    return folders


def folders_of_folder(folder: Path, request: PeftPushRequest, repository: str) -> list[PeftFolder]:
    """Take the PEFT folders that lie in a folder, with configurations built anew."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}", hint="pragreg merge or pragreg export writes one")
    source = FolderSource(folder)
    sizes = adapter_folders(source, ())
    _require_few(len(sizes), str(folder))
    folders = []
    for path, (config_bytes, adapter_bytes) in sizes.items():
        where = f"{folder / path}"
        config = read_config(source.read(joined(path, CONFIG_FILE), config_bytes), what=f"{where}/{CONFIG_FILE}")
        adapter = read_adapter(
            source.read(joined(path, ADAPTER_FILE), adapter_bytes), config, what=f"{where}/{ADAPTER_FILE}"
        )
        target = "" if len(sizes) == 1 else f"{FOLDER_PREFIX}{short(adapter.digest)}"
        folders.append(_folder_of(adapter, target, folder / path / CARD, request, repository))
    return folders


def _folder_of(adapter: PeftAdapter, path: str, card: Path, request: PeftPushRequest, repository: str) -> PeftFolder:
    """Return a folder of an adapter whose card a merge or an export wrote."""
    named = adapter.config.base_model or ""
    # Only the reference and the revision show in what is written from it.
    local = BaseModel("", named, adapter.config.revision, "", 0)
    base_model = published_base_model(local)
    name, _ = published_name(base_model)
    try:
        text = card.read_text(encoding="utf-8") if card.stat().st_size <= CARD_LIMIT_BYTES else ""
        model_card = ModelCard(text.replace(named, name) if named else text, ignore_metadata_errors=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{card} cannot be used as a model card: {error}", hint="pragreg merge and pragreg export write one"
        ) from error
    for key, value in licence_fields(request.licence).items():
        model_card.data[key] = value
    place = _published(repository, path, request).place
    content = str(model_card).replace(Published().place, place)
    settings = settings_of(lora_config(adapter.layout, adapter.config.alpha, base_model))
    files = (
        NewFile(joined(path, CONFIG_FILE), settings.encode(), None),
        NewFile(joined(path, ADAPTER_FILE), adapter.data, adapter.digest),
        NewFile(joined(path, CARD), content.encode(), None),
    )
    return PeftFolder(path, adapter.digest, "", base_model, files)


def _published(repository: str, path: str, request: PeftPushRequest) -> Published:
    subfolder = f', subfolder="{path}"' if path else ""
    return Published(f'"{repository}"{subfolder}', licence_fields(request.licence))


def _require_few(count: int, what: str) -> None:
    if count > MOST_ADAPTERS:
        raise UsageError(
            f"{what} has {count} adapters, and at most {MOST_ADAPTERS} are pushed as PEFT folders",
            hint="push the corpus itself, without --format peft; it travels in a few files",
        )


def index_card(folders: Sequence[PeftFolder], request: PeftPushRequest, repository: str) -> str:
    """Return the README.md of a repository of several adapters."""
    base_model = folders[0].base_model
    name, _ = published_name(base_model)
    front = front_matter(base_model, licence_fields(request.licence))
    rows = "\n".join(
        f"| `{folder.path}` | {folder.title.replace('|', '/')} | `{folder.digest}` |"
        for folder in sorted(folders, key=lambda folder: (folder.title, folder.path))
    )
    return f"""{front}
# {len(folders)} LoRA adapters for {name}

Parametric memory of documents, made by pragreg: with one of these adapters the base model can answer questions about
its document without the text in the prompt. Each folder is a standard PEFT folder.

| folder | document | sha256 |
|---|---|---|
{rows}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(
    AutoModelForCausalLM.from_pretrained("{name}"), "{repository}", subfolder="{folders[0].path}"
)
```

`pragreg adapters import {repository}` brings them into a registry.
"""


def joined(folder: str, file: str) -> str:
    """Return the path of a file in a folder, "" being the root."""
    return f"{folder}/{file}" if folder else file
