"""Mending packs: what is sound in a damaged one moves to a new one, and the damaged file to quarantine."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress

from registry.catalog.adapters import find_locations, forget_packs
from registry.catalog.dialect import lock_packs
from registry.catalog.recipes import get_recipe
from registry.catalog.remotes.remotes import locate_remote
from registry.catalog.upkeep.collecting import unnamed_packs
from registry.catalog.upkeep.pack_table import PackTable, adapters_without_place, pack_tables, task_adapters
from registry.catalog.upkeep.repairs import packs_holding, recipes_of_adapters, set_table
from registry.errors import PragregError, StorageError
from registry.pipeline.repair.bench import RESTORE, Bench, Note
from registry.pipeline.repair.encode import ReEncoding
from registry.pipeline.repair.sources import AdapterSource, copies_of_adapters, is_of_use
from registry.recipe import Recipe
from registry.store.headers import Bytes
from registry.store.salvage import sound_adapters
from registry.upkeep.findings import Finding

BROKEN = ("adapter-foreign", "adapter-broken")
"""Faults of adapters that do have their digests, and are of no use all the same: no copy of them is better."""
PACKS = ("pack-missing", "pack-damaged", "pack-table", "adapter-damaged", *BROKEN)
"""Faults whose subject is a pack."""
LOST = ("adapter-missing", "task-adapter-missing")
ENCODED_BYTES = 16_000_000
"""Adapters that were encoded again are kept by so many bytes, so that a killed repair has not trained in vain."""


def mend_packs(bench: Bench, findings: Sequence[Finding]) -> None:
    """Mend packs and adapters: move what is sound, then have what lies nowhere from whoever has it."""
    bench.useless |= {digest for finding in findings if finding.kind in BROKEN for digest in finding.digests}
    lost: dict[tuple[str, str], set[str]] = {}
    by_pack = _by_pack(bench, findings)
    bench.progress.start("mending packs", len(by_pack))
    for pack, concerned in by_pack.items():
        with bench.noting(concerned):
            text, lost_here = _mend_pack(bench, pack)
            bench.note(concerned, text)
            for finding in concerned:
                lost.setdefault((finding.kind, finding.subject), set()).update(lost_here)
        bench.progress.advance()
    bench.progress.done()
    with bench.noting(findings):
        have_again(bench, {digest for gone in lost.values() for digest in gone})
    for finding in findings:
        _note_adapters(bench, finding, {*finding.digests, *lost.get((finding.kind, finding.subject), ())})


def _by_pack(bench: Bench, findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Return the packs that findings are about, in order, with their findings."""
    concerned: dict[str, list[Finding]] = {}
    for finding in findings:
        packs = {finding.subject} if finding.kind in PACKS else set()
        if finding.kind in BROKEN:  # a useless adapter is so in every pack
            with bench.noting([finding]), bench.registry.catalog.read() as session:
                packs |= packs_holding(session, finding.digests)
        for pack in sorted(packs):
            concerned.setdefault(pack, []).append(finding)
    return concerned


def _mend_pack(bench: Bench, pack_digest: str) -> tuple[str, set[str]]:
    """Make a pack, its file and its table agree, without what is damaged or useless.

    Returns what was done, and the adapters that lie in this pack no more and were not moved to another.
    """
    registry = bench.registry
    with registry.catalog.read() as session:
        table = next(iter(pack_tables(session, [pack_digest])), None)
    if _is_sound(bench, pack_digest):
        pack = registry.packs.inspect(pack_digest)
        registry.store(lambda: pack, set_table)
        return "its table was made anew from its own header", set()
    if table is None:
        where = quarantine_unnamed(bench, pack_digest)
        return f"the damaged file was moved to {where}" if where else "it is gone", set()
    there = registry.packs.exists(pack_digest)
    sound = _salvage(bench, table, there)
    lost = {entry.location.adapter_digest for entry in table.entries} - sound.keys()
    where = _replace(bench, pack_digest, sound, there=there, whole=not lost)
    if not there:
        return "the file was gone" + (f"; {_in_words(len(sound))} of it came from quarantine" if sound else ""), lost
    moved = f"{_in_words(len(sound))} of it lay sound and went to a new pack" if sound else "nothing in it was sound"
    return f"{moved}; the damaged file lies at {where}", lost


def _is_sound(bench: Bench, pack_digest: str) -> bool:
    """Return whether a pack is as it was written, and was written with nothing wrong in it."""
    packs = bench.registry.packs
    try:
        if not packs.check(pack_digest).is_sound:
            return False
    except StorageError as error:
        if getattr(error.__cause__, "errno", None) != errno.EIO:
            raise
        return False  # a disk that cannot read it
    held = {place.adapter_digest for place in packs.inspect(pack_digest).adapters}
    return not held & bench.useless and held == dict(sound_adapters(packs.contents(pack_digest))).keys()


def _salvage(bench: Bench, table: PackTable, there: bool) -> dict[str, memoryview]:
    """Return what is sound of a pack, read into memory from its file, or from files of its digest in quarantine.

    Whatever else the file holds stays in it, and is found in quarantine if it is needed.
    """
    packs = bench.registry.packs
    places = [entry.location for entry in table.entries]
    wanted = {place.adapter_digest for place in places} - bench.useless
    sound: dict[str, memoryview] = {}
    for data in [packs.contents(table.digest)] if there else packs.quarantined_contents(table.digest):
        sound |= dict(sound_adapters(data, places, wanted))
    return sound


