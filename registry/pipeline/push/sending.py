"""Sends files ahead of the commit, some batches at once, while others are still made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

from registry.hub.client import Hub, NewFile, Upload
from registry.progress import FileProgress, Progress, Unit

AT_ONCE = 3
"""Batches on their way; each sends several files at once by itself."""
BATCH_FILES = 100
BATCH_BYTES = 256 * 1024 * 1024
"""A batch is sent when it is so large: few requests for small files, little on the disk for large ones."""


class Sender:
    """Sends what it is given, from ``with`` to its end; ``finish`` waits for all of it.

    On any error all requests end at once.
    """

    def __init__(self, hub: Hub, repository: str, progress: Progress) -> None:
        """Take where to send to, and what is told of every file."""
        self._hub, self._repository, self._progress = hub, repository, Within(progress)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload")
        self._batch: list[NewFile] = []
        self._batch_bytes = 0
        self._spooled: list[Path] = []
        self._running: set[Future[list[Upload]]] = set()
        self._sent: list[Upload] = []
        self._failure: Exception | None = None

    def __enter__(self) -> Sender:
        """Start with nothing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads."""
        if error is not None:
            self._hub.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def send(self, file: NewFile, size_bytes: int, *, spooled: Path | None = None) -> None:
        """Send a file, with others that follow.

        ``spooled`` takes room on the disk: it is deleted when it is sent, unless the commit itself carries it, and this
        waits while there are enough of that kind.

        Raises:
            HubError: it could not be sent, or another one.
            IntegrityError: a file has not the digest that it must have.
        """
        self._batch.append(file)
        self._batch_bytes += size_bytes
        if spooled is not None:
            self._spooled.append(spooled)
        if len(self._batch) >= BATCH_FILES or self._batch_bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what waits for more."""
        if self._failure is not None:
            raise self._failure
        if self._batch:
            while self._spooled and len(self._running) >= AT_ONCE:
                self._collect(wait(self._running, return_when=FIRST_COMPLETED).done)
            self._running.add(self._pool.submit(self._upload, self._batch, self._spooled))
            self._batch, self._batch_bytes, self._spooled = [], 0, []

    def finish(self) -> list[Upload]:
        """Wait until all is sent, and return it; raises as ``send``."""
        self.flush()
        while self._running:
            self._collect(wait(self._running, return_when=FIRST_COMPLETED).done)
        return self._sent

    def _collect(self, done: Iterable[Future[list[Upload]]]) -> None:
        if self._failure is not None:
            raise self._failure
        for future in done:
            self._running.discard(future)
            self._sent += future.result()

    def _upload(self, files: Sequence[NewFile], spooled: Sequence[Path]) -> list[Upload]:
        try:
            sent = self._hub.upload(self._repository, files, self._progress)
        except Exception as error:
            # The others end by this, and not for a reason of their own.
            self._failure = self._failure or error
            self._hub.stop()
            raise
        needed = {file.source for file, upload in zip(files, sent, strict=True) if upload.needs_source}
        for path in spooled:
            if path not in needed:
                path.unlink(missing_ok=True)
        return sent


class Within:
    """Progress of a part of a step: its files count in the step, and it neither begins nor ends one."""

    def __init__(self, progress: Progress) -> None:
        """Take the progress of the whole."""
        self._progress = progress

    def start(self, step: str, total: int | None = None, *, unit: Unit = "") -> None:
        """Go on with the step of the whole."""

    def file(self, name: str, size_bytes: int) -> FileProgress:
        """Begin a file of it."""
        return self._progress.file(name, size_bytes)

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Go on in it."""
        self._progress.advance(count, note=note)

    def say(self, text: str) -> None:
        """Tell something."""
        self._progress.say(text)

    def done(self) -> None:
        """Go on with the step of the whole."""
