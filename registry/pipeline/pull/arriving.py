"""The folder of what arrives: files of a repository by their digests, fetched several at once, and checked there.

What a kill or a broken connection leaves in it is gone on from, by whoever pulls the same files next.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from registry.errors import IntegrityError, Interrupted
from registry.hub.arrivals import PackArrival
from registry.hub.client import Hub
from registry.progress import Progress
from registry.published import FileRef
from registry.store.local import sync_file

WAITING_CHUNKS = 8
"""So many pieces of a pack, of a megabyte at most, may wait for their check."""

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of a repository at ``path``; ``arrival`` makes what checks its bytes as they come, if anything does."""

    file: FileRef
    path: str
    arrival: Callable[[], PackArrival] | None = None


class Arriving:
    """Fetches the files of one repository at one commit into a folder of the home, and counts what came."""

    def __init__(self, folder: Path, hub: Hub, repository: str, commit: str, jobs: int, progress: Progress) -> None:
        """Use ``folder``, which is made when the first file comes, and ``jobs`` connections at once."""
        self._folder = folder
        self._hub, self._repository, self._commit = hub, repository, commit
        self._jobs, self._progress = jobs, progress
        self._lock = threading.Lock()
        self._begun: set[Path] = set()
        self._has_ended = threading.Event()
        self.fetched_bytes = 0
        self.seconds = 0.0

    def path_of(self, wanted: Wanted) -> Path:
        """Return where a file is, or will be."""
        return self._folder / wanted.path.rsplit("/", 1)[-1]

    def bring(self, step: str, wanted: Sequence[Wanted]) -> None:
        """Have files here, whole, with the digests that they should have, and their contents checked as they came.

        Raises:
            IntegrityError: one is not what it should be, also when it was fetched once more.
            HubError: the Hub cannot be reached, or refuses.
            StorageError: the disk is full; what came is kept, and gone on from.
        """
        if wanted:
            self._progress.start(step, sum(item.file.size_bytes for item in wanted), unit="bytes")
            self.at_once(self._bring, wanted)
            self._progress.done()

    def fetch(self, wanted: Wanted, path: Path) -> None:
        """Bring a small file to a path of its own; as ``bring``, without a bar."""
        self._twice(wanted, path, lambda _: None)

    def range_of(self, path: str, offset: int, size_bytes: int) -> bytes:
        """Return a part of a file by one request."""
        data = self._hub.read_range(self._repository, self._commit, path, offset, size_bytes)
        self.count(len(data))
        return data

    def each(self, step: str, work: Callable[[Given], Made], given: Sequence[Given]) -> list[Made]:
        """Do a work as ``at_once`` does, with a bar that counts what is done."""
        if not given:
            return []
        self._progress.start(step, len(given))
        made = self.at_once(work, given, self._progress.advance)
        self._progress.done()
        return made

    def at_once(
        self, work: Callable[[Given], Made], given: Sequence[Given], told: Callable[[], None] = lambda: None
    ) -> list[Made]:
        """Do a work for all that is given, several at once, and return what came of each, in order.

        ``told`` is called for each that is done. The first that fails ends all others.
        """
        started = time.perf_counter()
        pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="fetching")
        try:
            futures = [pool.submit(work, item) for item in given]
            for future in as_completed(futures):
                future.result()
                told()
        except BaseException:
            self._hub.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self.seconds += time.perf_counter() - started
        return [future.result() for future in futures]

    @contextmanager
    def beside(self, work: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Do a work in a thread for the time of a block, which is given what waits for the work's end.

        Both end well, or the first that fails ends the other. The work calls ``check_going`` now and then.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="checking") as pool:
            future = pool.submit(work)
            future.add_done_callback(self._stop_if_failed)
            try:
                yield future.result
                future.result()
            except BaseException:
                self._has_ended.set()
                wait([future])
                failure = future.exception()
                # Where the work failed first, what the block ran into is only that its requests were ended.
                if failure is not None and not isinstance(failure, Interrupted):
                    raise failure from None
                raise

    def _stop_if_failed(self, future: Future[None]) -> None:
        if future.exception() is not None:
            self._hub.stop()

    def check_going(self) -> None:
        """Raise Interrupted where what was beside a work has failed."""
        if self._has_ended.is_set():
            raise Interrupted("the pull has ended")

    def count(self, size_bytes: int) -> None:
        """Count bytes that came over the wire."""
        with self._lock:
            self.fetched_bytes += size_bytes

    def discard(self) -> None:
        """Remove every file that this began: what was refused is not gone on from."""
        for path in self._begun:
            path.unlink(missing_ok=True)
        remove_if_empty(self._folder)

    def done(self, wanted: Sequence[Wanted]) -> None:
        """Remove files that are needed no more."""
        for item in wanted:
            self.path_of(item).unlink(missing_ok=True)
        remove_if_empty(self._folder)

    def _bring(self, wanted: Wanted) -> None:
        path = self.path_of(wanted)
        self._begun.add(path)
        bar = self._progress.file(path.name, wanted.file.size_bytes)
        try:
            self._twice(wanted, path, bar.advance)
        finally:
            bar.done()

    def _twice(self, wanted: Wanted, path: Path, advance: Callable[[int], None]) -> None:
        """Download a file; what was damaged on its way, or by the disk since an earlier run, comes once more."""
        try:
            self._download(wanted, path, advance)
        except IntegrityError:
            path.unlink(missing_ok=True)
            self._download(wanted, path, advance)

    def _download(self, wanted: Wanted, path: Path, advance: Callable[[int], None]) -> None:
        check = None if wanted.arrival is None else _Check(wanted.arrival())
        there = path.stat().st_size if path.exists() else 0
        came = shown = 0

        def on_bytes(size_bytes: int) -> None:
            nonlocal came, shown
            came, shown = came + max(0, size_bytes), shown + size_bytes
            advance(size_bytes)

        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._hub.download(
                self._repository,
                self._commit,
                wanted.path,
                path,
                digest=wanted.file.digest,
                size_bytes=wanted.file.size_bytes,
                on_bytes=on_bytes,
                on_chunk=None if check is None else check.feed,
            )
            if check is not None:
                check.finish()
                sync_file(path)  # here, beside other downloads, and not when it is moved into the store
        except IntegrityError:
            advance(-shown)
            if check is not None:
                check.blame()  # it says which adapter it is
            raise
        finally:
            if check is not None:
                check.close()
            self.count(max(0, came - there))


