"""Pull: the versions of a repository on the Hub into the registry, as if they had been built here.

Everything is fetched into a folder of its own and checked before the store or the catalog is touched: a pull that is
refused leaves the registry as it was, one that is interrupted goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from registry.catalog.members import withheld_documents
from registry.catalog.upkeep.version_checks import version_states
from registry.errors import BusyError
from registry.hub.client import Hub
from registry.pipeline.opened import Registry, opened
from registry.pipeline.pull.attempt import Attempt, Done, not_here
from registry.pipeline.pull.offer import Offer, read_offer
from registry.pipeline.pull.recording import MovedError
from registry.pipeline.pull.request import PullReport, PullRequest
from registry.pipeline.pull.texts import fill_texts
from registry.progress import Progress
from registry.records import Version
from registry.settings import Home

MOST_ATTEMPTS = 5
"""So often a pull begins again because the corpus was changed meanwhile; what came is not fetched again."""


def pull(home: Home, request: PullRequest, progress: Progress) -> PullReport:
    """Bring what a request names into the registry, and make its index.

    Raises:
        UsageError: a name is none, or a rebase cannot be done.
        NotFoundError: there is no such revision or version.
        InputError: the repository is none of pragreg's, or a source of texts is wrong.
        BaseModelError: the version's adapters are for another base model than the home's.
        DivergedError: here and there are versions that the other has not.
        IntegrityError: something that came is not what it should be; the registry is as it was.
        HubError: there is no such repository, or the Hub cannot be reached, or refuses.
        StorageError: the disk is full; what came is kept, and gone on from.
        BusyError: others change the corpus all the time.
    """
    started = time.perf_counter()
    hub = Hub(notify=progress.say)
    with opened(home) as registry, _stopping(hub):
        offer, done = _brought(registry, hub, request, progress)
        filled = fill_texts(registry, offer.corpus, request.texts, request.read, progress) if request.texts else 0
        _index(registry, done.version, progress, everywhere=done.has_filled_texts or filled > 0)
        with registry.catalog.read() as session:
            withheld = withheld_documents(session, done.version)
            remote_adapters = len(not_here(session, done.version))
    return PullReport(
        repository=offer.repository,
        endpoint=hub.endpoint,
        commit=offer.commit,
        corpus=offer.corpus,
        outcome=done.outcome,
        version=done.version.reference,
        version_digest=done.version.digest,
        versions=tuple(version.reference for version in done.made),
        documents=done.version.documents,
        withheld=withheld,
        filled=filled,
        remote_adapters=remote_adapters,
        packs_fetched=done.packs_fetched,
        packs_reused=done.packs_reused,
        fetched_bytes=done.fetched_bytes,
        conflicts=done.conflicts,
        publisher=offer.publisher,
        fetch_seconds=done.fetch_seconds,
        elapsed_seconds=time.perf_counter() - started,
    )


def _brought(registry: Registry, hub: Hub, request: PullRequest, progress: Progress) -> tuple[Offer, Done]:
    """Pull, and begin again where the corpus is changed meanwhile."""
    for _ in range(MOST_ATTEMPTS):
        offer = read_offer(registry, hub, request)
        with suppress(MovedError):
            return offer, Attempt(registry, hub, request, offer, progress).run()
    raise BusyError(
        f"the corpus {offer.corpus!r} was changed each time that it was pulled to",
        hint="try again when others are done with it",
    )


def _index(registry: Registry, version: Version, progress: Progress, *, everywhere: bool) -> None:
    """Make the index of a version; ``everywhere`` also those anew that lack texts which have come."""
    versions = [version]
    if everywhere:
        with registry.catalog.read() as session:
            others = [state.version for state in version_states(session) if not state.is_collected]
        versions += (other for other in others if registry.home.index_folder(other).is_dir())
    progress.start("indexing", len(versions))
    for one in versions:
        registry.index(one)
        progress.advance()
    progress.done()


@contextmanager
def _stopping(hub: Hub) -> Iterator[None]:
    """End all requests where the block is left early, so that no thread goes on."""
    try:
        yield
    except BaseException:
        hub.stop()
        raise
