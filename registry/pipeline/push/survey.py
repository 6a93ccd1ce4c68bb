"""What a push would send, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from registry.catalog.remotes.publishing import (
    delta,
    documents_of_incomplete_versions,
    local_locations,
    recipes_of,
    task_adapters_of,
    withheld_texts,
)
from registry.catalog.remotes.remotes import locate_remote
from registry.catalog.remotes.source_names import published_names
from registry.catalog.task_adapters import locate_task_adapter
from registry.digests import short
from registry.errors import IntegrityError, UsageError
from registry.hub.manifest.members import Members, Placement
from registry.pipeline.push.intent import Intent
from registry.pipeline.push.needs import Needs, Step, find_needs
from registry.pipeline.push.packing import Packing, pack_up
from registry.pipeline.push.plain import plain_delta, plain_names, plain_task_adapter, plain_version
from registry.pipeline.push.request import Sent
from registry.pipeline.push.work import Work
from registry.pipeline.repositories import members_of
from registry.published import FileRef, PublishedTaskAdapter
from registry.recipe import Recipe

_NOT_SENT = FileRef("0" * 64, 1_000_000)
"""Stands for files whose digests are not known yet."""
_OFFSET = 1_000


@dataclass(frozen=True)
class Survey:
    """What the repository lacks, and how that travels.

    ``members`` are the repository's as they are; ``names`` are what the corpus' files are called there.
    ``task_adapters`` are those that it lacks. Of ``withheld`` documents (None: of all) neither text nor place is told.
    """

    needs: Needs
    packing: Packing
    members: Members
    names: Mapping[str, str]
    withheld: Set[str] | None
    recipes: Sequence[Recipe]
    task_adapters: Sequence[PublishedTaskAdapter]

    @property
    def packs_bytes(self) -> int:
        """The bytes of all packs that are sent."""
        return self.packing.size_bytes + sum(published.pack.size_bytes for published in self.task_adapters)

    @property
    def sent(self) -> Sent:
        """What is known of what is sent before any of it is made."""
        opened = {
            (standing.document_digest, standing.adapter_digest)
            for _, step in self.needs.steps
            for standing in step.opened
        }
        return Sent(
            whole_packs=len(self.packing.whole) + len(self.task_adapters),
            composed_packs=len(self.packing.composed),
            packs_bytes=self.packs_bytes,
            adapters=len(self.needs.lacking),
            reused=len(opened & self.needs.known.keys()),
            records=len(self.needs.new),
        )


def survey(work: Work, intent: Intent) -> Survey:
    """Find out what a repository lacks of the versions that it is to get.

    Raises:
        UsageError: texts are to be published that are not here.
        IntegrityError: a shard of the repository is malformed, or an adapter lies nowhere any more.
    """
    root, home = work.seen.root, work.registry.home
    with work.registry.catalog.read() as session:
        _check_texts(session, work, intent)
        withheld = None if not work.has_text else _of_incomplete(session, intent)
        number = None if work.known is None else work.known.remote_id
        names = plain_names(published_names(session, work.corpus, work.repository, number))
        steps = _steps(session, intent, names, withheld)
        recipes, _ = recipes_of(session, intent.added)
    if root is None or work.seen.head is None:
        members = Members()
    else:
        members = members_of(home, work.hub, work.repository, work.seen.head, root)
    needs = find_needs(members, steps)
    return Survey(
        needs=needs,
        packing=_pack(work, needs),
        members=members,
        names={} if withheld is None else names,
        withheld=withheld,
        recipes=recipes,
        task_adapters=_task_adapters(work, recipes),
    )


def with_shards(found: Survey) -> Sent:
    """Return what is sent with the shards as they would be, which the survey's members then are too."""
    for version, step in found.needs.steps:
        found.members.apply(version.number, step, lambda _: Placement(1, _NOT_SENT, _OFFSET, _NOT_SENT))
    files = found.members.write().files
    return replace(found.sent, shards=len(files), shards_bytes=sum(file.size_bytes for file in files))


def _of_incomplete(session: Session, intent: Intent) -> Set[str]:
    """Return the documents that no complete version has of those that the repository is to have."""
    there = [version for version in intent.versions if version.number in intent.numbers]
    return documents_of_incomplete_versions(session, intent.corpus, there)


def _steps(session: Session, intent: Intent, names: Mapping[str, str], withheld: Set[str] | None) -> list[Step]:
    steps = []
    before = intent.before
    for here, there in zip(intent.added, intent.published, strict=True):
        change = delta(session, intent.corpus, before, here.number, names)
        steps.append((plain_version(there), plain_delta(change, withheld)))
        before = here.number
    return steps


def _check_texts(session: Session, work: Work, intent: Intent) -> None:
    if not work.has_text or not intent.added or not all(version.is_complete for version in intent.added):
        return
    lacking = withheld_texts(session, work.corpus, intent.added[0].number, intent.added[-1].number)
    if lacking:
        raise texts_missing(work, lacking)


def texts_missing(work: Work, documents: int) -> UsageError:
    """Return the error that texts cannot be published, since they were never here."""
    what = "the text of a document is" if documents == 1 else f"the texts of {documents} documents are"
    return UsageError(
        f"{what} not here: {work.corpus} was pulled without texts",
        hint=f"pragreg push {work.repository} --no-text, or bring the texts with pragreg build SOURCE...",
    )


def _pack(work: Work, needs: Needs) -> Packing:
    with work.registry.catalog.read() as session:
        locations = list(local_locations(session, needs.lacking))
        sizes = {location.adapter_digest: location.size_bytes for location in locations}
        elsewhere = locate_remote(session, (adapter for adapter in needs.lacking if adapter not in sizes))
    sizes |= {adapter: location.size_bytes for adapter, location in elsewhere.items()}
    lost = [adapter for adapter in needs.lacking if adapter not in sizes]
    if lost:
        raise IntegrityError(
            f"the adapter {short(lost[0])} lies nowhere any more"
            + (f", nor do {len(lost) - 1} others" if lost[1:] else ""),
            hint="pragreg verify shows what is lost, pragreg repair brings back what can be had; then push again",
        )
    return pack_up(needs.lacking, locations, sizes, work.registry.packs.inspect, pack_size_bytes=work.pack_size_bytes)


def _task_adapters(work: Work, recipes: Sequence[Recipe]) -> list[PublishedTaskAdapter]:
    root = work.seen.root
    there = set() if root is None else {published.task_adapter.digest for published in root.task_adapters}
    found = []
    with work.registry.catalog.read() as session:
        lacking = [one for one in task_adapters_of(session, recipes) if one.digest not in there]
        places = [locate_task_adapter(session, one.digest) for one in lacking]
    for one, place in zip(lacking, places, strict=True):
        pack = work.registry.packs.inspect(place.pack_digest)
        file = FileRef(pack.digest, pack.size_bytes)
        found.append(PublishedTaskAdapter(plain_task_adapter(one), file, place.offset))
    return found
