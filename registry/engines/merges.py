"""From a name that a client sent to a folder with the merged adapter, for whichever engine asks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from registry.base_model import conversion, fingerprint, locate
from registry.base_model.location import GGUF_REVISION, published_name
from registry.engines.folder_cache import FolderCache
from registry.errors import BaseModelError, IntegrityError, UsageError
from registry.merging.methods import DEFAULT_MERGE, parse_merge
from registry.pipeline.merged_folders import find_retrieval, merged_adapter, plan_of_retrieval, write_files
from registry.pipeline.opened import opened
from registry.pipeline.retrievals import parse_name
from registry.records import BaseModel
from registry.settings import HOME_VARIABLE, Home, locate_home, open_home

CACHE_VARIABLE = "PRAGREG_VLLM_CACHE"
BYTES_VARIABLE = "PRAGREG_VLLM_CACHE_BYTES"
FOLDERS_VARIABLE = "PRAGREG_VLLM_CACHE_FOLDERS"
MERGE_VARIABLE = "PRAGREG_VLLM_MERGE"
CACHE_FOLDER = "merged"
DEFAULT_CACHE_BYTES = 10 * 1024**3
DEFAULT_CACHE_FOLDERS = 4096


@dataclass(frozen=True)
class EngineSettings:
    """Where the registry is, how named documents are weighed, and the bounds of the cache of merged folders."""

    home: Home
    cache: Path
    cache_bytes: int = DEFAULT_CACHE_BYTES
    cache_folders: int = DEFAULT_CACHE_FOLDERS
    merge: str = DEFAULT_MERGE


@dataclass(frozen=True)
class MergedFolder:
    """A folder with a merged adapter; ``digest`` is that of its plan: the same for the same bytes."""

    path: Path
    digest: str


def settings_of(environment: Mapping[str, str]) -> EngineSettings | None:
    """Return what the variables of an environment say, None if they name no registry home.

    Raises:
        HomeError: the home is none.
        UsageError: a number or the merge is wrong.
    """
    named = environment.get(HOME_VARIABLE)
    if not named:
        return None
    home = open_home(locate_home(named))
    merge = environment.get(MERGE_VARIABLE) or DEFAULT_MERGE
    parse_merge(merge, merge.count(",") + 1)
    return EngineSettings(
        home,
        Path(environment.get(CACHE_VARIABLE) or home.path / CACHE_FOLDER),
        _number(environment, BYTES_VARIABLE, DEFAULT_CACHE_BYTES),
        _number(environment, FOLDERS_VARIABLE, DEFAULT_CACHE_FOLDERS),
        merge,
    )


class Merges:
    """Merged adapters of a registry by name, as folders. Safe to share between threads."""

    def __init__(self, settings: EngineSettings) -> None:
        """Open the cache; the registry is opened for each name anew, so that it may be moved or mended meanwhile.

        Raises:
            StorageError: the cache cannot be written.
        """
        self._settings = settings
        self._cache = FolderCache(settings.cache, most_bytes=settings.cache_bytes, most_folders=settings.cache_folders)
        self._is_base: dict[tuple[str, str], bool] = {}

    def find(self, served_model: str, name: str) -> MergedFolder | None:
        """Return the folder for a name, None if no name of ours looks like it.

        ``served_model`` is the base model as the engine was told of it: a folder or a Hub id.

        Raises:
            UsageError: the adapters are too many, or the merge does not fit them.
            NotFoundError: there is no such version, document or retrieval.
            BaseModelError: the engine serves another base model than the adapters were trained for.
            PragregError: the catalog, an adapter or the cache cannot be read or written.
        """
        if parse_name(name) is None:
            return None
        with opened(self._settings.home) as registry:
            plan = plan_of_retrieval(registry, find_retrieval(registry, name, self._settings.merge))
            self._require_base(served_model, plan.base_model)

            def write(folder: Path) -> None:
                write_files(folder, *merged_adapter(registry, plan), plan)

            return MergedFolder(self._cache.take(plan.digest, write), plan.digest)

    def _require_base(self, served_model: str, base_model: BaseModel) -> None:
        key = served_model, base_model.fingerprint
        if key not in self._is_base:
            self._is_base[key] = is_base(served_model, base_model, self._settings.home.models_path)
        if not self._is_base[key]:
            raise BaseModelError(
                f"the engine serves {served_model}, and the adapters belong to {base_model.reference} with the "
                f"fingerprint {base_model.fingerprint}",
                hint="`pragreg export --vllm` prints which model to serve",
            )


def is_base(served_model: str, base_model: BaseModel, models_path: Path) -> bool:
    """Return whether what an engine serves is a base model: the same Hub id, or a folder of the same fingerprint.

    Of a GGUF file it is a converted copy, whose weights the adapters were trained on.

    Raises:
        BaseModelError: the folder holds no model.
    """
    folder = Path(served_model)
    revision = base_model.revision or ""
    if revision.startswith(GGUF_REVISION):
        with suppress(IntegrityError):
            conversion.check_converted(folder, revision.removeprefix(GGUF_REVISION), models_path)
            return True
        return False
    if folder.is_dir():
        return fingerprint(locate(served_model, models_path=models_path)).fingerprint == base_model.fingerprint
    return served_model == published_name(base_model)[0]


def _number(environment: Mapping[str, str], name: str, usual: int) -> int:
    text = environment.get(name)
    if not text:
        return usual
    if not text.isascii() or not text.isdigit() or not int(text):
        raise UsageError(f"{name} must be a whole number above 0, not {text[:40]!r}")
    return int(text)
