"""Which adapter lies in which entry of a runner: the least recently used make room, those in use stay."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from registry.generation.requests import Term
from registry.generation.runners import Runner


class Entries:
    """The adapters on the device, by key. Counts ``hits`` and ``misses`` of terms that were asked for."""

    def __init__(self, runner: Runner) -> None:
        """Begin with empty entries."""
        self._runner = runner
        self._free = list(range(runner.entries))[::-1]
        self._entry_of: OrderedDict[str, int] = OrderedDict()
        self._users: Counter[str] = Counter()
        self.hits = self.misses = 0

    def has_room(self, terms: Sequence[Term]) -> bool:
        """Return whether all of them can lie here beside those that are in use."""
        wanted = {term.key for term in terms}
        return len(wanted | self._users.keys()) <= self._runner.entries

    def hold(self, terms: Sequence[Term]) -> list[int]:
        """Return the terms' entries, which stay theirs until they are released; those that are not here are put.

        Raises:
            IntegrityError: an adapter's bytes are not of the layout's length; then none of the terms is held.
        """
        held: list[Term] = []
        try:
            entries = []
            for term in terms:
                entries.append(self._place(term))
                self._users[term.key] += 1
                held.append(term)
            return entries
        except BaseException:
            self.release(held)
            raise

    def release(self, terms: Sequence[Term]) -> None:
        """Let go of terms that were held; they stay where they are for as long as there is room."""
        for term in terms:
            self._users[term.key] -= 1
            if not self._users[term.key]:
                del self._users[term.key]

    def _place(self, term: Term) -> int:
        entry = self._entry_of.get(term.key)
        if entry is not None:
            self.hits += 1
            self._entry_of.move_to_end(term.key)
            return entry
        self.misses += 1
        entry = self._free.pop() if self._free else self._taken_from_oldest()
        try:
            self._runner.put(entry, term.body)
        except BaseException:
            self._free.append(entry)
            raise
        self._entry_of[term.key] = entry
        return entry

    def _taken_from_oldest(self) -> int:
        oldest = next(key for key in self._entry_of if key not in self._users)
        return self._entry_of.pop(oldest)
