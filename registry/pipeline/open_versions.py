"""Versions that a process keeps open, and whose turn it is to ask their model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from registry.errors import UsageError
from registry.pipeline.opened import Registry, Retriever
from registry.records import Version

if TYPE_CHECKING:
    from registry.pipeline.query import Asker


class Turns:
    """Lets in one caller at a time; others wait, and who asks from within is refused instead of waiting for himself."""

    def __init__(self) -> None:
        """Nobody's turn yet."""
        self._lock = RLock()
        self._is_taken = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a turn, which lasts as long as the block.

        Raises:
            UsageError: this thread has the turn already.
        """
        with self._lock:
            if self._is_taken:
                raise UsageError(
                    "a question was asked while another is being answered, or a merge is in the model's weights",
                    hint="ask it when the first answer is there, or after the block of merged()",
                )
            self._is_taken = True
            try:
                yield
            finally:
                self._is_taken = False


def several(questions: Iterable[str]) -> list[str]:
    """Return questions as a list.

    Raises:
        UsageError: it is one text.
    """
    if isinstance(questions, str):
        raise UsageError("ask_many takes a list of questions", hint="ask one question with ask()")
    return list(questions)


class OpenVersion:
    """A version with what was opened of it so far, leased until it is closed or nobody has it any more."""

    def __init__(self, registry: Registry, version: Version) -> None:
        """Take a lease.

        Raises:
            NotFoundError: the version was collected meanwhile.
        """
        self._held = ExitStack()
        self.close = weakref.finalize(self, self._held.close)
        self.version = self._held.enter_context(registry.leased(version))
        self._registry = registry
        self._asker: Asker | None = None

    def asker(self, make: Callable[[], Asker]) -> Asker:
        """Return what answers, which is made the first time."""
        if self._asker is None:
            self._asker = self._held.enter_context(closing(make()))
        return self._asker

    @cached_property
    def retriever(self) -> Retriever:
        """What finds documents; the index is opened the first time."""
        return Retriever(self._registry, self.version)


def close_all(versions: WeakValueDictionary[str, OpenVersion]) -> None:
    """Give all leases back."""
    for version in list(versions.values()):
        version.close()
