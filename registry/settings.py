"""The registry home: where everything of one registry lies, and how it is found."""

from __future__ import annotations

import getpass
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote as quote_argument
from typing import Any
from urllib.parse import quote

import tomli_w

from registry.errors import HomeError, StorageError
from registry.records import Version

HOME_VARIABLE = "PRAGREG_HOME"
MODELS_VARIABLE = "PRAGREG_MODELS"
DEFAULT_HOME = ".pragreg"
SETTINGS_FILE = "pragreg.toml"
_MEND = "mend it: docs/formats.md, or the pragreg.toml of a fresh `pragreg init --home FOLDER`, shows how"
DEFAULT_CORPUS = "default"
DEFAULT_BASE_MODEL = "smollm2-135m"
DEFAULT_PACK_SIZE_BYTES = 256 * 1024 * 1024
DEFAULT_CACHE_BYTES = 1024 * 1024 * 1024
HUB_FOLDER = "hub"
INCOMING_FOLDER = "incoming"


@dataclass(frozen=True, slots=True)
class Home:
    """A registry home: the folder and what its ``pragreg.toml`` says.

    ``catalog_url`` is an SQLAlchemy URL; ``packs_url`` a folder or fsspec URL; ``models_path`` caches converted base
    models and ``index_path`` holds one folder per version. ``cache_bytes`` bounds the adapters that are kept of what
    is only on the Hub; ``publishers`` are public keys, as OpenSSH writes them, of those whose signatures are trusted,
    by the names that they have here.
    """

    path: Path
    catalog_url: str = field(repr=False)
    packs_url: str = field(repr=False)
    index_path: Path
    models_path: Path
    base_model: str
    pack_size_bytes: int
    cache_bytes: int = DEFAULT_CACHE_BYTES
    publishers: Mapping[str, str] = field(default_factory=dict)

    @property
    def hub_path(self) -> Path:
        """The folder with what is kept of repositories on the Hub; all of it can be fetched again."""
        return self.path / HUB_FOLDER

    @property
    def incoming_path(self) -> Path:
        """The folder in which files of a repository arrive; what an interrupted pull left is gone on from."""
        return self.hub_path / INCOMING_FOLDER

    @property
    def settings_path(self) -> Path:
        """The path of ``pragreg.toml``."""
        return self.path / SETTINGS_FILE

    def index_folder(self, version: Version) -> Path:
        """Return where the index of a version lies; versions of equal content share it."""
        return self.index_path / version.corpus / version.digest


def locate_home(given: str | None, *, start: Path | None = None) -> Path:
    """Return the folder of the registry home: ``given``, else ``$PRAGREG_HOME``, else the nearest ``.pragreg``.

    The nearest is looked for in ``start`` (the working folder) and its parents.

    Raises:
        HomeError: there is none.
    """
    named = given or os.environ.get(HOME_VARIABLE)
    if named:
        path = Path(named).expanduser().absolute()
        if (path / SETTINGS_FILE).is_file():
            return path
        raise HomeError(f"there is no registry home at {path}", hint=f"pragreg init --home {quote_argument(str(path))}")
    origin = (start or Path.cwd()).absolute()
    for folder in (origin, *origin.parents):
        if (folder / DEFAULT_HOME / SETTINGS_FILE).is_file():
            return folder / DEFAULT_HOME
    raise HomeError(f"there is no registry home in {origin} or above it", hint="pragreg init")


