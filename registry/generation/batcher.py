"""Continuous batching: requests join the rows that run as soon as one is free, and leave when they end.

Each row has its own adapters, its own sampling and its own end. A request waits until there is a row for it and room
for its adapters; who came first goes first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from registry.base_model import LoadedModel, stop_tokens
from registry.errors import IntegrityError, PragregError, UsageError
from registry.generation.entries import Entries
from registry.generation.requests import Finish, Generated, OnText, Request
from registry.generation.runners import Runner
from registry.generation.sampling import NO_TOKEN, Draws, choose
from registry.generation.text import AnswerText

JOINING_TOKENS = 512
"""Prompts of so many tokens join at one step, at least one: those that run wait for them."""


@dataclass(eq=False)
class Running:
    """A request on its way; when it has ended, ``generated`` is what came, or ``error`` says why nothing did."""

    request: Request
    generated: Generated | None = None
    error: Exception | None = None
    _text: AnswerText | None = field(default=None, repr=False)
    _draws: Draws | None = field(default=None, repr=False)
    _row: int = -1
    _tokens: list[int] = field(default_factory=list, repr=False)
    _submitted: float = field(default_factory=time.perf_counter)
    _waiting_ms: float = 0.0
    _inject_ms: float = 0.0
    _prefill_ms: float = 0.0
    _decode_ms: float = 0.0
    _first_token_ms: float = 0.0


class Batcher:
    """See the module. One thread owns it."""

    def __init__(self, loaded: LoadedModel, runner: Runner) -> None:
        """Take a runner of ``loaded`` for oneself."""
        self._tokenizer, self._runner = loaded.tokenizer, runner
        self._ends = stop_tokens(loaded.tokenizer, loaded.model)
        self._entries = Entries(runner)
        self._free = list(range(runner.rows))[::-1]
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []

    @property
    def runner(self) -> Runner:
        """What computes."""
        return self._runner

    @property
    def entries(self) -> Entries:
        """The adapters on the device."""
        return self._entries

    @property
    def running(self) -> int:
        """How many requests have a row."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many requests wait for a row."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._running and not self._waiting

    def submit(self, request: Request, on_text: OnText | None = None) -> Running:
        """Let a request wait for its row; ``on_text`` is told of its text as it grows, within ``step``.

        Raises:
            UsageError: it has more tokens than a row, or more adapters than a slot.
        """
        room, terms = self._runner.context, self._runner.most_terms
        if len(request.ids) + request.max_new_tokens > room:
            raise UsageError(
                f"a prompt has {len(request.ids)} tokens; with {request.max_new_tokens} new ones that is more than the "
                f"{room} there is room for",
                hint="shorten the prompt, or ask for fewer new tokens",
            )
        if len(request.terms) > min(terms, self._runner.entries):
            raise UsageError(f"{len(request.terms)} adapters do not fit a slot for {terms}")
        running = Running(request)
        running._text = AnswerText(self._tokenizer, request.stop, on_text)
        running._draws = Draws(request.sampling.seed)
        self._waiting.append(running)
        return running

    def cancel(self, running: Running) -> None:
        """Let go of a request, whether it runs or waits; ``step`` does not return it."""
        if running in self._running:
            self._leave([running])
        elif running in self._waiting:
            self._waiting.remove(running)

    def step(self) -> list[Running]:
        """Let requests join, and give every row its next token; return those that ended.

        An error of one request, such as damaged adapters, ends that request. Anything else that is raised leaves this
        batcher useless.
        """
        ended: list[Running] = []
        going = list(self._running)
        joined = self._join(ended)
        if joined:
            self._prefill(joined, ended)
        if going:
            self._decode(going, ended)
        return ended

    def close(self) -> None:
        """Let go of the runner's hold on the model, where it has one."""
        close = getattr(self._runner, "close", None)
        if close is not None:
            close()

    def _join(self, ended: list[Running]) -> list[Running]:
        """Give those that waited longest their rows and adapters."""
        joined: list[Running] = []
        tokens = 0
        while self._waiting and self._free:
            running = self._waiting[0]
            tokens += len(running.request.ids)
            if (joined and tokens > JOINING_TOKENS) or not self._entries.has_room(running.request.terms):
                break
            self._waiting.popleft()
            started = time.perf_counter()
            running._waiting_ms = (started - running._submitted) * 1000
            terms = running.request.terms
            try:
                entries = self._entries.hold(terms)
            except PragregError as error:
                running.error = error
                ended.append(running)
                continue
            running._row = self._free.pop()
            self._runner.inject(running._row, entries, [term.factor for term in terms])
            running._inject_ms = (time.perf_counter() - started) * 1000
            joined.append(running)
        self._running += joined
        return joined

    def _prefill(self, joined: list[Running], ended: list[Running]) -> None:
        started = time.perf_counter()
        # Prompts of like length go together through the model.
        joined.sort(key=lambda running: len(running.request.ids))
        logits = self._runner.prefill([one._row for one in joined], [one.request.ids for one in joined])
        chosen = self._choose(joined, logits)
        share = (time.perf_counter() - started) * 1000 / len(joined)
        for running in joined:
            running._prefill_ms = share
            running._first_token_ms = (time.perf_counter() - running._submitted) * 1000
        self._take(joined, chosen, ended)

    def _decode(self, going: list[Running], ended: list[Running]) -> None:
        started = time.perf_counter()
        logits = self._runner.decode([one._row for one in going], [one._tokens[-1] for one in going])
        chosen = self._choose(going, logits)
        share = (time.perf_counter() - started) * 1000 / len(going)
        for running in going:
            running._decode_ms += share
        self._take(going, chosen, ended)

    def _choose(self, rows: Sequence[Running], logits: object) -> list[int]:
        draws = [one._draws for one in rows if one._draws is not None]
        return choose(logits, [one.request.sampling for one in rows], draws)  # type: ignore[arg-type]

    def _take(self, rows: Sequence[Running], chosen: Sequence[int], ended: list[Running]) -> None:
        """Add every row's token, and let those go that end with it."""
        left: list[Running] = []
        for running, token in zip(rows, chosen, strict=True):
            finish = self._finish(running, token)
            if finish is not None:
                self._end(running, finish)
            elif running.error is None:
                continue
            left.append(running)
        self._leave(left)
        ended += left

    def _finish(self, running: Running, token: int) -> Finish | None:
        """Return why a row ends with this token; None if it goes on, or has an error."""
        assert running._text is not None
        if token == NO_TOKEN:
            running.error = IntegrityError("the model computed no number: an adapter or the model itself is damaged")
            return None
        if token in self._ends:
            return "stop"
        running._tokens.append(token)
        if running._text.add(token):
            return "stop"
        return "length" if len(running._tokens) >= running.request.max_new_tokens else None

    def _end(self, running: Running, finish: Finish) -> None:
        assert running._text is not None
        running.generated = Generated(
            text=running._text.finish(),
            tokens=tuple(running._tokens),
            prompt_tokens=len(running.request.ids),
            finish=finish,
            waiting_ms=running._waiting_ms,
            inject_ms=running._inject_ms,
            prefill_ms=running._prefill_ms,
            decode_ms=running._decode_ms,
            first_token_ms=running._first_token_ms,
            elapsed_ms=(time.perf_counter() - running._submitted) * 1000,
        )

    def _leave(self, gone: Sequence[Running]) -> None:
        for running in gone:
            self._running.remove(running)
            self._entries.release(running.request.terms)
            self._free.append(running._row)
