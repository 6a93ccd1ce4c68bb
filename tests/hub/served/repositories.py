"""The state behind the stand-in for the Hub: repositories with a history as git keeps it, and bytes by their sha256."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_ENDINGS = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth rar"
    " safetensors tar tflite tgz wasm xz zip zst"
)
ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in _ENDINGS.split()).encode()
FOLDER_ENTRIES = 10_000


class Refusal(Exception):
    """An answer other than success: the status, what is said, and the ``X-Error-Code`` that the client looks at."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, dict(headers)


def git_blob(data: bytes) -> str:
    """Return git's name for the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(sha256: str, size_bytes: int) -> bytes:
    """Return the text that git holds in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size_bytes}\n".encode()


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a commit.

    ``oid``, ``sha256`` and ``size_bytes`` are what the server says of it, ``content`` names the bytes that it serves:
    the two differ only where a test has tampered. ``extra`` replaces fields of the answer to a listing.
    """

    content: str
    oid: str
    sha256: str
    size_bytes: int
    is_lfs: bool
    extra: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    id: str
    parent: str | None
    title: str
    description: str
    author: str
    date: str
    files: Mapping[str, Entry]


class Objects:
    """Bytes on disk, each file named by its sha256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        (folder / "incoming").mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def incoming(self) -> Path:
        return self._folder / "incoming" / f"{os.getpid()}-{next(self._numbers)}"

    def adopt(self, file: Path, sha256: str) -> None:
        self.path(sha256).parent.mkdir(exist_ok=True)
        os.replace(file, self.path(sha256))

    def add(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.path(sha256).exists():
            file = self.incoming()
            file.write_bytes(data)
            self.adopt(file, sha256)
        return sha256

    def add_file(self, source: Path) -> str:
        with open(source, "rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        if not self.path(sha256).exists():
            file = self.incoming()
            file.write_bytes(source.read_bytes())
            self.adopt(file, sha256)
        return sha256

    def regular(self, data: bytes) -> Entry:
        sha256 = self.add(data)
        return Entry(sha256, git_blob(data), sha256, len(data), is_lfs=False)

    def large(self, sha256: str, size_bytes: int, content: str | None = None) -> Entry:
        return Entry(content or sha256, git_blob(pointer(sha256, size_bytes)), sha256, size_bytes, is_lfs=True)


@dataclass
class Repository:
    """A repository; ``objects`` are the large files that were uploaded to it, committed or not."""

    name: str
    kind: str
    private: bool
    created: str
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)

    def find(self, revision: str) -> Commit:
        """Return the commit of a branch, a tag, or a sha of 7 digits and more."""
        named = revision.removeprefix("refs/heads/")
        found = self.branches.get(named) or self.tags.get(revision.removeprefix("refs/tags/"))
        if found is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            matches = [commit for commit in self.commits if commit.startswith(revision)]
            found = matches[0] if len(matches) == 1 else None
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """Yield the commit and those before it, the newest first."""
        following: str | None = commit.id
        while following:
            yield self.commits[following]
            following = self.commits[following].parent


class Hub:
    """All repositories. Whoever changes something holds ``lock``."""

    def __init__(self, folder: Path) -> None:
        self.objects = Objects(folder)
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._numbers = itertools.count(1)

    def create(self, name: str, kind: str = "model", *, private: bool = False, first_commit: bool = True) -> Repository:
        repository = Repository(name, kind, private, now())
        self.repositories[kind, name] = repository
        if first_commit:
            files = {".gitattributes": self.objects.regular(ATTRIBUTES)}
            self.commit(repository, "main", "initial commit", "", files, parent=None)
        return repository

    def commit(
        self,
        repository: Repository,
        branch: str | None,
        title: str,
        description: str,
        files: Mapping[str, Entry],
        *,
        parent: str | None,
        author: str = "somebody",
    ) -> Commit:
        """Add a commit of just these files, and let the branch name it."""
        date = now()
        told = [repository.name, parent, title, description, date, next(self._numbers)]
        tree = sorted((path, entry.oid) for path, entry in files.items())
        name = hashlib.sha1(json.dumps([*told, tree]).encode()).hexdigest()
        commit = Commit(name, parent, title, description, author, date, dict(files))
        repository.commits[name] = commit
        if branch is not None:
            repository.branches[branch] = name
        return commit

    def tamper(self, repository: Repository, commit: str, path: str, entry: Entry) -> None:
        """Let a commit that is there already have another file at the path."""
        old = repository.find(commit)
        repository.commits[old.id] = replace(old, files={**old.files, path: entry})


def now() -> str:
    """Return the time as the Hub writes it."""
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def check_path(path: str) -> None:
    """Refuse what the Hub refuses as the path of a file."""
    parts = path.split("/")
    if not path or any(part in ("", ".", "..", ".git") for part in parts) or "\0" in path:
        raise Refusal(400, f"Invalid path: {path}")


def check_folders(files: Mapping[str, Entry], changed: set[str]) -> None:
    """Refuse a commit after which a folder that it changes has more entries than the Hub takes."""
    folders = {path.rpartition("/")[0] for path in changed}
    entries: dict[str, set[str]] = {folder: set() for folder in folders}
    for path in files:
        folder, _, name = path.rpartition("/")
        while True:
            if folder in entries:
                entries[folder].add(name)
            if not folder:
                break
            folder, _, name = folder.rpartition("/")
    for folder, names in entries.items():
        if len(names) > FOLDER_ENTRIES:
            raise Refusal(400, f"Your push was rejected: {folder or '/'} has more than {FOLDER_ENTRIES} files")
