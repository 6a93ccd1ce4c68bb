"""What is written to a repository: files, commits, tags."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from registry.digests import short
from registry.errors import HubError
from registry.hub.connection import COMMIT_ID, Connection
from registry.hub.reading import Reader
from registry.hub.refusals import Asked, MissingError, RefusedError, UncertainError, unanswered
from registry.hub.retrying import PassingError
from registry.hub.uploading import THREADS, Meter, NewFile, is_xet_used, meters, operations, source_of
from registry.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

BATCH_FILES = 100
"""So many files are asked about at once, and open at once."""

_TAG_ATTEMPTS = 3
_STALE = 412
_EXISTS = 409


class ParentMovedError(HubError):
    """The head of main is not the parent that a commit was to be made on; ``head`` is what it is now."""

    def __init__(self, repository: str, head: str | None) -> None:
        """Keep the head."""
        super().__init__(
            f"somebody else has committed to {repository} in the meantime", hint="run the same command again"
        )
        self.head = head


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was sent ahead of the commit that will name it.

    ``needs_source`` says that the server wants it within the commit: its source has to be there until then.
    """

    path: str
    needs_source: bool
    _operation: CommitOperationAdd = field(repr=False, compare=False)


class Writer:
    """See ``Hub``."""

    def __init__(self, connection: Connection, reader: Reader) -> None:
        """Ask by this connection; the reader tells the head."""
        self._connection = connection
        self._reader = reader

    def create(self, repository: str, *, private: bool) -> None:
        """See ``Hub``."""
        with self._connection.calls(self._connection.asked(repository, f"create {repository}")) as api:
            # None leaves it to what the namespace has chosen for its new repositories.
            api.create_repo(repository, private=True if private else None, exist_ok=True)

    def upload(self, repository: str, files: Sequence[NewFile], progress: Progress) -> list[Upload]:
        """See ``Hub``."""
        asked = self._connection.asked(repository, f"send files to {repository}")
        metered = meters(files, progress)

        def send(batch: Sequence[NewFile]) -> list[Upload]:
            with self._sending(asked, batch, metered, {}) as (api, added):
                api.preupload_lfs_files(repository, added, num_threads=THREADS, free_memory=False)
                _refuse_ignored(asked, added)
            return [_uploaded(file, operation) for file, operation in zip(batch, added, strict=True)]

        sent: list[Upload] = []
        for begin in range(0, len(files), BATCH_FILES):
            sent += self._connection.in_background(partial(send, files[begin : begin + BATCH_FILES]))
        return sent

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
        """See ``Hub``."""
        asked = self._connection.asked(repository, f"commit to {repository}")
        patience = self._connection.patience(asked)
        metered = meters([file for file in files if isinstance(file, NewFile)], progress)
        hashes: dict[str, bytes] = {}
        is_uncertain = False
        while True:
            attempt = partial(self._commit_once, asked, files, deleted, message, parent, metered, hashes)
            try:
                return self._connection.in_background(attempt)
            except UncertainError as error:
                is_uncertain = True
                head = self._head(repository)
                if head != parent:
                    if head is not None and landed(head):
                        return head
                    raise ParentMovedError(repository, head) from None
                patience.failed(PassingError(error.message.removeprefix(f"{asked.failed}: ")))
            except RefusedError as error:
                if error.status != _STALE:
                    raise
                head = self._head(repository)
                # The commit of an attempt before may have been made after we looked.
                if is_uncertain and head is not None and landed(head):
                    return head
                raise ParentMovedError(repository, head) from None

    def tag(self, repository: str, name: str, commit: str, *, message: str = "", move: bool = False) -> None:
        """See ``Hub``."""
        asked = self._connection.asked(repository, f"tag {repository} as {name}")
        for _ in range(_TAG_ATTEMPTS):
            if self._make_tag(asked, name, commit, message):
                return
            refs = self._reader.refs(repository)
            present = refs.tags.get(name) if refs is not None else None
            if present == commit:
                return
            if not move:
                raise HubError(
                    f"{repository} has a tag {name} already, at the commit {short(present or '')}",
                    hint="choose another name",
                )
            try:
                with self._connection.calls(asked) as api:
                    api.delete_tag(repository, tag=name)
            except MissingError as error:
                if error.what == "repository":
                    raise
        raise HubError(f"{asked.failed}: somebody else moves it at the same time", hint="try again")

    def _make_tag(self, asked: Asked, name: str, commit: str, message: str) -> bool:
        """Make a tag; return False where there is one of that name."""
        try:
            with self._connection.calls(asked) as api:
                api.create_tag(asked.repository, tag=name, revision=commit, tag_message=message or None)
        except RefusedError as error:
            if error.status != _EXISTS:
                raise
            return False
        return True

    def _commit_once(
        self,
        asked: Asked,
        files: Sequence[NewFile | Upload],
        deleted: Sequence[str],
        message: str,
        parent: str | None,
        metered: dict[str, Meter],
        hashes: dict[str, bytes],
    ) -> str:
        from huggingface_hub import CommitOperationDelete

        new = [file for file in files if isinstance(file, NewFile)]
        summary, _, description = message.strip().partition("\n")
        with self._sending(asked, new, metered, hashes) as (api, added):
            info = api.create_commit(
                asked.repository,
                [
                    *(file._operation for file in files if isinstance(file, Upload)),
                    *added,
                    *(CommitOperationDelete(path, is_folder=False) for path in deleted),
                ],
                commit_message=summary or "Update",
                commit_description=description.strip(),
                parent_commit=parent,
                num_threads=THREADS,
            )
            _refuse_ignored(asked, added)
        if not COMMIT_ID.fullmatch(info.oid):
            raise unanswered(asked, f"the commit is called {info.oid!r}")
        return info.oid

    @contextmanager
    def _sending(
        self, asked: Asked, files: Sequence[NewFile], metered: dict[str, Meter], hashes: dict[str, bytes]
    ) -> Iterator[tuple[HfApi, list[CommitOperationAdd]]]:
        """Give the client's API and operations for it."""
        with (
            operations(
                files,
                metered,
                hashes,
                with_xet=is_xet_used(self._connection.endpoint),
                check=self._connection.check,
            ) as added,
            self._connection.calls(asked) as api,
        ):
            yield api, added

    def _head(self, repository: str) -> str | None:
        refs = self._reader.refs(repository)
        return refs.head if refs is not None else None


def _uploaded(file: NewFile, operation: CommitOperationAdd) -> Upload:
    """Let go of the content of a file that was sent; the operation can be used until a commit succeeds with it."""
    is_sent = getattr(operation, "_is_uploaded", False)
    operation.path_or_fileobj = b"" if is_sent else source_of(file)
    return Upload(file.path, not is_sent, operation)


def _refuse_ignored(asked: Asked, added: Sequence[CommitOperationAdd]) -> None:
    """Raise HubError where a .gitignore made the client leave out a file, which it does without a word."""
    for operation in added:
        if getattr(operation, "_should_ignore", False):
            raise HubError(
                f"{asked.failed}: the repository has a .gitignore that leaves out {operation.path_in_repo}",
                hint="delete .gitignore there, then run the same command again",
            )