class _Check:
    """Checks the bytes of a pack in a thread of its own, while the next ones come and are hashed as a file's."""

    def __init__(self, arrival: PackArrival) -> None:
        self._arrival = arrival
        self._chunks: queue.Queue[bytes | None] = queue.Queue(WAITING_CHUNKS)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="checking", daemon=True)
        self._thread.start()

    def feed(self, chunk: memoryview) -> None:
        """Take the next bytes; raises what was wrong with earlier ones."""
        if self._error is not None:
            raise self._error
        self._chunks.put(bytes(chunk))

    def finish(self) -> None:
        """Wait until all is checked."""
        self.blame()
        self._arrival.finish()

    def blame(self) -> None:
        """Wait until all that came is checked, and raise what was wrong with it, if anything was."""
        self.close()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._chunks.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            if self._error is None:
                try:
                    self._arrival.feed(chunk)
                except BaseException as error:  # it is raised where the bytes come from
                    self._error = error


@contextmanager
def arriving(folder: Path, hub: Hub, repository: str, commit: str, jobs: int, progress: Progress) -> Iterator[Arriving]:
    """Give a folder of what arrives for the time of a block; what is refused in it leaves no file behind."""
    arrived = Arriving(folder, hub, repository, commit, jobs, progress)
    try:
        yield arrived
    except IntegrityError:
        arrived.discard()
        raise


def remove_if_empty(folder: Path) -> None:
    """Remove a folder with nothing in it."""
    with suppress(OSError):
        folder.rmdir()