def _replace(bench: Bench, pack_digest: str, sound: Mapping[str, memoryview], *, there: bool, whole: bool) -> str:
    """Put what is sound of a pack into a new one, and the old file into quarantine; return where that lies.

    Killed at any point, the next repair finds what is sound: in the file, or in quarantine.
    """
    where = ""
    if there and whole:
        # The new file may be just what the old one was and get its name, so that has to go first.
        with bench.registry.catalog.write() as session:
            lock_packs(session)
            where = _quarantine(bench, pack_digest)
    new = write_pack(bench, sound.items()) if sound else None
    if new != pack_digest:
        with bench.registry.catalog.write() as session:
            forget_packs(session, [pack_digest])
    if there and not whole:
        where = quarantine_unnamed(bench, pack_digest)
    return where


def quarantine_unnamed(bench: Bench, pack_digest: str) -> str:
    """Move the file of a pack that the catalog does not name to quarantine; return where it lies, "" if it stays."""
    with bench.registry.catalog.write() as session:
        if not unnamed_packs(session, [pack_digest]):
            return ""
        return _quarantine(bench, pack_digest)


def _quarantine(bench: Bench, pack_digest: str) -> str:
    if not bench.registry.packs.exists(pack_digest):
        return ""
    return bench.registry.packs.quarantine(pack_digest)


def write_pack(bench: Bench, adapters: Iterable[tuple[str, Bytes]]) -> str:
    """Put adapters that the catalog knows into a new pack, and return its digest."""
    held = list(adapters)
    return bench.registry.store(lambda: bench.registry.packs.write(held), set_table).digest


def have_again(bench: Bench, gone: Set[str] = frozenset()) -> None:
    """Get every adapter that is needed and lies in no pack from the first source that has it.

    What is ``gone`` from its pack, but lies in a repository, is not lost; it is brought here if that can be reached.
    """
    registry = bench.registry
    with registry.catalog.read() as session:
        lost = adapters_without_place(session)
        places = locate_remote(session, gone - find_locations(session, gone).keys() - bench.instead.keys())
        tasks = [digest for digest, task in task_adapters(session).items() if not task.has_place]
    copies = copies_of_adapters(registry, bench.backup, bench.progress.say)
    # Task adapters first: what started from one cannot be encoded again without it. Each has a pack of its own.
    _fetch(bench, tasks, copies, pack_bytes=1)
    there = _fetch(bench, sorted(places), copies, pack_bytes=registry.home.pack_size_bytes)
    bench.there |= {digest: places[digest].repository for digest in there}
    wanted = [digest for digest in lost if digest not in bench.instead]
    left = _fetch(bench, wanted, copies, pack_bytes=registry.home.pack_size_bytes)
    _fetch(bench, left, [ReEncoding(bench)], pack_bytes=ENCODED_BYTES)


def _fetch(bench: Bench, wanted: Sequence[str], sources: Sequence[AdapterSource], *, pack_bytes: int) -> list[str]:
    """Store what the sources have of the adapters ``wanted``, in packs of about so many bytes; return what none has."""
    recipes = _recipes(bench, wanted)
    left = dict.fromkeys(wanted)
    for source in sources:
        held: dict[str, Bytes] = {}
        size_bytes = 0
        for digest, data in source.adapters(list(left)) if left else ():
            recipe = recipes.get(digest)
            is_copy = source.name != ReEncoding.name
            if is_copy and (digest in bench.useless or (recipe is not None and not is_of_use(data, recipe))):
                continue
            held[digest] = data
            size_bytes += len(data)
            if size_bytes >= pack_bytes:
                _keep(bench, source, held, left)
                held, size_bytes = {}, 0
        if held:
            _keep(bench, source, held, left)
    return list(left)


def _recipes(bench: Bench, adapters: Sequence[str]) -> dict[str, Recipe]:
    """Return the recipes of adapters, without those that cannot be read."""
    found: dict[str, Recipe] = {}
    with bench.registry.catalog.read() as session:
        by_adapter = recipes_of_adapters(session, adapters)
        for digest in set(by_adapter.values()):
            with suppress(PragregError, ValueError):
                found[digest] = get_recipe(session, digest)
    return {adapter: found[digest] for adapter, digest in by_adapter.items() if digest in found}


def _keep(bench: Bench, source: AdapterSource, held: dict[str, Bytes], left: dict[str, None]) -> None:
    write_pack(bench, held.items())
    for digest in held:
        del left[digest]
        bench.had[digest] = source.name
        bench.failed.pop(digest, None)


def _note_adapters(bench: Bench, finding: Finding, adapters: set[str]) -> None:
    """Add to what was noted on a finding how its adapters were had again, or why not."""
    before = bench.notes.get((finding.kind, finding.subject), Note(""))
    had = Counter(bench.had[digest] for digest in adapters if digest in bench.had)
    parts = [before.text, *(f"{_in_words(count)} came from {name}" for name, count in had.items())]
    there = Counter(bench.there[digest] for digest in adapters if digest in bench.there)
    parts += (f"{_in_words(count)} of it can be had of {name} when it is asked for" for name, count in there.items())
    failed = Counter(bench.failed[digest] for digest in adapters if digest in bench.failed)
    parts += (f"{_in_words(count)} could not be had: {reason}" for reason, count in failed.items())
    hint = before.hint
    if finding.kind == "task-adapter-missing" and not had:
        parts.append("no other file holds it")
        hint = "pragreg warmup makes it again, from the same questions and by the same recipe"
    elif adapters & bench.instead.keys():
        hint = "pragreg build makes a version with the new adapters; " + RESTORE
    elif failed:
        hint = RESTORE
    bench.note([finding], "; ".join(part for part in parts if part), hint)


def _in_words(count: int) -> str:
    return "1 adapter" if count == 1 else f"{count} adapters"
