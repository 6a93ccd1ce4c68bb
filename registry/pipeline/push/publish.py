"""The commit that makes a push visible: root manifest, signature and card, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from typing import Any, Literal

from registry.catalog.builds import corpus_language
from registry.catalog.recipes import get_base_model, get_recipe
from registry.digests import json_digest
from registry.errors import IntegrityError
from registry.hub.client import NewFile, ParentMovedError, Upload
from registry.hub.manifest.limits import ROOT_LIMIT_BYTES
from registry.hub.manifest.root import write_root
from registry.hub.manifest.text import plain
from registry.hub.names import ROOT, SIGNATURE
from registry.hub.signatures import SIGNATURE_LIMIT_BYTES, sign
from registry.pipeline.push.contents import Contents
from registry.pipeline.push.intent import Intent
from registry.pipeline.push.readme import readme
from registry.pipeline.push.survey import Survey
from registry.pipeline.push.work import Work
from registry.published import Root
from registry.records import BaseModel

COMMIT_FILES = 100
"""The most files of a commit: the Hub recommends no more."""
_MOVES = 10


@dataclass(frozen=True, slots=True)
class Published:
    """What a repository is now; ``commit_id`` is None where it was so already."""

    commit_id: str | None
    root: Root
    root_bytes: bytes
    card: Literal["written", "kept", "unchanged"]
    dropped_signature: bool


@dataclass(frozen=True, slots=True)
class _Final:
    """The files of the last commit besides contents, and what they say."""

    root: Root
    root_bytes: bytes
    files: Sequence[NewFile]
    deleted: Sequence[str]
    card: Literal["written", "kept", "unchanged"]
    dropped_signature: bool


def publish(work: Work, intent: Intent, contents: Contents | None, found: Survey | None) -> Published:
    """Make the commit, in parts where there are many files; only the last shows anything to readers.

    Where somebody edited another file meanwhile, it is made on their commit.

    Raises:
        ParentMovedError: somebody else pushed meanwhile.
        HubError: the Hub cannot be reached, or refuses.
        UsageError: the key is none that can sign.
    """
    draft, head = _draft(work, intent, contents, found), work.seen.head
    files: list[NewFile | Upload] = [] if contents is None else [*contents.uploads, *contents.shards]
    for attempt in range(_MOVES):
        final = _final(work, intent, draft, head)
        if final is None and work.seen.root is not None:
            return Published(None, work.seen.root, work.seen.root_bytes, "unchanged", dropped_signature=False)
        assert final is not None
        try:
            if len(files) + len(final.files) > COMMIT_FILES:
                while files:
                    head = _commit_part(work, files[:COMMIT_FILES], head)
                    files = files[COMMIT_FILES:]
            deleted = [*(() if contents is None else contents.deleted), *final.deleted]
            commit = work.hub.commit(
                work.repository,
                [*files, *final.files],
                deleted,
                message=message_of(work, intent),
                parent=head,
                landed=lambda now, data=final.root_bytes: _root_at(work, now) == data,  # type: ignore[misc]
                progress=work.progress,
            )
            return Published(commit, final.root, final.root_bytes, final.card, final.dropped_signature)
        except ParentMovedError as error:
            # Somebody edited the README, say: then their commit is the parent.
            if attempt + 1 == _MOVES or error.head is None or _root_at(work, error.head) != _before(work):
                raise
            head = error.head
    raise AssertionError("the last attempt returns or raises")


def message_of(work: Work, intent: Intent) -> str:
    """Return the message of the commit: the given one, or what is new."""
    if work.request.message:
        return "\n".join(plain(line) for line in work.request.message.splitlines()).strip() or intent.corpus
    numbers = [intent.numbers[version.number] for version in intent.added]
    if not numbers:
        return f"{intent.corpus}: v{intent.latest} is the latest"
    which = f"v{numbers[0]}" if len(numbers) == 1 else f"v{numbers[0]} to v{numbers[-1]}"
    said = plain(intent.added[-1].message)
    return f"{intent.corpus} {which}" + (f": {said}" if said else "")


def _commit_part(work: Work, files: Sequence[NewFile | Upload], head: str | None) -> str:
    """Commit files that no root names yet, so that nobody sees them."""
    path = files[-1].path
    folder = path.rpartition("/")[0]
    return work.hub.commit(
        work.repository,
        files,
        [],
        message=f"Files of the next version of {work.corpus}",
        parent=head,
        landed=lambda now: any(file.path == path for file in work.hub.list_files(work.repository, now, folder)),
        progress=work.progress,
    )


def _final(work: Work, intent: Intent, draft: Root, head: str | None) -> _Final | None:
    """Return the files of the last commit; None where they would change nothing."""
    card = readme(work, intent, draft, head)
    root = replace(draft, card_digest=card.digest)
    is_same = root == work.seen.root
    if not is_same:
        root = replace(root, written_at=datetime.now(UTC))
    data = work.seen.root_bytes if is_same else write_root(root)
    files = [NewFile(ROOT, data, None)] if not is_same else []
    if card.file is not None:
        files.append(card.file)
    there = _read_signature(work, head)
    deleted = []
    if work.request.key_file is not None:
        signature = sign(data, work.request.key_file, work.request.passphrase)
        if signature != there:
            files.append(NewFile(SIGNATURE, signature, None))
    elif there is not None and not is_same:
        deleted = [SIGNATURE]
    return _Final(root, data, files, deleted, card.state, bool(deleted)) if files else None


def _draft(work: Work, intent: Intent, contents: Contents | None, found: Survey | None) -> Root:
    """Return the next root, but for what is known only when it is written: the card and the time."""
    root = work.seen.root
    if contents is None or found is None:
        assert root is not None
        return replace(root, latest=intent.latest)
    recipes, base_models = _recipes(work, contents, found)
    counts, written = contents.members.counts, contents.written
    with work.registry.catalog.read() as session:
        language = corpus_language(session, work.corpus) or "en"
    return Root(
        repository=work.repository,
        corpus=work.corpus if root is None else root.corpus,
        language=language if root is None else root.language,
        latest=intent.latest,
        has_text=work.has_text,
        pack_size_bytes=work.pack_size_bytes,
        base_models=tuple(base_models.values()),
        recipes=tuple(recipes.values()),
        versions=(*(() if root is None else root.versions), *(version for version, _ in found.needs.steps)),
        task_adapters=(*(() if root is None else root.task_adapters), *found.task_adapters),
        shard_bits=written.bits,
        shards=written.entries,
        documents=counts.documents,
        adapters=counts.adapters,
        packs=counts.packs,
        packs_bytes=counts.packs_bytes,
        card_digest=None,
        written_by=f"pragreg {installed_version('pragreg')}",
        written_at=datetime.now(UTC),
    )


def _recipes(
    work: Work, contents: Contents, found: Survey
) -> tuple[dict[str, Mapping[str, Any]], dict[str, BaseModel]]:
    """Return the recipes that the root and its records name, and their base models, by digest and fingerprint.

    An adapter may have been made by a recipe that is no version's: two recipes may give the same bytes.
    """
    root = work.seen.root
    recipes = {} if root is None else {json_digest(recipe): recipe for recipe in root.recipes}
    base_models = {} if root is None else {model.fingerprint: model for model in root.base_models}
    needed = [*found.recipes]
    with work.registry.catalog.read() as session:
        named = {recipe.digest for recipe in needed} | recipes.keys()
        needed += [get_recipe(session, digest) for digest in sorted(contents.recipes - named)]
        for recipe in needed:
            recipes.setdefault(recipe.digest, recipe.canonical)
            if recipe.base_model not in base_models:
                base_models[recipe.base_model] = get_base_model(session, recipe.base_model)
    return recipes, base_models


def _read_signature(work: Work, head: str | None) -> bytes | None:
    if head is None:
        return None
    try:
        return work.hub.read_small(work.repository, head, SIGNATURE, limit_bytes=SIGNATURE_LIMIT_BYTES)
    except IntegrityError:  # larger than any signature
        return b""


def _root_at(work: Work, commit: str) -> bytes | None:
    return work.hub.read_small(work.repository, commit, ROOT, limit_bytes=ROOT_LIMIT_BYTES)


def _before(work: Work) -> bytes | None:
    return None if work.seen.root is None else work.seen.root_bytes