def create_home(
    path: Path, *, catalog_url: str | None = None, packs_url: str | None = None, base_model: str = DEFAULT_BASE_MODEL
) -> Home:
    """Make the folder of a registry home with its ``pragreg.toml`` and folders; existing ones are left as they are.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = path.expanduser().absolute()
    is_new = not (path / SETTINGS_FILE).exists()
    if is_new:
        settings: dict[str, Any] = {
            "catalog": {"url": catalog_url or "sqlite:///catalog.sqlite"},
            "packs": {"url": packs_url or "packs", "size_bytes": DEFAULT_PACK_SIZE_BYTES},
            "index": {"path": "index"},
            "models": {"path": "models", "base_model": base_model},
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
            _write_settings(path / SETTINGS_FILE, settings)
        except OSError as error:
            raise _not_writable(path, error) from error
    home = open_home(path)
    try:
        for folder in (home.index_path, home.models_path):
            folder.mkdir(parents=True, exist_ok=True)
        if "://" not in home.packs_url:
            Path(home.packs_url).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_new:
            home.settings_path.unlink()
        raise _not_writable(path, error) from error
    return home


def switch_catalog(home: Home, url: str) -> Home:
    """Have ``pragreg.toml`` name another catalog; nothing else in it changes but its comments, which go.

    Raises:
        HomeError: the file is missing or wrong.
        StorageError: it cannot be written.
    """
    open_home(home.path)  # says what is wrong, if anything is
    settings = tomllib.loads(home.settings_path.read_text(encoding="utf-8"))
    settings["catalog"]["url"] = url
    try:
        _write_settings(home.settings_path, settings)
    except OSError as error:
        raise _not_writable(home.path, error) from error
    return open_home(home.path)


def _write_settings(file: Path, settings: dict[str, Any]) -> None:
    """Write beside and rename; with a password in it the file is for its owner alone."""
    url = str(settings["catalog"]["url"])
    has_secret = "@" in url or "password" in url
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600 if has_secret else 0o666)
    if file.exists() and not has_secret:
        partial.chmod(file.stat().st_mode & 0o777)
    partial.write_bytes(tomli_w.dumps(settings).encode())
    partial.replace(file)


def _not_writable(path: Path, error: OSError) -> StorageError:
    where = "" if error.filename in (None, str(path)) else f" ({error.filename})"
    return StorageError(
        f"the registry home {path} cannot be written{where}: {error.strerror or error}",
        hint="pragreg init --home FOLDER, with a folder that you may write",
    )


def open_home(path: Path) -> Home:
    """Read ``pragreg.toml``; relative paths in it are relative to the home.

    Raises:
        HomeError: the file is missing or wrong.
    """
    file = path / SETTINGS_FILE
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
        catalog, packs, models = settings["catalog"], settings["packs"], settings["models"]
        models_path = os.environ.get(MODELS_VARIABLE) or str(models["path"])
        return Home(
            path=path,
            catalog_url=absolute_catalog(path, str(catalog["url"])),
            packs_url=_absolute(path, str(packs["url"])),
            index_path=path / str(settings["index"]["path"]),
            models_path=path / Path(models_path).expanduser(),
            base_model=str(models["base_model"]),
            pack_size_bytes=int(packs["size_bytes"]),
            cache_bytes=int(settings.get("hub", {}).get("cache_bytes", DEFAULT_CACHE_BYTES)),
            publishers={str(name): str(key) for name, key in settings.get("trust", {}).items()},
        )
    except OSError as error:
        raise HomeError(f"{file} cannot be read: {error.strerror or error}", hint="check who may read it") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HomeError(f"{file} is not TOML: {error}", hint=_MEND) from error
    except KeyError as error:
        raise HomeError(f"{file} lacks the setting {error}", hint=_MEND) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise HomeError(f"{file} has a setting of the wrong kind: {error}", hint=_MEND) from error


def _absolute(home: Path, url: str) -> str:
    return url if "://" in url else str(home / Path(url).expanduser())


def user_name() -> str:
    """Return who runs this process, as builds, aliases and pins record it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return f"uid {os.getuid()}"


def absolute_catalog(folder: Path, url: str) -> str:
    """Return the URL of a catalog with the path of an SQLite file taken from ``folder`` if it is relative."""
    prefix = "sqlite:///"
    if url in (prefix, f"{prefix}:memory:"):
        return url  # no file at all: refused when the catalog is opened
    if not url.startswith(prefix + "/") and url.startswith(prefix):
        # In a URL the home's own path must be escaped (a folder may be called "50%20"); the setting is one already.
        return f"{prefix}{quote(str(folder))}/{url.removeprefix(prefix)}"
    return url
