"""Hands corpora from one catalog to another, as a push and a pull do, without a Hub between them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy.orm import Session

from registry.catalog.engine import Catalog
from registry.catalog.recipes import add_base_model, add_recipe
from registry.catalog.remotes.publishing import corpus_versions, delta, member_records, recipes_of
from registry.catalog.remotes.receiving import add_records, append_version, check_versions, create_corpus
from registry.catalog.remotes.remotes import add_remote_locations, find_remote, save_remote
from registry.catalog.remotes.source_names import published_names, save_names
from registry.digests import sha256_hex
from registry.published import FileRef, Member, MemberRecord, PublishedVersion, VersionDelta

ENDPOINT = "https://hub.example"
REPOSITORY = "ada/coast"
PACK = FileRef(sha256_hex(b"the pack"), 10**9)


@dataclass(frozen=True)
class Published:
    """What a repository holds: versions, how each came from the one before, and records by document and adapter."""

    versions: list[PublishedVersion]
    deltas: list[VersionDelta]
    records: list[MemberRecord]


def publish(
    catalog: Catalog, corpus: str, *, withheld: Collection[str] | Literal["all"] = (), after: int = 0
) -> Published:
    """Read the versions of a corpus after one, and remember what its sources were called."""
    with catalog.read() as session:
        versions = corpus_versions(session, corpus)
        remote = find_remote(session, ENDPOINT, REPOSITORY, corpus)
        names = published_names(session, corpus, REPOSITORY, remote.remote_id if remote else None)
        new = versions[after:]
        deltas = [delta(session, corpus, one.number - 1 or None, one.number, names) for one in new]
        pairs = {(each.document_digest, each.adapter_digest) for one in deltas for each in one.opened}
        records = list(member_records(session, sorted(pairs), withheld))
    with catalog.write() as session:
        save_names(session, save(session, corpus, pushed_at=datetime.now(UTC)), names)
    return Published(new, deltas, records)


def receive(catalog: Catalog, corpus: str, published: Published, recipes_from: Catalog, *, lies: bool = True) -> None:
    """Append published versions to a corpus; ``lies`` says that the repository has their adapters."""
    with recipes_from.read() as session:
        recipes, models = recipes_of(session, published.versions)
    with catalog.write() as session:
        for model in models:
            add_base_model(session, model)
        for recipe in recipes:
            add_recipe(session, recipe)
        create_corpus(session, corpus, "en")
        remote = save(session, corpus, pulled_at=datetime.now(UTC))
        add_records(session, published.records)
        if lies:
            add_remote_locations(session, remote, members(published.records))
        numbers = []
        for version, change in zip(published.versions, published.deltas, strict=True):
            made = append_version(
                session,
                corpus,
                version,
                parent=version.parent,
                delta=change,
                repository=REPOSITORY,
                remote_id=remote,
                is_checked=True,
            )
            numbers.append(made.number)
        check_versions(session, corpus, numbers)


def members(records: list[MemberRecord]) -> list[Member]:
    """Return where adapters lie in the repository."""
    return [
        Member(one.document_digest, one.adapter_digest, 1, None, "", False, (), one.size_bytes, PACK, number, PACK)
        for number, one in enumerate(records)
    ]


def save(session: Session, corpus: str, **seen: datetime) -> int:
    """Record the repository as seen now."""
    return save_remote(
        session, corpus=corpus, endpoint=ENDPOINT, repository=REPOSITORY, commit_id="0" * 40, root="{}", **seen
    )
