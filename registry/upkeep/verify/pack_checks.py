"""The part of verify that compares the table of packs with the packs, and reads those."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from registry.catalog.adapters import pack_digests
from registry.catalog.chunks import chunked
from registry.catalog.upkeep.pack_table import (
    PackTable,
    Unused,
    adapters_without_place,
    known_recipes,
    pack_tables,
    task_adapters,
    unused_adapters,
)
from registry.catalog.upkeep.version_checks import references_of_adapters, references_of_recipes
from registry.digests import short
from registry.errors import IntegrityError, StorageError
from registry.progress import Progress
from registry.recipe import Recipe
from registry.records import AdapterLocation, Pack
from registry.store.files import StoredPack
from registry.store.layout import AdapterLayout
from registry.store.packs import PackStore, header_of
from registry.store.scan import PackScan, read_header, scan
from registry.upkeep.findings import Finding
from registry.upkeep.verify.asking import Asking
from registry.upkeep.verify.resuming import CheckedPacks

_AHEAD = 4
"""Packs that wait for each thread, so that none waits for the catalog."""
_TABLES = 8
"""Packs whose tables are asked for in one transaction."""
_BLOCK = re.compile(r"\.(\d+)\.")


@dataclass(slots=True)
class _Examined:
    """What a thread saw of a pack: ``held`` is its header, ``scan`` is None where the header told enough."""

    table: PackTable
    stored: StoredPack | None
    held: Pack | None = None
    scan: PackScan | None = None
    is_missing: bool = False
    is_passed_over: bool = False


@dataclass(slots=True)
class _Dead:
    """Adapters that lie in packs without a row of the table."""

    adapters: int = 0
    packs: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class PackCounts:
    """What was looked at."""

    packs: int = 0
    adapters: int = 0
    passed_over: int = 0
    bytes_read: int = 0
    elapsed_seconds: float = 0.0


class PackChecks:
    """Checks every pack; ``findings`` grow, ``counts`` tell what was looked at."""

    def __init__(
        self, packs: PackStore, asking: Asking, progress: Progress, *, jobs: int, checked: CheckedPacks | None
    ) -> None:
        """Read packs with ``jobs`` threads, whole if there are notes of ``checked`` ones to keep."""
        self._packs, self._asking, self._progress, self._jobs = packs, asking, progress, jobs
        self._checked = checked
        self.findings: list[Finding] = []
        self.counts = PackCounts()
        self._dead = _Dead()
        self._layouts: dict[str, AdapterLayout] = {}

    def run(self) -> None:
        """Make all checks.

        Raises:
            StorageError: the store cannot be listed.
        """
        started = time.perf_counter()
        # Files first: what a build writes meanwhile then has its row when the table is read.
        stored = {pack.digest: pack for pack in self._packs.list()}
        known = self._asking(pack_digests) or set()
        self._lost = set(self._asking(adapters_without_place) or ())
        self._tasks = self._asking(task_adapters) or {}
        self._recipes = self._asking(known_recipes) or {}
        total = sum(_megabytes(stored.get(digest)) for digest in known)
        deep = self._checked is not None
        self._progress.start("packs, in MB" if deep else "packs", total if deep else len(known))
        for examined in self._examine_all(sorted(known), stored):
            self._count(examined)
            before = len(self.findings)
            self._judge(examined)
            if self._checked and examined.stored and len(self.findings) == before and not examined.is_passed_over:
                self._checked.add(examined.stored)
        self._unknown(stored, known)
        self._without_place()
        self._leftovers()
        self._progress.done()
        self.counts.elapsed_seconds = time.perf_counter() - started

    def _examine_all(self, digests: Sequence[str], stored: dict[str, StoredPack]) -> Iterator[_Examined]:
        waiting: deque[Future[_Examined]] = deque()
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="verifying") as threads:
            try:
                for table in self._tables(digests):
                    waiting.append(threads.submit(self._examine, table, stored.get(table.digest)))
                    if len(waiting) > self._jobs * _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _tables(self, digests: Sequence[str]) -> Iterator[PackTable]:
        for chunk in chunked(digests, _TABLES):
            yield from self._asking(pack_tables, chunk) or ()

    def _examine(self, table: PackTable, stored: StoredPack | None) -> _Examined:
        examined = _Examined(table, stored)
        places = [entry.location for entry in table.entries]
        if self._checked is not None and stored is not None:
            examined.is_passed_over = self._checked.has(stored)
        try:
            if stored is None:
                examined.is_missing = not self._packs.exists(table.digest)
            if not examined.is_missing and (self._checked is None or examined.is_passed_over):
                examined.held = self._glance(table, places, stored)
            if not examined.is_missing and examined.held is None:
                examined.scan = scan(self._packs, table.digest, places)
                examined.held = examined.scan.held
                examined.is_passed_over = False
        except IntegrityError:
            examined.is_missing = True
        except StorageError as error:
            damaged = tuple(place.adapter_digest for place in places)
            examined.scan = PackScan(table.digest, problem=error.message, damaged=damaged)
        return examined

    def _glance(self, table: PackTable, places: Iterable[AdapterLocation], stored: StoredPack | None) -> Pack | None:
        """Return what a pack's header says if that is just as it should be; else it takes reading the pack."""
        try:
            held, header = read_header(self._packs, table.digest)
        except (IntegrityError, StorageError):
            return None
        is_whole = stored is None or stored.size_bytes == held.size_bytes
        is_known = table.size_bytes == held.size_bytes and set(places) <= set(held.adapters)
        return held if is_whole and is_known and header == header_of(held) else None

    def _count(self, examined: _Examined) -> None:
        self.counts.packs += 1
        self.counts.adapters += len(examined.table.entries)
        self.counts.passed_over += examined.is_passed_over
        self.counts.bytes_read += examined.scan.bytes_read if examined.scan else 0
        self._progress.advance(1 if self._checked is None else _megabytes(examined.stored))

    def _judge(self, examined: _Examined) -> None:
        table, found = examined.table, examined.scan
        places = {entry.location for entry in table.entries}
        digests = tuple(entry.location.adapter_digest for entry in table.entries)
        if examined.is_missing:
            # A build may have combined it into another one meanwhile.
            if self._asking(pack_tables, [table.digest]) != []:
                self._add("pack-missing", table.digest, f"{self._packs.path_of(table.digest)} is not there", digests)
            return
        if found is not None and found.problem is not None:
            kind = "adapter-damaged" if found.is_confined and found.damaged else "pack-damaged"
            self._add(kind, table.digest, found.problem, found.damaged)
        elif found is not None and found.misnamed:
            detail = f"{len(found.misnamed)} of its adapters were written with bytes of other digests"
            self._add("adapter-damaged", table.digest, detail, found.misnamed)
        elif examined.held is not None:
            self._compare(table, places, examined.held)
        if found is not None:
            self._look_into(table, found)

    def _compare(self, table: PackTable, places: set[AdapterLocation], held: Pack) -> None:
        """Compare the table with the header of a pack that is sound."""
        strangers = tuple(place.adapter_digest for place in places - set(held.adapters))
        lost = tuple(place.adapter_digest for place in held.adapters if place.adapter_digest in self._lost)
        details = []
        if strangers:
            details.append(f"the table has {len(strangers)} adapters that do not lie there")
        if lost:
            self._lost.difference_update(lost)
            details.append(f"the table lacks {len(lost)} adapters that lie there")
        if table.size_bytes != held.size_bytes:
            details.append(f"the table says {table.size_bytes} bytes, the pack has {held.size_bytes}")
        if details:
            self._add("pack-table", table.digest, "; ".join(details), (*strangers, *lost))
        named = {place.adapter_digest for place in places}
        dead = [place.size_bytes for place in held.adapters if place.adapter_digest not in named.union(lost)]
        if dead:
            self._dead.adapters += len(dead)
            self._dead.packs += 1
            self._dead.size_bytes += sum(dead)

    def _look_into(self, table: PackTable, found: PackScan) -> None:
        """Compare adapters whose bytes are right with what an adapter of their recipe must be."""
        unlike = dict(found.unlike)
        for entry in table.entries:
            digest = entry.location.adapter_digest
            layout, recipe = found.layouts.get(digest), self._recipes.get(entry.recipe_digest)
            if layout is not None and recipe is not None:
                first = self._layouts.setdefault(entry.recipe_digest, layout)
                if (problem := _unlike(layout, first, recipe, entry.parameters)) is not None:
                    unlike[digest] = problem
        for kind, faults in (("adapter-foreign", unlike), ("adapter-broken", found.broken)):
            digests = tuple(entry.location.adapter_digest for entry in table.entries)
            touched = tuple(digest for digest in digests if digest in faults)
            if touched:
                more = f" (and {len(touched) - 1} more)" if len(touched) > 1 else ""
                self._add(kind, table.digest, f"{short(touched[0])}: {faults[touched[0]]}{more}", touched)

    def _unknown(self, stored: dict[str, StoredPack], known: set[str]) -> None:
        unnamed = stored.keys() - known
        # Builds may have named some since.
        unnamed -= (self._asking(pack_digests) or set()) if unnamed else set()
        if self._asking.findings:
            return  # a damaged catalog may have lost them
        for digest in sorted(unnamed):
            held: tuple[AdapterLocation, ...] = ()
            if self._lost:
                try:
                    held = read_header(self._packs, digest)[0].adapters
                except (IntegrityError, StorageError):
                    held = ()
            lost = tuple(place.adapter_digest for place in held if place.adapter_digest in self._lost)
            if lost:
                self._lost.difference_update(lost)
                self._add(
                    "pack-table", digest, f"the table lacks this pack, which holds {len(lost)} lost adapters", lost
                )
            elif self._packs.exists(digest):
                detail = f"{self._packs.path_of(digest)} is not in the catalog"
                self.findings.append(Finding("pack-unknown", digest, detail, size_bytes=stored[digest].size_bytes))

    def _without_place(self) -> None:
        if self._lost:
            digests = tuple(sorted(self._lost))
            self._add("adapter-missing", "adapters", f"{len(digests)} adapters of versions lie in no pack", digests)
        for digest, task in self._tasks.items():
            if not task.has_place:
                detail = f"the task adapter {task.name or short(digest)} lies in no pack"
                self._add("task-adapter-missing", digest, detail, (digest,))
        for recipe in self._recipes.values():
            start = recipe.task_adapter
            if start in self._tasks or not start:
                continue
            versions = self._asking(references_of_recipes, [recipe.digest])
            if versions:
                detail = f"the recipe {short(recipe.digest)} starts from a task adapter that the catalog does not have"
                self._add("task-adapter-missing", start, detail, (start,))

    def _leftovers(self) -> None:
        for name, size_bytes, _ in self._packs.partials():
            self.findings.append(Finding("file-partial", name, "a killed writer left it", size_bytes=size_bytes))
        if self._asking.findings:
            return
        unused = self._asking(unused_adapters) or Unused(0, 0, 0)
        adapters, dead = unused.adapters + self._dead.adapters, self._dead
        if adapters:
            detail = f"{adapters} adapters of no version take room in packs"
            size_bytes = unused.size_bytes + dead.size_bytes
            self.findings.append(Finding("adapter-unused", "packs", detail, size_bytes=size_bytes))

    def _add(self, kind: str, subject: str, detail: str, digests: tuple[str, ...]) -> None:
        versions = self._asking(references_of_adapters, digests) or ()
        recipes = [recipe.digest for recipe in self._recipes.values() if recipe.task_adapter in digests]
        if recipes:
            versions += self._asking(references_of_recipes, recipes) or ()
        touched = tuple(dict.fromkeys(versions))
        self.findings.append(Finding(kind, subject, detail, digests=digests, versions=touched))


def _megabytes(pack: StoredPack | None) -> int:
    return -(-pack.size_bytes // 10**6) if pack else 0


def _unlike(layout: AdapterLayout, first: AdapterLayout, recipe: Recipe, parameters: int) -> str | None:
    """Return in which way an adapter is none of its recipe; ``first`` is the layout of another one of the recipe."""
    if layout.rank != recipe.rank or layout.dtype != recipe.adapter_dtype:
        return f"it has rank {layout.rank} in {layout.dtype}, its recipe says {recipe.rank} in {recipe.adapter_dtype}"
    if layout.elements != parameters:
        return f"it has {layout.elements} numbers, not {parameters}"
    if layout is first:
        return None
    for module in layout.modules:
        block = _BLOCK.search(module)
        is_target = any(module == target or module.endswith(f".{target}") for target in recipe.targets)
        if not is_target or (block is not None and int(block[1]) < recipe.first_layer):
            return f"it adapts {module}, which its recipe does not"
    return None if layout == first else "its shapes are not those of the other adapters of its recipe"
