"""``pragreg push --format peft``: single adapters, or a merged one, as folders that PEFT loads from the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from registry.errors import HubError, UsageError
from registry.hub.client import Hub, NewFile, ParentMovedError
from registry.hub.manifest.text import plain
from registry.hub.names import CARD, ROOT, check_tag, parse_repository
from registry.hub.peft_repositories import ADAPTER_FILE, CONFIG_FILE
from registry.pipeline.opened import opened
from registry.pipeline.push.peft_folders import (
    CARD_LIMIT_BYTES,
    FOLDER_FILES,
    FOLDER_PREFIX,
    PeftFolder,
    PeftPushRequest,
    folders_of_folder,
    folders_of_registry,
    index_card,
    joined,
)
from registry.progress import Progress
from registry.settings import Home

MOST_ATTEMPTS = 5
"""So often somebody else may commit to the repository in the meantime."""


@dataclass(frozen=True)
class PeftPushReport:
    """What was pushed, or with ``dry_run`` would be.

    ``folders`` are paths in the repository by adapter digest ("" is the root). ``commit_id`` is None for a dry run;
    ``deleted`` counts files of adapters that an earlier push had put there and this one does not.
    """

    repository: str
    url: str
    commit_id: str | None
    folders: Mapping[str, str] = field(default_factory=dict)
    files: int = 0
    size_bytes: int = 0
    deleted: int = 0
    created: bool = False
    dry_run: bool = False


def push_peft(home: Home, request: PeftPushRequest, progress: Progress) -> PeftPushReport:
    """Make a repository hold just these adapters, by one commit; it is created if it is not there.

    Raises:
        NotFoundError: an adapter or version is not in the catalog.
        UsageError: nothing or too much is named, or the folder is no PEFT folder.
        IntegrityError: an adapter is damaged, or the folder holds what PEFT should not load.
        HubError: the repository holds a corpus (its ``pragreg.json``), or the Hub refuses.
    """
    repository, revision = parse_repository(request.repository)
    if revision is not None:
        raise UsageError(f"{request.repository!r} names a revision", hint=f"push to {repository}, with --tag")
    named = sum(map(bool, (request.adapters, request.folder, request.reference)))
    if named != 1:
        raise UsageError(
            "nothing is named that is to be pushed" if not named else "more than one kind of thing is to be pushed",
            hint="give --adapter DIGEST (many times), --folder FOLDER, or --corpus REF",
        )
    if request.tag is not None:
        check_tag(request.tag)
    hub = Hub(notify=progress.say)
    with tempfile.TemporaryDirectory(prefix="pragreg-peft-") as scratch, opened(home) as registry:
        if request.folder is not None:
            folders = folders_of_folder(request.folder, request, str(repository))
        else:
            folders = folders_of_registry(registry, request, str(repository), Path(scratch))
        files = [file for folder in folders for file in folder.files]
        if len(folders) > 1:
            files.append(NewFile(CARD, index_card(folders, request, str(repository)).encode(), None))
        return _send(hub, str(repository), folders, files, request, progress)


def _send(
    hub: Hub,
    repository: str,
    folders: Sequence[PeftFolder],
    files: Sequence[NewFile],
    request: PeftPushRequest,
    progress: Progress,
) -> PeftPushReport:
    size_bytes = sum(len(f.source) if isinstance(f.source, bytes) else f.source.stat().st_size for f in files)
    report = PeftPushReport(
        repository=repository,
        url=f"{hub.endpoint}/{repository}",
        commit_id=None,
        folders={folder.digest: folder.path for folder in folders},
        files=len(files),
        size_bytes=size_bytes,
        dry_run=request.dry_run,
    )
    refs = hub.refs(repository)
    if refs is None:
        report = replace(report, created=True)
        if request.dry_run:
            return report
        hub.create(repository, private=request.private)
        refs = hub.refs(repository)
    head = refs.head if refs else None
    paths = {file.path for file in files}
    message = request.message or f"{len(folders)} adapter{'s' if len(folders) > 1 else ''} by pragreg"
    for attempt in range(MOST_ATTEMPTS):
        deleted = _stale(hub, repository, head, paths)
        report = replace(report, deleted=len(deleted))
        if request.dry_run:
            return report
        try:
            commit = hub.commit(
                repository,
                files,
                deleted,
                message=plain(message),
                parent=head,
                landed=lambda there: _has_landed(hub, repository, there, files),
                progress=progress,
            )
        except ParentMovedError as error:
            if attempt == MOST_ATTEMPTS - 1:
                raise
            head = error.head
            continue
        if request.tag is not None:
            hub.tag(repository, request.tag, commit, message=plain(message), move=True)
        return replace(report, commit_id=commit)
    raise AssertionError("unreachable")


def _stale(hub: Hub, repository: str, head: str | None, paths: set[str]) -> list[str]:
    """Return the files of adapters that an earlier push put there, and that are not among ``paths``.

    Raises:
        HubError: the repository holds a corpus.
    """
    there = {file.path for file in hub.list_files(repository, head)} if head else set()
    if ROOT in there:
        raise HubError(
            f"{repository} holds a corpus ({ROOT}), and single adapters beside it would mix two things",
            hint="push them to another repository",
        )
    folders = {path.rpartition("/")[0] for path in there if path.startswith(FOLDER_PREFIX) and path.count("/") == 1}
    ours = {CONFIG_FILE, ADAPTER_FILE, *(joined(folder, file) for folder in folders for file in FOLDER_FILES)}
    return sorted((there & ours) - paths)


def _has_landed(hub: Hub, repository: str, head: str, files: Sequence[NewFile]) -> bool:
    """Say whether a head is our commit: its card names the adapters by their digests."""
    card = next(file.source for file in files if file.path == CARD)
    content = card if isinstance(card, bytes) else card.read_bytes()
    return hub.read_small(repository, head, CARD, limit_bytes=CARD_LIMIT_BYTES) == content
