"""How the corpora of a home stand to repositories on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy.orm import Session

from registry.catalog.aliases import aliases
from registry.catalog.names import LATEST
from registry.catalog.references import list_versions
from registry.catalog.remotes.publishing import corpus_versions
from registry.catalog.remotes.remotes import Remote, find_remote, list_remotes
from registry.errors import NotFoundError, UsageError
from registry.hub.client import Hub
from registry.hub.history import compare
from registry.hub.manifest.root import read_root
from registry.hub.names import parse_repository
from registry.pipeline.opened import opened
from registry.pipeline.repositories import Seen, look
from registry.published import PublishedVersion, Root
from registry.settings import DEFAULT_CORPUS, Home

State = Literal["equal", "ahead", "behind", "diverged", "missing", "empty", "unknown"]


@dataclass(frozen=True, slots=True)
class VersionNote:
    """A version that one side has alone; ``version`` is its number there."""

    version: int
    digest: str
    documents: int
    message: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class HubStatus:
    """How a corpus stands to a repository, and what to do next.

    ``state`` is "missing" while there is no such repository (or it is hidden), "empty" while it has no manifest, and
    "unknown" for a repository of a corpus that is not here. ``corpus`` is None then if none has its name. The latest
    versions are numbers on their own side. ``next_command`` is None where nothing is to be done.
    """

    repository: str
    url: str
    corpus: str | None
    state: State
    commit_id: str | None
    latest_here: int | None
    latest_there: int | None
    only_here: tuple[VersionNote, ...]
    only_there: tuple[VersionNote, ...]
    has_text: bool | None
    next_command: str | None


@dataclass(frozen=True, slots=True)
class RemoteLine:
    """A repository that a home knows, as it was when it was pushed to or pulled from last."""

    repository: str
    endpoint: str
    corpus: str
    versions: int
    latest: int
    commit_id: str
    has_text: bool
    is_lazy: bool
    pushed_at: datetime | None
    pulled_at: datetime | None


def status(home: Home, repository: str, corpus: str | None = None) -> HubStatus:
    """Compare a corpus with a repository: at most two requests, and nothing is changed.

    Without ``corpus`` it is the one that was pushed there or pulled from there last, else the one of that name.

    Raises:
        NotFoundError: there is no such corpus.
        UsageError: the repository has a revision behind an @.
        HubError: the Hub cannot be reached, or refuses.
        IntegrityError: the repository's manifest is malformed.
    """
    named, revision = parse_repository(repository)
    if revision is not None:
        raise UsageError(f"the status of {repository} cannot be told", hint=f"pragreg status {named}")
    hub = Hub()
    with opened(home) as registry:
        with registry.catalog.read() as session:
            known = find_remote(session, hub.endpoint, str(named), corpus)
            if corpus is not None:
                list_versions(session, corpus)  # says which there are if it is none
        seen = look(hub, str(named), known)
        with registry.catalog.read() as session:
            chosen = corpus or _corpus(session, known, seen)
            return _status(session, str(named), hub.endpoint, chosen, seen)


def remotes(home: Home, corpus: str | None = None) -> list[RemoteLine]:
    """Return the repositories that a home knows, by corpus and repository; no request is made.

    Raises:
        NotFoundError: there is no such corpus.
    """
    with opened(home) as registry, registry.catalog.read() as session:
        if corpus is not None:
            list_versions(session, corpus)
        found = list_remotes(session)
    return [_line(remote) for remote in found if corpus in (None, remote.corpus)]


def _line(remote: Remote) -> RemoteLine:
    root = read_root(remote.root.encode(), repository=remote.repository)
    return RemoteLine(
        repository=remote.repository,
        endpoint=remote.endpoint,
        corpus=remote.corpus,
        versions=len(root.versions),
        latest=root.latest,
        commit_id=remote.commit_id,
        has_text=root.has_text,
        is_lazy=remote.is_lazy,
        pushed_at=remote.pushed_at,
        pulled_at=remote.pulled_at,
    )


def _corpus(session: Session, known: Remote | None, seen: Seen) -> str | None:
    if known is not None:
        return known.corpus
    name = DEFAULT_CORPUS if seen.root is None else seen.root.corpus
    try:
        list_versions(session, name)
    except NotFoundError:
        return None
    return name


def _status(session: Session, repository: str, endpoint: str, corpus: str | None, seen: Seen) -> HubStatus:
    local = [] if corpus is None else corpus_versions(session, corpus)
    root = seen.root
    there = () if root is None else root.versions
    relation = compare([(version.number, version.digest) for version in local], there)
    state: State
    if root is None:
        state = "empty" if seen.is_there else "missing"
    else:
        state = "unknown" if corpus is None else relation.state
    latest = aliases(session, corpus).get(LATEST) if corpus is not None else None
    moved = root is not None and relation.numbers.get(root.latest) != latest
    return HubStatus(
        repository=repository,
        url=f"{endpoint}/{repository}",
        corpus=corpus,
        state=state,
        commit_id=seen.head,
        latest_here=latest,
        latest_there=None if root is None else root.latest,
        only_here=_notes(local, relation.only_here),
        only_there=_notes(there, relation.only_there),
        has_text=None if root is None else root.has_text,
        next_command=_next(repository, corpus, state, root, moved=moved and latest is not None),
    )


def _next(repository: str, corpus: str | None, state: State, root: Root | None, *, moved: bool) -> str | None:
    pull = f"pragreg pull {repository}"
    if corpus is None:
        return pull if state == "unknown" else None
    push = f"pragreg push {repository} --corpus {corpus}"
    if root is not None and not root.has_text:
        push += " --no-text"
    if root is not None and root.corpus != corpus:
        pull += f" --as {corpus}"
    commands = {
        "missing": push,
        "empty": push,
        "ahead": push,
        "behind": pull,
        "diverged": f"{push} --rebase",
        "equal": push if moved else None,
    }
    return commands.get(state)


def _notes(versions: Sequence[PublishedVersion], numbers: Sequence[int]) -> tuple[VersionNote, ...]:
    wanted = set(numbers)
    return tuple(
        VersionNote(version.number, version.digest, version.documents, version.message, version.created_at)
        for version in versions
        if version.number in wanted
    )
