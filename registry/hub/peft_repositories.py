"""PEFT adapters made by anyone: which files are read of a repository or folder, and where they are looked for.

Two files of a folder are read, by their exact names and of one commit: ``adapter_config.json`` and
``adapter_model.safetensors``. Pickles and code are never fetched, symbolic links never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from registry.errors import InputError, IntegrityError, NotFoundError
from registry.hub.client import Hub
from registry.hub.manifest.text import is_plain

CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
CONFIG_LIMIT_BYTES = 1024 * 1024
ADAPTER_LIMIT_BYTES = 2 * 1024**3
"""Larger adapters are refused: rank 64 on every linear module of 8 billion parameters has 0.7 GB in float32."""

MOST_ADAPTERS = 1000
_FOLDER_LENGTH = 200


class PeftSource(Protocol):
    """A place with PEFT adapters in its folders."""

    @property
    def name(self) -> str:
        """``NAMESPACE/NAME``, or the path of a folder, for messages."""

    @property
    def title(self) -> str:
        """What its adapters are called, without where on this machine they were."""

    def files(self, folder: str) -> dict[str, int]:
        """Return the files below ``folder`` ("" for all) by their path in the place, with their sizes in bytes.

        Raises:
            HubError, InputError: they cannot be listed.
        """

    def read(self, path: str, size_bytes: int) -> bytes:
        """Return the bytes of a file that has so many.

        Raises:
            HubError, InputError: it cannot be read.
            IntegrityError: it has another size now.
        """


def adapter_folders(source: PeftSource, subfolders: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the folders with an adapter in them, with the sizes in bytes of its configuration and its tensors.

    Those of ``subfolders``; without any, the root ("") if it is one, or else the folders right below it.

    Raises:
        NotFoundError: there is no adapter.
        IntegrityError: a file is too large, there are too many, or the tensors are there as a pickle only.
        HubError, InputError: the files cannot be listed.
    """
    files: dict[str, int] = {}
    for subfolder in subfolders or [""]:
        files |= source.files(_checked(subfolder, source.name))
    if subfolders:
        wanted: Iterable[str] = dict.fromkeys(subfolders)
    else:
        found = {path.rpartition("/")[0] for path in files if _name(path) == CONFIG_FILE}
        wanted = [""] if "" in found else sorted(folder for folder in found if "/" not in folder)
    sizes = {folder: _sizes(folder, files, source.name) for folder in wanted}
    if not sizes:
        raise NotFoundError(
            f"{source.name} holds no adapter: there is no {CONFIG_FILE} in it, nor in the folders right below it",
            hint="--subfolder names a folder that lies deeper",
        )
    if len(sizes) > MOST_ADAPTERS:
        raise IntegrityError(
            f"{source.name} holds {len(sizes)} adapters; at most {MOST_ADAPTERS} are imported at once",
            hint="name some with --subfolder",
        )
    return sizes


def _sizes(folder: str, files: dict[str, int], name: str) -> tuple[int, int]:
    where = f"{name}/{_checked(folder, name)}".rstrip("/")
    sizes = []
    for file, limit_bytes in ((CONFIG_FILE, CONFIG_LIMIT_BYTES), (ADAPTER_FILE, ADAPTER_LIMIT_BYTES)):
        size_bytes = files.get(_join(folder, file))
        if size_bytes is None and file == ADAPTER_FILE and _join(folder, PICKLE_FILE) in files:
            raise IntegrityError(
                f"{where} has its tensors as a pickle ({PICKLE_FILE}) only, which is never read",
                hint=f"ask its author for {ADAPTER_FILE}",
            )
        if size_bytes is None:
            raise NotFoundError(f"{where} holds no adapter: there is no {file}")
        if size_bytes > limit_bytes:
            raise IntegrityError(f"{where}/{file} has {size_bytes} bytes; at most {limit_bytes} are read")
        sizes.append(size_bytes)
    return sizes[0], sizes[1]


def _checked(folder: str, name: str) -> str:
    """Return a folder's path, if it can be one inside a repository and be shown."""
    parts = folder.split("/") if folder else []
    if any(part in ("", ".", "..") for part in parts) or "\\" in folder or not is_plain(folder, _FOLDER_LENGTH):
        raise IntegrityError(f"{name} cannot have an adapter in the folder {folder[:_FOLDER_LENGTH]!r}")
    return folder


def _join(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file


def _name(path: str) -> str:
    return path.rpartition("/")[2]


class HubSource:
    """A repository at a commit."""

    def __init__(self, hub: Hub, repository: str, commit: str) -> None:
        """Take a commit of 40 digits."""
        self.name = self.title = repository
        self._hub, self._commit = hub, commit

    def files(self, folder: str) -> dict[str, int]:
        """See ``PeftSource``."""
        return {file.path: file.size_bytes for file in self._hub.list_files(self.name, self._commit, folder)}

    def read(self, path: str, size_bytes: int) -> bytes:
        """See ``PeftSource``."""
        data = self._hub.read_small(self.name, self._commit, path, limit_bytes=size_bytes)
        if data is None or len(data) != size_bytes:
            raise IntegrityError(f"{self.name} announced {size_bytes} bytes of {path}, and sent {len(data or b'')}")
        return data


class FolderSource:
    """A folder of this machine, and those in it."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that is there; the link that it may be itself was given by whoever asks for it."""
        self.name = str(folder)
        self._folder = folder.resolve()
        self.title = self._folder.name

    def files(self, folder: str) -> dict[str, int]:
        """See ``PeftSource``; only what lies right in the folder or right below it."""
        found: dict[str, int] = {}
        try:
            for path in self._entries(folder):
                if path.is_dir() and not path.is_symlink():
                    for inner in (path / CONFIG_FILE, path / ADAPTER_FILE, path / PICKLE_FILE):
                        self._add(found, inner)
                else:
                    self._add(found, path)
        except OSError as error:
            raise self._unreadable(error.filename or folder, error) from error
        return found

    def read(self, path: str, size_bytes: int) -> bytes:
        """See ``PeftSource``."""
        try:
            # Neither a link nor a pipe, whatever lies there now.
            descriptor = os.open(self._folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                data = file.read(size_bytes + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
        except OSError as error:
            raise self._unreadable(path, error) from error
        if len(data) != size_bytes:
            raise IntegrityError(f"{self.name}/{path} has changed while it was read")
        return data

    def _entries(self, folder: str) -> list[Path]:
        inside = self._folder
        for part in folder.split("/") if folder else []:
            inside /= part
            if inside.is_symlink():
                raise IntegrityError(f"{inside} is a symbolic link, and none is followed")
        return sorted(inside.iterdir()) if inside.is_dir() else []

    def _add(self, found: dict[str, int], path: Path) -> None:
        if path.name not in (CONFIG_FILE, ADAPTER_FILE, PICKLE_FILE) or not (path.exists() or path.is_symlink()):
            return
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise IntegrityError(
                f"{path} is a symbolic link, and none is followed", hint="copy the files themselves into a folder"
            )
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path} is no file")
        found[path.relative_to(self._folder).as_posix()] = status.st_size

    def _unreadable(self, path: str, error: OSError) -> InputError:
        return InputError(f"{self._folder / path} cannot be read: {error.strerror or error}")
