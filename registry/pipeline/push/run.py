"""Push: the versions of a corpus that a repository lacks, in one commit that shows all of them at once."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache

from registry.catalog.names import parse_reference
from registry.catalog.references import resolve
from registry.catalog.remotes.remotes import find_remote
from registry.errors import DivergedError, HubError, Interrupted, UsageError
from registry.hub.client import Hub, ParentMovedError
from registry.hub.manifest.limits import PACK_LIMIT_BYTES
from registry.hub.names import check_tag, parse_repository, tagged_version, version_tag
from registry.hub.signatures import sign
from registry.pipeline.opened import Registry, opened
from registry.pipeline.push.contents import send_contents
from registry.pipeline.push.intent import Intent, choose_corpus, intend
from registry.pipeline.push.outgoing import Outgoing
from registry.pipeline.push.publish import Published, publish
from registry.pipeline.push.record import record_equal, record_push
from registry.pipeline.push.request import PushReport, PushRequest, Sent
from registry.pipeline.push.survey import survey, with_shards
from registry.pipeline.push.theirs import check_begun, check_free
from registry.pipeline.push.work import Work
from registry.pipeline.repositories import look, seen_at
from registry.progress import Progress
from registry.published import Root
from registry.settings import Home
from registry.upkeep.readers import reading

_MOST_MOVES = 5
"""So often somebody else may push in between before a push gives up."""
_MOST_LEASES = 200


def push(home: Home, request: PushRequest, progress: Progress) -> PushReport:
    """Have a repository hold the versions of a corpus that it lacks; it is made if it does not exist.

    Packs and records that it has are not sent again, and nothing shows before the last commit. Where that was done and
    something fails afterwards, such as a tag, the same push again makes good what is missing.

    Raises:
        NotFoundError: there is no such corpus or version.
        UsageError: a name is wrong, or the repository cannot take this; see the message.
        DivergedError: each side has versions that the other has not, and ``rebase`` is not set.
        IntegrityError: an adapter or a pack is damaged here, or the repository is malformed. Nothing is published.
        HubError: the Hub cannot be reached, or refuses.
    """
    start = time.perf_counter()
    repository, revision = parse_repository(request.repository)
    if revision is not None:
        raise UsageError(
            f"a push goes to {repository} itself, not to {revision!r} of it",
            hint=f"pragreg push {repository} --tag {revision} gives what is pushed that name",
        )
    request = _checked(request)
    with opened(home) as registry, _rare_collections():
        try:
            report = _push(registry, str(repository), request, progress)
        except DivergedError:
            if not request.rebase or request.dry_run:
                raise
            _rebase(registry, str(repository), request, progress)
            report = _push(registry, str(repository), request, progress)
    return replace(report, elapsed_seconds=time.perf_counter() - start)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Have Python look for cycles rarely: what a push makes lives to its end, and looking takes a quarter of it."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _checked(request: PushRequest) -> PushRequest:
    """Refuse early what would fail late."""
    if request.tag is not None:
        check_tag(request.tag)
        if tagged_version(request.tag) is not None or request.tag in ("main", "HEAD"):
            raise UsageError(f"{request.tag!r} is a name that pragreg or git gives itself", hint="choose another --tag")
    size_bytes = request.pack_size_bytes
    if size_bytes is not None and not 0 < size_bytes <= PACK_LIMIT_BYTES:
        raise UsageError(
            f"packs of {size_bytes} bytes cannot be published", hint=f"--pack-size 256MB, at most {PACK_LIMIT_BYTES}"
        )
    if request.key_file is None:
        return request
    # Asked for once, however often something is signed.
    passphrase = None if request.passphrase is None else cache(request.passphrase)
    sign(b"", request.key_file, passphrase)
    return replace(request, passphrase=passphrase)


def _rebase(registry: Registry, repository: str, request: PushRequest, progress: Progress) -> None:
    from registry.pipeline.pull.request import PullRequest
    from registry.pipeline.pull.run import pull

    with registry.catalog.read() as session:
        reference = choose_corpus(session, request.reference, Hub().endpoint, repository)
    corpus = parse_reference(reference).corpus
    pull(registry.home, PullRequest(repository, corpus=corpus, rebase=True), progress)


def _push(registry: Registry, repository: str, request: PushRequest, progress: Progress) -> PushReport:
    hub = Hub(notify=progress.say)
    for attempt in range(_MOST_MOVES):
        try:
            with registry.catalog.read() as session:
                reference = choose_corpus(session, request.reference, hub.endpoint, repository)
                corpus = parse_reference(reference).corpus
                known = find_remote(session, hub.endpoint, repository, corpus)
                resolve(session, reference)  # says what is wrong with it before the Hub is asked
            seen = look(hub, repository, known)
            work = Work(registry, hub, repository, request, corpus, known, seen, progress)
            check_free(work)
            check_begun(work)
            with _leased(work, reference) as intent:
                return _dry(work, intent) if request.dry_run else _bring(work, intent)
        except ParentMovedError:
            if attempt + 1 == _MOST_MOVES:
                raise
            progress.say(f"somebody else has pushed to {repository} meanwhile: looking at it again")
        except (KeyboardInterrupt, Interrupted):
            hub.stop()
            raise
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _leased(work: Work, reference: str) -> Iterator[Intent]:
    """Say what is to be pushed, and let no collection take anything of it away until the block ends."""
    root = work.seen.root
    with work.registry.catalog.read() as session:
        first = intend(session, reference, work.repository, root)
    with ExitStack() as leases:
        leases.enter_context(reading(work.registry.home, first.target))
        for version in first.added[-_MOST_LEASES:]:
            if version.is_complete and version.number != first.target.number:
                held = replace(first.target, number=version.number)
                leases.enter_context(reading(work.registry.home, held))
        # What was collected before its lease was taken is seen now.
        with work.registry.catalog.read() as session:
            intent = intend(session, reference, work.repository, root)
        yield intent


def _bring(work: Work, intent: Intent) -> PushReport:
    root, request = work.seen.root, work.request
    if intent.relation.state == "behind":
        return _report(work, intent, None, Sent(), ())
    is_same = root is not None and not intent.added and root.latest == intent.latest
    wants_more = request.replace_card or request.licence is not None or request.key_file is not None
    if root is not None and is_same and not wants_more:
        return _nothing_new(work, intent, root)
    found = survey(work, intent) if intent.added else None
    created = not work.seen.is_there
    if created:
        work = _created(work)
    with Outgoing(work.registry.home) as outgoing:
        contents = None if found is None else send_contents(work, found, outgoing)
        published = publish(work, intent, contents, found)
    if published.commit_id is None:
        return _nothing_new(work, intent, published.root)
    record_push(work, published, contents, found)
    tags = _tag(work, published.root, published.commit_id)
    sent = Sent() if contents is None else contents.sent
    return _report(work, intent, published, sent, tags, created=created)


def _nothing_new(work: Work, intent: Intent, root: Root) -> PushReport:
    assert work.seen.head is not None
    record_equal(work, root)
    return _report(work, intent, None, Sent(), _tag(work, root, work.seen.head))


def _dry(work: Work, intent: Intent) -> PushReport:
    sent = with_shards(survey(work, intent)) if intent.added else Sent()
    root = work.seen.root
    versions = (0 if root is None else len(root.versions)) + len(intent.added)
    tags = [] if intent.relation.state == "behind" else _lacking_tags(work, versions, None)
    return _report(work, intent, None, sent, tags, created=not work.seen.is_there)


def _created(work: Work) -> Work:
    """Make the repository."""
    work.hub.create(work.repository, private=work.request.private)
    refs = work.hub.refs(work.repository)
    if refs is None:
        raise HubError(
            f"{work.repository} cannot be seen: it may be there as somebody's private repository",
            hint="see what the token may do with hf auth whoami",
        )
    seen = seen_at(work.hub, work.repository, refs, None)
    if seen.root is not None:  # somebody else made it and pushed
        raise ParentMovedError(work.repository, seen.head)
    return replace(work, seen=seen)


def _tag(work: Work, root: Root, commit: str) -> list[str]:
    """Name the commit by the versions that have no tag yet, and by the tag that was asked for."""
    messages = {version_tag(version.number): version.message for version in root.versions}
    made = _lacking_tags(work, len(root.versions), commit)
    for name in made:
        try:
            work.hub.tag(work.repository, name, commit, message=messages.get(name, ""), move=name == work.request.tag)
        except HubError as error:
            raise HubError(
                f"all is pushed to {work.repository}, but the tag {name} is not made: {error.message}",
                hint="the same push again makes it",
            ) from error
    return made


def _lacking_tags(work: Work, versions: int, commit: str | None) -> list[str]:
    there = work.seen.tags or {}
    lacking = [name for name in map(version_tag, range(1, versions + 1)) if name not in there]
    wanted = work.request.tag
    if wanted is not None and (commit is None or there.get(wanted) != commit):
        lacking.append(wanted)
    return lacking


def _report(
    work: Work,
    intent: Intent,
    published: Published | None,
    sent: Sent,
    tags: Sequence[str],
    *,
    created: bool = False,
) -> PushReport:
    root, request, state = work.seen.root, work.request, intent.relation.state
    assert state != "diverged"
    return PushReport(
        repository=work.repository,
        url=f"{work.hub.endpoint}/{work.repository}",
        corpus=work.corpus,
        state="new" if root is None else state,
        commit_id=None if published is None else published.commit_id,
        versions=tuple(intent.numbers[version.number] for version in intent.added),
        references=tuple(f"{work.corpus}@v{version.number}" for version in intent.added),
        latest=intent.latest,
        behind=len(intent.relation.only_there),
        sent=sent,
        tags=tuple(tags),
        created=created,
        has_text=work.has_text,
        is_signed=published is not None and request.key_file is not None,
        dropped_signature=published is not None and published.dropped_signature,
        card="unchanged" if published is None else published.card,
        dry_run=request.dry_run,
        elapsed_seconds=0.0,
    )
