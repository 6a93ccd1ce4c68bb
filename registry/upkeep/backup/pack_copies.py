"""Copying packs from one store to another, several at once, each hashed on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from registry.errors import IntegrityError, StorageError
from registry.progress import Progress
from registry.store.packs import PackStore

_AT_ONCE = 4
"""Packs copied side by side: reading, hashing and writing each leave the processor to others."""


@dataclass(frozen=True, slots=True)
class PackFault:
    """A pack that could not be copied: it ``is_missing``, or its bytes are damaged or cannot be read."""

    digest: str
    size_bytes: int
    is_missing: bool
    detail: str


@dataclass
class PackCopies:
    """Which packs were copied, which were there already, and which are at fault."""

    copied: set[str] = field(default_factory=set)
    present: set[str] = field(default_factory=set)
    copied_bytes: int = 0
    faults: tuple[PackFault, ...] = ()


def copy_packs(
    source: PackStore, target: PackStore, wanted: Mapping[str, int], progress: Progress, *, check: bool, restores: bool
) -> PackCopies:
    """Copy the packs ``wanted`` (sizes in bytes by digest) that the target lacks.

    Those that it has in the right size are there; with ``check`` only if their bytes are right, too. What is damaged
    in the source never takes the place of anything. Where the copying ``restores`` a registry, what it had of a pack
    goes to quarantine first; in a backup it is replaced.

    Raises:
        StorageError: the target cannot be written, or is full.
    """
    done = PackCopies()
    there = {pack.digest: pack.size_bytes for pack in target.list()}
    progress.start("restoring packs" if restores else "copying packs", len(wanted))

    def copy(digest: str) -> int | PackFault | None:
        if there.get(digest) == wanted[digest] and (not check or target.check(digest).is_sound):
            return None
        try:
            if restores and digest in there:
                target.quarantine(digest)
            return target.receive(digest, _read(source, digest))
        except IntegrityError as error:
            return _fault(source, digest, wanted[digest], error)

    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pack")
    try:
        running = {pool.submit(copy, digest): digest for digest in sorted(wanted)}
        faults = []
        for future in as_completed(running):
            result = future.result()
            if isinstance(result, PackFault):
                faults.append(result)
            elif result is None:
                done.present.add(running[future])
            else:
                done.copied.add(running[future])
                done.copied_bytes += result
            progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    done.faults = tuple(sorted(faults, key=lambda fault: fault.digest))
    return done


def _read(source: PackStore, digest: str) -> Iterator[bytes]:
    """Yield a pack's bytes; that the source cannot be read is this pack's fault, not the target's."""
    try:
        yield from source.stream(digest)
    except StorageError as error:
        raise IntegrityError(error.message) from error


def _fault(source: PackStore, digest: str, size_bytes: int, error: IntegrityError) -> PackFault:
    try:
        if not source.exists(digest):
            return PackFault(digest, size_bytes, is_missing=True, detail=error.message)
        detail = source.check(digest).problem or error.message
    except StorageError:
        detail = error.message
    return PackFault(digest, size_bytes, is_missing=False, detail=detail)
