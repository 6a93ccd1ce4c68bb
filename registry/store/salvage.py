"""What is still right in the bytes of a damaged pack: adapters are looked for where they should lie, and hashed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from registry.digests import sha256_hex
from registry.errors import IntegrityError
from registry.records import AdapterLocation
from registry.store.headers import LENGTH_BYTES, header_size, parse_header
from registry.store.packs import MAX_HEADER_BYTES


def held(data: memoryview) -> list[tuple[str, int, int]]:
    """Return what the header in a pack's bytes says: name, offset and size of each adapter; nothing if it is broken."""
    with suppress(IntegrityError):
        begin = header_size(data[:LENGTH_BYTES], limit=MAX_HEADER_BYTES, what="the pack")
        header = parse_header(data[:begin], what="the pack")
        return [(entry.name, begin + entry.begin, entry.end - entry.begin) for entry in header.entries]
    return []


def sound_adapters(
    data: memoryview, expected: Iterable[AdapterLocation] = (), wanted: Iterable[str] | None = None
) -> Iterator[tuple[str, memoryview]]:
    """Yield the adapters of a damaged pack whose bytes have their digests, in the order in which they lie, each once.

    They are looked for where the pack's own header says and where ``expected`` says; ``wanted`` leaves out others.
    """
    places = {(name, offset, size) for name, offset, size in held(data)}
    places |= {(place.adapter_digest, place.offset, place.size_bytes) for place in expected}
    chosen = None if wanted is None else frozenset(wanted)
    seen: set[str] = set()
    for digest, offset, size_bytes in sorted(places, key=lambda place: place[1]):
        if digest in seen or (chosen is not None and digest not in chosen):
            continue
        view = data[offset : offset + size_bytes]
        if view.nbytes == size_bytes and sha256_hex(view) == digest:
            seen.add(digest)
            yield digest, view
