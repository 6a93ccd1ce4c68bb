"""Adapters in main memory: the least recently used go when there are more bytes than allowed.

Those of local packs are views into mapped files, so that the page cache holds each byte once; those that come from a
repository or object storage are held here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from registry.pipeline.opened import Registry

DEFAULT_CACHE_BYTES = 256 * 1024 * 1024
READING_THREADS = 2


class AdapterMemory:
    """Adapters by digest, each looked up and checked once. Threads may share it.

    ``hits`` and ``misses`` count the adapters that were asked for, ``size_bytes`` is what is held.
    """

    def __init__(self, registry: Registry, limit_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Hold at most so many bytes, and those that were asked for last in any case."""
        self._registry, self._limit_bytes = registry, limit_bytes
        self._held: OrderedDict[str, memoryview] = OrderedDict()
        self._lock = Lock()
        self._readers = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="adapters")
        self.hits = self.misses = self.size_bytes = 0

    def get(self, digests: Iterable[str]) -> dict[str, memoryview]:
        """Return the bytes of adapters, as ``Registry.adapters`` does.

        Raises:
            NotFoundError: an adapter is unknown or lies nowhere.
            IntegrityError: bytes are missing or damaged.
            HubError: a repository with an adapter cannot be reached.
        """
        wanted = list(dict.fromkeys(digests))
        with self._lock:
            found = {digest: self._held[digest] for digest in wanted if digest in self._held}
            for digest in found:
                self._held.move_to_end(digest)
            self.hits += len(found)
            self.misses += len(wanted) - len(found)
        missing = [digest for digest in wanted if digest not in found]
        if missing:
            read = self._registry.adapters(missing)
            self._keep(read)
            found |= read
        return found

    def prefetch(self, digests: Iterable[str]) -> Future[dict[str, memoryview]]:
        """Begin to ``get`` adapters beside what the caller does next."""
        wanted = list(digests)
        with self._lock:
            is_here = self._held.keys() >= set(wanted)
        if not is_here:
            return self._readers.submit(self.get, wanted)
        found: Future[dict[str, memoryview]] = Future()
        found.set_result(self.get(wanted))
        return found

    def close(self) -> None:
        """Let everything go."""
        self._readers.shutdown(cancel_futures=True)
        with self._lock:
            self._held.clear()
            self.size_bytes = 0

    def _keep(self, read: dict[str, memoryview]) -> None:
        with self._lock:
            for digest, data in read.items():
                if digest not in self._held:
                    self._held[digest] = data
                    self.size_bytes += data.nbytes
            while self.size_bytes > self._limit_bytes and len(self._held) > len(read):
                _, gone = self._held.popitem(last=False)
                self.size_bytes -= gone.nbytes
