"""What is read of a repository: its references, small files, lists of files, ranges of packs."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import HubError, IntegrityError
from registry.hub.answers import Answer
from registry.hub.connection import COMMIT_ID, Connection
from registry.hub.downloading import content_range, download
from registry.hub.refusals import LOGIN, MissingError, RefusedError
from registry.hub.retrying import PassingError

FILES_LIMIT = 10_000
"""More files are listed of no repository."""

_EXPIRED = (400, 401, 403, 404, 410)
"""What is answered where a signed address is too old."""


@dataclass(frozen=True, slots=True)
class Refs:
    """What a repository's names stand for: commits of 40 digits. ``head`` is main's, None while it has no commit."""

    head: str | None
    branches: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a commit."""

    path: str
    size_bytes: int


class Reader:
    """See ``Hub``."""

    def __init__(self, connection: Connection) -> None:
        """Ask by this connection."""
        self._connection = connection
        self._locations: dict[tuple[str, str, str], str] = {}
        self._turns: dict[tuple[str, str, str], threading.Lock] = {}
        self._tells_content = True

    def refs(self, repository: str) -> Refs | None:
        """See ``Hub``."""
        asked = self._connection.asked(repository, f"read the references of {repository}")
        try:
            with self._connection.calls(asked) as api:
                found = api.list_repo_refs(repository)
                branches, tags = _commits(found.branches), _commits(found.tags)
        except MissingError:
            return None
        return Refs(head=branches.get("main"), branches=branches, tags=tags)

    def commit_of(self, repository: str, revision: str) -> str:
        """See ``Hub``."""
        if COMMIT_ID.fullmatch(revision):
            return revision
        refs = self.refs(repository)
        if refs is None:
            raise HubError(
                f"there is no repository {repository} at {self._connection.endpoint}, or it is private",
                hint=f"check the name; for a private one: {LOGIN}",
            )
        commit = refs.tags.get(revision) or refs.branches.get(revision)
        if commit is None:
            some = ", ".join(list(refs.tags)[:8] + ["..."] * (len(refs.tags) > 8))
            raise HubError(
                f"{repository} has no tag or branch {revision!r}", hint=f"its tags: {some}" if some else "it has no tag"
            )
        return commit

    def read_small(self, repository: str, commit: str, path: str, *, limit_bytes: int) -> bytes | None:
        """See ``Hub``."""
        asked = self._connection.asked(repository, f"read {path} of {repository}")
        url = self._url(repository, commit, path)

        def attempt() -> tuple[bytes, str]:
            with self._connection.open("GET", url, asked) as answer:
                return _content(answer, path, limit_bytes), answer.headers.get("etag", "")

        try:
            data, tag = self._connection.patiently(asked, attempt)
            if self._tells_content and not _fits(data, tag):
                # Damaged on its way, or this server's tags say nothing about the content.
                again, _ = self._connection.patiently(asked, attempt)
                self._tells_content = again != data
                data = again
        except MissingError as error:
            if error.what != "file":
                raise
            return None
        return data

    def download(
        self,
        repository: str,
        commit: str,
        path: str,
        into: Path,
        *,
        digest: str,
        size_bytes: int,
        on_bytes: Callable[[int], None],
        on_chunk: Callable[[memoryview], None] | None = None,
    ) -> None:
        """See ``Hub``."""
        asked = self._connection.asked(repository, f"download {path} of {repository}")
        url = self._url(repository, commit, path)
        download(self._connection, asked, url, into, (digest, size_bytes), on_bytes, on_chunk)

    def read_range(self, repository: str, commit: str, path: str, offset: int, size_bytes: int) -> bytes:
        """See ``Hub``."""
        asked = self._connection.asked(repository, f"read a part of {path} of {repository}")
        file = (repository, commit, path)
        if size_bytes == 0:
            return b""
        headers = {"range": f"bytes={offset}-{offset + size_bytes - 1}"}
        location = ""

        def attempt() -> bytes:
            nonlocal location
            location = self._location(file)
            with self._connection.open("GET", location, asked, headers=headers) as answer:
                return _part(answer, offset, size_bytes)

        try:
            return self._connection.patiently(asked, attempt)
        except RefusedError as error:
            if error.status not in _EXPIRED or location == self._url(*file):
                raise
        if self._locations.get(file) == location:
            del self._locations[file]
        return self._connection.patiently(asked, attempt)

    def list_files(self, repository: str, commit: str, folder: str = "") -> list[RemoteFile]:
        """See ``Hub``."""
        asked = self._connection.asked(repository, f"list the files of {repository}")
        try:
            with self._connection.calls(asked) as api:
                entries = api.list_repo_tree(repository, folder or None, recursive=True, revision=commit)
                return _files(entries, repository)
        except MissingError as error:
            if error.what != "file":
                raise
            return []

    def _location(self, file: tuple[str, str, str]) -> str:
        """Return where a file's bytes lie, asked once: a signed address elsewhere, or its address at the endpoint."""
        repository, _, path = file
        with self._turns.setdefault(file, threading.Lock()):
            if file not in self._locations:
                asked = self._connection.asked(repository, f"find {path} of {repository}")
                with self._connection.open("HEAD", self._url(*file), asked, stop_at_file=True) as answer:
                    self._locations[file] = answer.url
            return self._locations[file]

    def _url(self, repository: str, commit: str, path: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repository, path, revision=commit, endpoint=self._connection.endpoint)


