"""Clients of a server under `benchmarks.serve`: what they ask, what comes back, and whether it is right."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.serve_home import ALIAS, CORPUS, MODES, VERSIONS, Answers, Bench

TIMEOUT = aiohttp.ClientTimeout(total=300)
Names = Callable[[random.Random], tuple[str, str]]
"""Draws a model name and the mode that it stands for."""


@dataclass(frozen=True)
class Asked:
    """A request and its answer; ``error`` is empty where it was answered as it should be."""

    model: str
    mode: str
    question: str
    is_streamed: bool
    started: float
    first_token: float | None
    ended: float
    text: str = ""
    version: str = ""
    documents: tuple[str, ...] = ()
    prompt_tokens: int = 0
    tokens: int = 0
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def first_seconds(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.started


async def ask(
    session: aiohttp.ClientSession, model: str, mode: str, question: str, *, max_tokens: int, is_streamed: bool
) -> Asked:
    """Ask one question by the chat interface; whatever goes wrong is in the record."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question}]}
    body |= {"max_tokens": max_tokens, "stream": is_streamed}
    if is_streamed:
        body["stream_options"] = {"include_usage": True}
    started, found = time.perf_counter(), _Reply()
    try:
        async with session.post("/v1/chat/completions", json=body) as response:
            if response.status != 200:
                found.error = f"{response.status}: {(await response.text())[:300]}"
            elif is_streamed:
                async for line in response.content:
                    found.take(line)
                found.close()
            else:
                found.whole(await response.json())
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, IndexError, TypeError) as error:
        found.error = f"{type(error).__name__}: {error}"
    return Asked(
        model,
        mode,
        question,
        is_streamed,
        started,
        found.first_token,
        time.perf_counter(),
        found.text,
        found.source.get("version", ""),
        tuple(hit["digest"] for hit in found.source.get("hits", ())),
        found.usage.get("prompt_tokens", 0),
        found.usage.get("completion_tokens", 0),
        found.error,
    )


@dataclass
class _Reply:
    text: str = ""
    first_token: float | None = None
    source: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    error: str = ""
    is_complete: bool = False

    def whole(self, record: dict[str, Any]) -> None:
        self.text = record["choices"][0]["message"]["content"]
        self.source, self.usage = record["pragreg"], record["usage"]

    def take(self, line: bytes) -> None:
        """Take a line of the stream."""
        data = line.strip().removeprefix(b"data:").strip()
        if data == b"[DONE]":
            self.is_complete = True
        if not data or self.is_complete or data.startswith(b":"):
            return
        record = json.loads(data)
        if "error" in record:
            self.error = json.dumps(record["error"])
        for choice in record.get("choices", ()):
            if piece := choice["delta"].get("content"):
                self.first_token = self.first_token or time.perf_counter()
                self.text += piece
        self.source = record.get("pragreg") or self.source
        self.usage = record.get("usage") or self.usage

    def close(self) -> None:
        if not self.error and not self.is_complete:
            self.error = "the stream was cut off"
        elif not self.error and not (self.source and self.usage):
            self.error = "the stream names no version or no usage"


class Aliases:
    """When the alias named which version; a request sees what it named at some moment between its ends."""

    def __init__(self, version: str) -> None:
        self._moves: list[tuple[float, float, str]] = [(0.0, 0.0, version)]

    @property
    def moves(self) -> int:
        return len(self._moves) - 1

    def move(self, version: str, do: Callable[[], None]) -> None:
        """Move the alias, and remember when the move began and when it was done."""
        began = time.perf_counter()
        do()
        self._moves.append((began, time.perf_counter(), version))

    def named(self, asked: Asked) -> set[str]:
        """Return the versions that a request may have found under the alias."""
        ends = [*(done for _, done, _ in self._moves[1:]), float("inf")]
        spans = zip(self._moves, ends, strict=True)
        return {name for (began, _, name), end in spans if began <= asked.ended and end >= asked.started}


def mistake(asked: Asked, expected: Answers, aliases: Aliases) -> str:
    """Return what is wrong with an answer that came, "" if nothing is."""
    named = asked.model.partition("+")[0]
    allowed = {named} if named in VERSIONS else aliases.named(asked)
    if asked.version not in allowed:
        return f"{asked.version} answered, where {asked.model} named {' or '.join(sorted(allowed))}"
    right = expected[asked.version, asked.mode, asked.question]
    if asked.documents != right.documents:
        return f"documents of another version than {asked.version}: {asked.question}"
    if asked.text != right.text:
        return f"{asked.version} {asked.mode} {asked.question!r}: {asked.text!r}, the command line: {right.text!r}"
    return ""


class Load:
    """Clients that ask one question after the other, each on a connection of its own."""

    def __init__(self, url: str, bench: Bench, expected: Answers, aliases: Aliases) -> None:
        self.url, self._bench, self._expected, self._aliases = url, bench, expected, aliases
        self.asked: list[Asked] = []
        self.mistakes: list[str] = []

    async def run(self, clients: int, seconds: float, names: Names) -> None:
        """Let ``clients`` ask for so long; requests that have begun by then are waited for."""
        until = time.perf_counter() + seconds
        await asyncio.gather(*(self._client(number, until, names) for number in range(clients)))

    async def _client(self, number: int, until: float, names: Names) -> None:
        draw = random.Random(number)
        await asyncio.sleep(draw.random())
        async with aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(limit=1), timeout=TIMEOUT) as session:
            while time.perf_counter() < until:
                model, mode = names(draw)
                question = draw.choice(self._bench.questions)
                streamed = draw.random() < 0.5
                asked = await ask(
                    session, model, mode, question, max_tokens=self._bench.max_tokens, is_streamed=streamed
                )
                self.asked.append(asked)
                if not asked.error:
                    wrong = mistake(asked, self._expected, self._aliases)
                    self.mistakes += [wrong] if wrong else []
                else:
                    await asyncio.sleep(0.2)  # a server that refuses is not to be drowned


def all_names(draw: random.Random) -> tuple[str, str]:
    """Ask everything that is asked later, so that it is warm then."""
    mode = draw.choice(MODES)
    return f"{draw.choice(VERSIONS)}+{mode}", mode


def fixed_names(draw: random.Random) -> tuple[str, str]:
    """Ask both versions by number, out of adapters."""
    return draw.choice(VERSIONS), "prag"


def moving_names(draw: random.Random) -> tuple[str, str]:
    """Ask mostly by the alias that moves; one in eight with texts beside the adapters."""
    if draw.random() < 0.125:
        return f"{CORPUS}@{ALIAS}+combined", "combined"
    return (f"{CORPUS}@{ALIAS}" if draw.random() < 0.8 else draw.choice(VERSIONS)), "prag"


def percentiles(values: Sequence[float]) -> str:
    """Return p50, p90 and p99 in words."""
    if len(values) < 2:
        return "-"
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return f"{cuts[49]:.2f} / {cuts[89]:.2f} / {cuts[98]:.2f} s"
