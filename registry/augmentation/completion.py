"""Completing many texts at once with the base model: rows that are finished leave, and others take their places.

What a row becomes depends on its own ids, temperature and seed, not on its neighbours, but for the rounding of floats.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from registry.base_model import LoadedModel, stop_tokens

if TYPE_CHECKING:
    from registry.augmentation.running import RunningRows

JOINING_SHARE = 0.125
"""Rows join when so many of them can that they are this share of those that run: a few alone are slow to compute."""

Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Row:
    """A text to go on with: at most ``max_new_tokens``, up to and with ``stop`` if that is reached before.

    The text is ``beginning`` and ``ids``, at least one; rows that begin alike share the work. A ``temperature`` of 0
    takes the likeliest token each time, others sample by ``seed``.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    stop: str | None = None
    temperature: float = 0.0
    seed: int = 0
    beginning: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What followed a row, without special tokens; ``elapsed_seconds`` is its share of the time of its batches."""

    text: str
    tokens: int
    elapsed_seconds: float


Asking = Generator[Sequence[Row], list[Completion], Outcome]
"""Work that yields rows, is sent their completions in the same order, and in the end returns an outcome."""


class Completer:
    """Completes rows with one loaded model."""

    def __init__(self, loaded: LoadedModel, batch_rows: int) -> None:
        """Use ``loaded`` for at most ``batch_rows`` rows at a time."""
        self._tokenizer = loaded.tokenizer
        self._loaded = loaded
        self._batch_rows = batch_rows
        self._stop_ids = stop_tokens(loaded.tokenizer, loaded.model)

    def complete(self, rows: Sequence[Row]) -> list[Completion]:
        """Return the completion of every row, in the order of ``rows``."""
        [found] = self.run([_ask_once(rows)])
        return found

    def run(self, askings: Iterable[Asking[Outcome]]) -> Iterator[Outcome]:
        """Yield what each of ``askings`` returns, as soon as it ends; their rows run together.

        The next one is begun when the others have too few rows for a full batch.

        Raises:
            AugmentationError: the model's cache is of another kind than keys and values.
        """
        from registry.augmentation.running import RunningRows

        source = iter(askings)
        running = RunningRows(self._loaded, self._batch_rows)
        active: list[_Active] = []
        waiting: deque[_Active] = deque()
        ended: list[Outcome] = []
        while True:
            while len(active) + len(waiting) < self._batch_rows and (asking := next(source, None)) is not None:
                waiting += _Asked(asking, ended).resume(None)
                yield from _taken(ended)
            if not active and not waiting:
                return
            active += self._join(running, waiting)
            for row in self._step(running, active):
                waiting += row.finish(self._tokenizer)
            yield from _taken(ended)

    def _join(self, running: RunningRows, waiting: deque[_Active]) -> list[_Active]:
        """Let the oldest of those that wait in, and those that begin like it, if they are many enough."""
        joining: list[_Active] = []
        columns = 0
        for one in waiting:
            if one.row.beginning == waiting[0].row.beginning:
                columns = max(columns, len(one.row.beginning) + len(one.row.ids) + one.row.max_new_tokens)
                if running.room(columns) <= len(joining):
                    break
                joining.append(one)
        if not joining or len(joining) < JOINING_SHARE * running.count:
            return []
        joining.sort(key=lambda one: len(one.row.ids))
        started = time.perf_counter()
        rows = [one.row for one in joining]
        running.join([row.ids for row in rows], [row.max_new_tokens for row in rows], rows[0].beginning)
        _share_time(joining, started)
        for one in joining:
            waiting.remove(one)
        return joining

    def _step(self, running: RunningRows, active: list[_Active]) -> list[_Active]:
        """Give every row its next token; return those that are finished, which are no longer in ``active``."""
        from registry.augmentation.sampling import choose

        started = time.perf_counter()
        logits = running.step([one.last for one in active])
        draws = [one.draws.random() if one.row.temperature > 0 else 0.0 for one in active]
        chosen = choose(logits, [one.row.temperature for one in active], draws)
        finished = [place for place, token in enumerate(chosen) if self._is_finished(active[place], token)]
        _share_time(active, started)
        if not finished:
            return []
        left = [active[place] for place in finished]
        active[:] = [active[place] for place in running.drop(finished)]
        return left

    def _is_finished(self, one: _Active, token: int) -> bool:
        if token in self._stop_ids:
            return True
        one.generated.append(token)
        if len(one.generated) >= one.row.max_new_tokens:
            return True
        stop = one.row.stop
        # A token has at least a byte, so the stop lies within as many of the last tokens as it may have bytes.
        return stop is not None and stop in self._tokenizer.decode(one.generated[-4 * len(stop) :])


@dataclass(eq=False, slots=True)
class _Active:
    """A row that waits or runs, and what came of it so far."""

    row: Row
    asked: _Asked[Any]
    draws: random.Random
    generated: list[int] = field(default_factory=list)
    elapsed_seconds: float = 0.0
    completion: Completion | None = None

    @property
    def last(self) -> int:
        """The token that goes into the model next."""
        return self.generated[-1] if self.generated else self.row.ids[-1]

    def finish(self, tokenizer: Any) -> list[_Active]:
        """Complete the row; return the rows that are asked for now that it is known."""
        text = tokenizer.decode(self.generated, skip_special_tokens=True)
        self.completion = Completion(_until(text, self.row.stop), len(self.generated), self.elapsed_seconds)
        return self.asked.answered()


class _Asked(Generic[Outcome]):
    """An asking and the rows that it waits for; its outcome is put into ``ended``."""

    def __init__(self, asking: Asking[Outcome], ended: list[Outcome]) -> None:
        self._asking = asking
        self._ended = ended
        self._rows: list[_Active] = []

    def resume(self, completions: list[Completion] | None) -> list[_Active]:
        """Go on to the next rows that are to be completed; none are left when it has ended."""
        try:
            rows = next(self._asking) if completions is None else self._asking.send(completions)
            while not rows:
                rows = self._asking.send([])
        except StopIteration as end:
            self._ended.append(end.value)
            return []
        self._rows = [_Active(row, self, random.Random(row.seed)) for row in rows]
        return self._rows

    def answered(self) -> list[_Active]:
        """Go on if all rows are completed."""
        completions = [one.completion for one in self._rows if one.completion is not None]
        return self.resume(completions) if len(completions) == len(self._rows) else []


def _ask_once(rows: Sequence[Row]) -> Asking[list[Completion]]:
    return (yield rows)


def _taken(ended: list[Outcome]) -> Iterator[Outcome]:
    while ended:
        yield ended.pop(0)


def _share_time(rows: Sequence[_Active], started: float) -> None:
    share = (time.perf_counter() - started) / len(rows)
    for one in rows:
        one.elapsed_seconds += share


def _until(text: str, stop: str | None) -> str:
    head, found, _ = text.partition(stop) if stop else (text, "", "")
    return head + found


def encode_after(tokenizer: Any, beginning: str, texts: Sequence[str]) -> tuple[tuple[int, ...], Iterator[list[int]]]:
    """Return the ids of ``beginning`` as the start of a text, and those of each of ``texts`` as they follow it."""
    first: list[int] = tokenizer(beginning, add_special_tokens=True)["input_ids"]
    if first and first[-1] == tokenizer.eos_token_id:
        first = first[:-1]
    return tuple(first), (_after(tokenizer, beginning, first, text) for text in texts)


def _after(tokenizer: Any, beginning: str, first: list[int], text: str) -> list[int]:
    whole: list[int] = tokenizer(beginning + text, add_special_tokens=True)["input_ids"]
    if whole[: len(first)] != first:
        whole = first + tokenizer(text, add_special_tokens=False)["input_ids"]
    return whole[len(first) : -1 if whole[-1] == tokenizer.eos_token_id else None]
