"""The last source of a lost adapter: it is encoded again, in the group that it was trained in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import groupby

from sqlalchemy.orm import Session

from registry.base_model import choose_device
from registry.catalog.adapters import add_pack
from registry.catalog.recipes import get_base_model, get_recipe
from registry.catalog.upkeep.repairs import Member, give_instead, located, training_groups
from registry.catalog.upkeep.repairs_versions import is_own
from registry.digests import short
from registry.encoding.pool import encode_groups
from registry.errors import EncodingError, Interrupted, PragregError, UsageError
from registry.pipeline.base_models import files_of
from registry.pipeline.encode import SAMPLE_DOCUMENTS
from registry.pipeline.recipes import Chosen, read_task_adapter
from registry.pipeline.repair.bench import Bench
from registry.pipeline.sizing import Sizing, Wanted, size_groups
from registry.records import EncodedAdapter, Pack
from registry.store.headers import Bytes

Group = list[Member]

MANY_ADAPTERS = 32
"""Fewer are encoded in this process: others would take longer to start."""


class ReEncoding:
    """Encodes adapters again from their documents, augmentations and recipes.

    On the kind of machine that made them, the same bytes come of it. What comes out otherwise is another adapter, which
    is stored as what that document gives in builds to come.
    """

    name = "encoding again"

    def __init__(self, bench: Bench) -> None:
        """Note on ``bench`` what cannot be encoded, and why."""
        self._bench = bench

    def adapters(self, wanted: Collection[str]) -> Iterator[tuple[str, Bytes]]:
        """Train the groups of the adapters ``wanted`` whole, and yield those that came out with the same digest."""
        with self._bench.registry.catalog.read() as session:
            groups = training_groups(session, wanted)
        chosen_of: dict[str, Chosen | None] = {}
        for (recipe, device, _), alike in groupby(sorted(groups, key=_kind), key=_kind):
            if recipe not in chosen_of:
                chosen_of[recipe] = self._choose(recipe, wanted, groups)
            if (chosen := chosen_of[recipe]) is not None:
                whole, to_encode = self._whole(list(alike), set(wanted))
                yield from self._encode(chosen, device, whole, to_encode)

    def _choose(self, recipe_digest: str, wanted: Collection[str], groups: Iterable[Group]) -> Chosen | None:
        """Return the recipe with its base model and task adapter, None (and why, noted) where one is not to be had."""
        registry = self._bench.registry
        try:
            with registry.catalog.read() as session:
                recipe = get_recipe(session, recipe_digest)
                base_model = get_base_model(session, recipe.base_model)
            files = files_of(registry, base_model, self._bench.progress)
            start = read_task_adapter(registry, recipe)[1] if recipe.task_adapter else None
            return Chosen(recipe, base_model, files, start)
        except Interrupted:
            raise
        except (PragregError, ValueError) as error:  # settings that were altered need not be JSON any more
            reason = error.message if isinstance(error, PragregError) else f"its recipe cannot be read: {error}"
        concerned = (member.digest for group in groups for member in group if member.recipe_digest == recipe_digest)
        self._fail(concerned, set(wanted), reason)
        return None

    def _whole(self, groups: Sequence[Group], wanted: set[str]) -> tuple[list[Group], set[str]]:
        """Return the groups in which there is something to encode, and which adapters that are.

        Those whose document or augmentation was altered, or is withheld, are none of them.
        """
        altered = {member.digest for group in groups for member in group if not _is_unaltered(member)}
        reason = "its document or augmentation was altered or is withheld, so it cannot be encoded again"
        self._fail(altered, wanted, reason)
        left = wanted - altered
        return [group for group in groups if any(member.digest in left for member in group)], left

    def _encode(
        self, chosen: Chosen, device: str, groups: Sequence[Group], wanted: set[str]
    ) -> Iterator[tuple[str, Bytes]]:
        if not groups:
            return
        self._bench.progress.start("encoding again", sum(map(len, groups)))
        sizing = self._size(chosen, device, groups)
        left = list(groups)
        try:
            for group, adapters in _trained(sizing, groups):
                left.remove(group)
                yield from self._compare(group, adapters, wanted)
        except EncodingError:
            for group in left:  # each by itself, so that one that fails does not stop the others
                try:
                    for _, adapters in _trained(sizing, [group]):
                        yield from self._compare(group, adapters, wanted)
                except EncodingError as error:
                    self._fail((member.digest for member in group), wanted, error.message)
        self._bench.progress.done()

    def _size(self, chosen: Chosen, device: str, groups: Sequence[Group]) -> Sizing:
        """Divide the work as a build does, with groups as large as they were."""
        try:
            device = choose_device(device)
        except UsageError:
            device = "cpu"
        size = max(map(len, groups))
        inputs = [member.given for group in groups for member in group]
        sample = inputs[:: max(1, len(inputs) // SAMPLE_DOCUMENTS)]
        return size_groups(chosen, Wanted((device,), group_size=size), sample, len(inputs), self._bench.progress)

    def _compare(
        self, group: Group, adapters: Sequence[EncodedAdapter], wanted: set[str]
    ) -> Iterator[tuple[str, Bytes]]:
        new = {adapter.document_digest: adapter for adapter in adapters}
        others: dict[str, EncodedAdapter] = {}
        for member in group:
            if member.digest in wanted:
                adapter = new[member.given.document.digest]
                if adapter.digest == member.digest:
                    yield adapter.digest, adapter.data
                else:
                    others[member.digest] = adapter
        self._store(others)
        self._bench.progress.advance(len(group))

    def _store(self, others: Mapping[str, EncodedAdapter]) -> None:
        """Store the adapters of a group that came out otherwise, by the digests of those that they replace."""
        bench = self._bench
        for old, new in others.items():
            bench.instead[old] = new.digest
            bench.failed[old] = (
                f"encoding it again gave another adapter, {short(new.digest)}, as on another kind of processor or with "
                "other libraries"
            )
        with bench.registry.catalog.read() as session:
            places = located(session, (adapter.digest for adapter in others.values()))
        # An earlier repair may have stored them.
        missing = {old: new for old, new in others.items() if new.digest not in places}
        if missing:
            bench.registry.store(
                partial(bench.registry.packs.write, [(new.digest, new.data) for new in missing.values()]),
                partial(_record, others={old: replace(new, data=b"") for old, new in missing.items()}),
            )

    def _fail(self, adapters: Iterable[str], wanted: set[str], reason: str) -> None:
        self._bench.failed |= {digest: reason for digest in adapters if digest in wanted}


def _record(session: Session, pack: Pack, *, others: Mapping[str, EncodedAdapter]) -> None:
    add_pack(session, pack, others.values(), None)
    for old, new in others.items():
        give_instead(session, old, new.digest)


def _kind(group: Group) -> tuple[str, str, int]:
    first = group[0]
    return first.recipe_digest, first.device, first.group_size


def _trained(sizing: Sizing, groups: Sequence[Group]) -> Iterator[tuple[Group, list[EncodedAdapter]]]:
    """Train groups, and give each back with its adapters; they are finished in any order."""
    waiting: dict[frozenset[tuple[str, str]], list[Group]] = {}
    for group in groups:
        waiting.setdefault(frozenset((m.given.document.digest, m.given.augmentation.digest) for m in group), []).append(
            group
        )
    inputs = ([member.given for member in group] for group in groups)
    workers = len(sizing.devices) if sum(map(len, groups)) >= MANY_ADAPTERS else 1
    with closing(encode_groups(sizing.work, inputs, workers, sizing.devices)) as finished:
        for adapters in finished:
            key = frozenset((adapter.document_digest, adapter.augmentation_digest) for adapter in adapters)
            yield waiting[key].pop(), adapters


def _is_unaltered(member: Member) -> bool:
    return is_own(member.given.document) and member.given.augmentation.digest == member.augmentation_digest
