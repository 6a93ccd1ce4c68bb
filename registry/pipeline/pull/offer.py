"""What a repository offers: a root manifest at one commit, and in it the version that is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from registry.catalog.names import check_corpus_name
from registry.catalog.remotes.remotes import Remote, find_remote
from registry.digests import short
from registry.errors import HubError, InputError, IntegrityError, NotFoundError
from registry.hub.client import Hub, Refs
from registry.hub.manifest.limits import ROOT_LIMIT_BYTES
from registry.hub.manifest.root import read_root
from registry.hub.names import ROOT, SIGNATURE, parse_repository, tagged_version
from registry.hub.signatures import SIGNATURE_LIMIT_BYTES, read_public_key, verify
from registry.pipeline.opened import Registry
from registry.pipeline.pull.request import PullRequest
from registry.published import PublishedVersion, Root

PEFT_CONFIG = "adapter_config.json"
_PEFT_LIMIT_BYTES = 1024 * 1024
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LISTED = 10


@dataclass(frozen=True)
class Offer:
    """A root manifest at a commit, and what is wanted of it.

    ``versions`` are the repository's first ones up to those that are pulled, ``target`` the one of them that is to be
    asked here. ``known`` is what the catalog knew of the repository as a remote of ``corpus``, and ``seen`` the root
    manifest of that. ``publisher`` signed.
    """

    repository: str
    commit: str
    text: str
    root: Root
    versions: tuple[PublishedVersion, ...]
    target: PublishedVersion
    corpus: str
    known: Remote | None
    seen: Root | None
    is_head: bool
    publisher: str | None

    @property
    def is_newest(self) -> bool:
        """Whether this is at least as new as what was seen before: a tag may name an older commit."""
        return self.seen is None or self.is_head or len(self.root.versions) > len(self.seen.versions)

    @property
    def is_news(self) -> bool:
        """Whether the catalog has yet to know of this commit."""
        return self.known is None or (self.is_newest and self.known.commit_id != self.commit)


def read_offer(registry: Registry, hub: Hub, request: PullRequest) -> Offer:
    """Find the commit that a request names, and read and check its root manifest.

    One request to the Hub if the commit is the one that was seen last, two otherwise; another one for a signature.

    Raises:
        UsageError: the repository's name, the corpus' or the key is none.
        NotFoundError: there is no such revision or version, or the version's adapters are nowhere.
        InputError: the repository is not one of pragreg's.
        IntegrityError: the manifest is malformed, or not signed as it must be, or its history was rewritten.
        HubError: there is no such repository, or the Hub cannot be reached, or refuses.
    """
    name, revision = parse_repository(request.repository)
    repository = str(name)
    if request.corpus is not None:
        check_corpus_name(request.corpus)
    publishers = _publishers(registry, request.required_key)
    refs = hub.refs(repository)
    if refs is None:
        raise HubError(
            f"there is no repository {repository} at {hub.endpoint}, or it is private",
            hint="check the name; for a private one: hf auth login",
        )
    number = None if revision is None else tagged_version(revision)
    commit = _commit(refs, repository, None if number is not None else revision)
    with registry.catalog.read() as session:
        last = find_remote(session, hub.endpoint, repository, request.corpus)
    data = last.root.encode() if last is not None and last.commit_id == commit else None
    if data is None:
        data = hub.read_small(repository, commit, ROOT, limit_bytes=ROOT_LIMIT_BYTES)
    if data is None:
        raise _foreign(hub, repository, commit)
    publisher = _publisher(hub, repository, commit, data, publishers)
    root = read_root(data, repository=repository)
    if publisher is not None and root.repository != repository:
        raise IntegrityError(f"the root manifest of {repository} was signed for {root.repository}")
    if last is not None:
        _check_history(last, root, repository, is_head=commit == refs.head)
    corpus = request.corpus or root.corpus
    with registry.catalog.read() as session:
        known = find_remote(session, hub.endpoint, repository, corpus)
    target = _target(root, repository, number)
    return Offer(
        repository=repository,
        commit=commit,
        text=data.decode(),
        root=root,
        versions=root.versions if number is None else root.versions[:number],
        target=target,
        corpus=corpus,
        known=known,
        seen=None if known is None else read_root(known.root.encode(), repository=repository),
        is_head=commit == refs.head,
        publisher=publisher,
    )


def _commit(refs: Refs, repository: str, revision: str | None) -> str:
    if revision is None:
        if refs.head is None:
            raise NotFoundError(f"nothing was pushed to {repository} yet", hint=f"pragreg push {repository}")
        return refs.head
    named = refs.tags.get(revision) or refs.branches.get(revision)
    if named is not None:
        return named
    if _COMMIT.fullmatch(revision):
        return revision
    raise NotFoundError(f"{repository} has no tag or branch {revision!r}", hint=f"it has {_listing(refs.tags)}")


def _listing(tags: Mapping[str, str]) -> str:
    names = sorted(tags)
    if not names:
        return "no tags; without one the newest is pulled"
    return "the tags " + ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if names[_LISTED:] else "")


def _foreign(hub: Hub, repository: str, commit: str) -> InputError:
    """Say what a repository without a root manifest is."""
    if hub.read_small(repository, commit, PEFT_CONFIG, limit_bytes=_PEFT_LIMIT_BYTES) is not None:
        return InputError(
            f"{repository} is an adapter in PEFT's format, and no corpus of pragreg's",
            hint=f"pragreg adapters import {repository}",
        )
    return InputError(
        f"{repository} has neither {ROOT}, which `pragreg push` writes, nor PEFT's {PEFT_CONFIG}",
        hint="name a repository that was made by `pragreg push`, or one of a PEFT adapter",
    )


def _publishers(registry: Registry, required: str | None) -> Mapping[str, str] | None:
    """Return the public key that is required, by the name that it was given, None where none is."""
    if required is None:
        return None
    return {required: registry.home.publishers.get(required) or read_public_key(required)}


def _publisher(hub: Hub, repository: str, commit: str, data: bytes, publishers: Mapping[str, str] | None) -> str | None:
    """Return who signed a root manifest, None where no signature is required."""
    if publishers is None:
        return None
    signature = hub.read_small(repository, commit, SIGNATURE, limit_bytes=SIGNATURE_LIMIT_BYTES)
    return verify(data, signature, publishers)


def _check_history(last: Remote, root: Root, repository: str, *, is_head: bool) -> None:
    """Check that a repository still has the versions that were seen in it; at an older commit it may have fewer."""
    seen = read_root(last.root.encode(), repository=repository).versions
    for before, now in zip(seen, root.versions, strict=False):
        if before.digest != now.digest:
            raise _rewritten(repository, f"its v{now.number} was {short(before.digest)} and is {short(now.digest)}")
    if is_head and len(root.versions) < len(seen):
        raise _rewritten(repository, f"it had {len(seen)} versions and has {len(root.versions)}")


def _rewritten(repository: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"the history of {repository} was rewritten: {how}",
        hint=f"ask its owner; to take it all the same: pragreg pull {repository} --as OTHER",
    )


def _target(root: Root, repository: str, number: int | None) -> PublishedVersion:
    """Return the version of that number, or the one that is asked by default."""
    wanted = root.latest if number is None else number
    if not 0 < wanted <= len(root.versions):
        there = f"v1 to v{len(root.versions)}" if len(root.versions) > 1 else "v1"
        raise NotFoundError(f"{repository} has no version v{wanted}", hint=f"it has {there}")
    target = root.versions[wanted - 1]
    if not target.is_complete:
        raise NotFoundError(
            f"{repository} has not the adapters of v{wanted}: they were collected before it was pushed",
            hint=f"pragreg pull {repository} brings v{root.latest}",
        )
    return target
