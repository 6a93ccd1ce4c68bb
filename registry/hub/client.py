"""The Hugging Face Hub as pragreg uses it: repositories of models, read at pinned commits, written in whole commits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from registry.hub.connection import Connection
from registry.hub.reading import Reader, Refs, RemoteFile
from registry.hub.uploading import NewFile
from registry.hub.writing import ParentMovedError, Upload, Writer
from registry.progress import Progress

__all__ = ["Hub", "NewFile", "ParentMovedError", "Refs", "RemoteFile", "Upload"]


class Hub:
    """An endpoint and who asks it. Safe to share between threads.

    Every request has a time-out. What may pass by itself (429, 408, 5xx, cut and refused connections) is tried again
    with growing waits, and as the server asks, before a HubError is raised. Every method raises HubError where the
    Hub cannot be reached, refuses, or answers what is no answer, and where HF_HUB_OFFLINE is set; Interrupted after
    ``stop``. Repositories are written ``NAMESPACE/NAME``.
    """

    def __init__(self, endpoint: str | None = None, *, notify: Callable[[str], None] | None = None) -> None:
        """Take an endpoint, by default ``$HF_ENDPOINT`` or the Hub itself; the login is huggingface_hub's own.

        ``notify`` is told, from any thread, where the server asks for a wait of some seconds.

        Raises:
            UsageError: the endpoint is no web address.
        """
        self._connection = Connection(endpoint, notify)
        self._reader = Reader(self._connection)
        self._writer = Writer(self._connection, self._reader)

    @property
    def endpoint(self) -> str:
        """The address that is asked, without a slash at its end."""
        return self._connection.endpoint

    def refs(self, repository: str) -> Refs | None:
        """Return head, branches and tags by one request; None if there is no such repository, or we may not see it."""
        return self._reader.refs(repository)

    def commit_of(self, repository: str, revision: str) -> str:
        """Return the commit (40 digits) that a tag or branch names; a whole commit id is returned unasked.

        Raises:
            HubError: there is no such repository, tag or branch.
        """
        return self._reader.commit_of(repository, revision)

    def read_small(self, repository: str, commit: str, path: str, *, limit_bytes: int) -> bytes | None:
        """Return a file's content by one request; None if the commit has no such file.

        Raises:
            IntegrityError: it is larger than ``limit_bytes``; no more than that was read.
        """
        return self._reader.read_small(repository, commit, path, limit_bytes=limit_bytes)

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
        """Bring a file into ``into``, going on after what is there already, and check its sha256.

        ``on_bytes`` is told how many more bytes are there, those of an earlier run included, and fewer than none when
        they are thrown away. ``on_chunk`` is given every byte of the file once and in order, those of an earlier run
        included; a view is valid during the call only. Whatever ends this, also a kill, leaves ``into`` to go on from.
        Two processes that bring the same file follow each other.

        Raises:
            IntegrityError: size or sha256 are not those; ``into`` is deleted, so that a second call begins anew.
            StorageError: the disk is full, or the file cannot be written.
        """
        self._reader.download(
            repository, commit, path, into, digest=digest, size_bytes=size_bytes, on_bytes=on_bytes, on_chunk=on_chunk
        )

    def read_range(self, repository: str, commit: str, path: str, offset: int, size_bytes: int) -> bytes:
        """Return ``size_bytes`` from ``offset`` of a file, by one request once it is known where the file lies."""
        return self._reader.read_range(repository, commit, path, offset, size_bytes)

    def list_files(self, repository: str, commit: str, folder: str = "") -> list[RemoteFile]:
        """Return the files below a folder; none where there is no such folder.

        Raises:
            HubError: there are more than 10,000.
        """
        return self._reader.list_files(repository, commit, folder)

    def create(self, repository: str, *, private: bool) -> None:
        """Create a repository of models; one that exists is left as it is."""
        self._writer.create(repository, private=private)

    def upload(self, repository: str, files: Sequence[NewFile], progress: Progress) -> list[Upload]:
        """Send files ahead of the commits that will name them, several at once; what is there is not sent again.

        Raises:
            IntegrityError: a file has not the digest that it must have; nothing is sent then.
        """
        return self._writer.upload(repository, files, progress)

    def commit(
        self,
        repository: str,
        files: Sequence[NewFile | Upload],
        deleted: Sequence[str],
        *,
        message: str,
        parent: str | None,
        landed: Callable[[str], bool],
        progress: Progress,
    ) -> str:
        """Make one commit on ``parent``, the head of main, and return its id; sends what was not uploaded.

        Where it is not known whether the commit was made, ``landed`` is asked about the new head.

        Raises:
            ParentMovedError: the head is not ``parent`` any more; nothing was committed.
            IntegrityError: a file has not the digest that it must have; nothing is sent then.
        """
        return self._writer.commit(
            repository, files, deleted, message=message, parent=parent, landed=landed, progress=progress
        )

    def tag(self, repository: str, name: str, commit: str, *, message: str = "", move: bool = False) -> None:
        """Name a commit; ``move`` takes the name from another one. One that is there already is fine.

        Raises:
            HubError: the tag names another commit, and ``move`` is not set.
        """
        self._writer.tag(repository, name, commit, message=message, move=move)

    def stop(self) -> None:
        """Have every request that is under way, in whatever thread, end at once with Interrupted, and make no more."""
        self._connection.stop()