def _commits(refs: Iterable[Any]) -> dict[str, str]:
    commits = {ref.name: ref.target_commit for ref in refs}
    for name, commit in commits.items():
        if not isinstance(name, str) or not COMMIT_ID.fullmatch(commit):
            raise ValueError(f"{name!r} names no commit")
    return commits


def _files(entries: Iterable[Any], repository: str) -> list[RemoteFile]:
    files: list[RemoteFile] = []
    for entry in entries:
        size_bytes = getattr(entry, "size", None)
        if size_bytes is None:
            continue  # a folder
        if not isinstance(entry.path, str) or not isinstance(size_bytes, int) or size_bytes < 0:
            raise ValueError("a file without path or size")
        files.append(RemoteFile(entry.path, size_bytes))
        if len(files) > FILES_LIMIT:
            raise HubError(f"{repository} has more than {FILES_LIMIT} files", hint="name one of its folders")
    return files


def _content(answer: Answer, path: str, limit_bytes: int) -> bytes:
    if (answer.length or 0) > limit_bytes:
        raise IntegrityError(f"{path} has {answer.length} bytes, more than the {limit_bytes} that it may have")
    found = bytearray()
    for chunk in answer.chunks():
        found += chunk
        if len(found) > limit_bytes:
            raise IntegrityError(f"{path} has more than the {limit_bytes} bytes that it may have")
    return bytes(found)


def _fits(data: bytes, tag: str) -> bool:
    """Say whether a content is what its ETag says: its sha256, or git's id of it; other tags say nothing."""
    tag = tag.removeprefix("W/").strip('"')
    if re.fullmatch(r"[0-9a-f]{64}", tag):
        return hashlib.sha256(data).hexdigest() == tag
    if COMMIT_ID.fullmatch(tag):
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        return tag in (git, hashlib.sha1(data, usedforsecurity=False).hexdigest())
    return True


def _part(answer: Answer, offset: int, size_bytes: int) -> bytes:
    """Return a range's bytes, also from a server that sends the whole file instead."""
    skip = offset
    if answer.status == 206:
        begin, end, _ = content_range(answer)
        if (begin, end - begin + 1) != (offset, size_bytes):
            raise PassingError("the server sends another part of the file than it was asked for")
        skip = 0
    chunks = []
    left = size_bytes
    for chunk in answer.chunks():
        view = memoryview(chunk)[skip:] if skip else chunk
        skip = max(0, skip - len(chunk))
        chunks.append(view[:left])
        left -= len(chunks[-1])
        if left == 0:
            return b"".join(chunks)
    raise PassingError("the file ends too early")
