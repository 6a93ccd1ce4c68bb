"""Faults that the stand-in for the Hub makes: rules in order, and a mode of chance with a seed."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

KINDS = {
    "status": "nothing is done, and the answer is `status` with `headers` and `body`",
    "status-after": "the work is done, then the answer is `status`",
    "drop": "nothing is done, and the connection ends without an answer",
    "drop-after": "the work is done, and the connection ends without an answer",
    "drop-request": "the connection ends when `after_bytes` of the request's body are read",
    "cut": "the answer ends after `after_bytes` of its body, though its header promises more",
    "short": "the answer lacks the end of its body from `after_bytes` on, and its header promises no more",
    "corrupt": "the answer has the right length, and another byte at `after_bytes`",
    "slow": "bodies, of the request and of the answer, go at `bytes_per_second`",
    "hang": "after `after_bytes` of the answer's body nothing comes for `seconds`, then the connection ends",
    "ignore-range": "a request for a range is answered with the whole file",
    "other-range": "a request for a range is answered with 206 and the bytes one further",
    "endless": "the answer has no length and does not end before `after_bytes`, 1 GB if that is 0",
    "gzip": "the answer is compressed",
}
BEFORE = {"status", "drop", "drop-request"}
AFTER = {"status-after", "drop-after"}


@dataclass
class Rule:
    """A fault for the requests that match all that is given: it passes over ``skip`` of them, then hits ``times``.

    ``method`` may be several, ``GET|HEAD``; ``path`` is a regular expression, searched in the path without query;
    ``times`` None means every one. ``after_fraction`` says ``after_bytes`` as a part of the body. With ``reset`` a
    connection ends by a TCP reset, otherwise in good order.
    """

    kind: str
    method: str | None = None
    route: str | None = None
    path: str | None = None
    origin: str | None = None
    skip: int = 0
    times: int | None = 1
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    after_bytes: int = 0
    after_fraction: float | None = None
    bytes_per_second: int = 1 << 20
    seconds: float = 3600.0
    reset: bool = False
    seen: int = 0
    hits: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Rule:
        unknown = set(given) - {known.name for known in fields(cls)}
        if unknown or given.get("kind") not in KINDS:
            raise ValueError(f"not a rule: {dict(given)}")
        return cls(**given)

    def matches(self, origin: str, method: str, route: str, path: str) -> bool:
        return (
            (self.origin is None or self.origin == origin)
            and (self.method is None or method in self.method.split("|"))
            and (self.route is None or route in self.route.split("|"))
            and (self.path is None or re.search(self.path, path) is not None)
        )

    def position(self, length: int) -> int:
        """Return how many bytes of a body of this length come before the fault."""
        if self.after_fraction is not None:
            return min(length, int(length * self.after_fraction))
        return min(length, self.after_bytes)


@dataclass
class Chance:
    """Faults by chance: what becomes of a request depends on the seed, its method and path, and how often it came.

    So it does not depend on which of two threads is first. ``rates`` is the probability by route, ``*`` for all others.
    After ``limit`` faults there are no more.
    """

    seed: int
    rates: Mapping[str, float]
    limit: int = 1_000_000
    kinds: list[str] | None = None
    retry_after_seconds: int = 0
    hits: int = 0
    times: Counter[tuple[str, str]] = field(default_factory=Counter)
    made: list[str] = field(default_factory=list)

    def choose(self, method: str, route: str, path: str) -> Rule | None:
        self.times[method, path] += 1
        draw = random.Random(f"{self.seed} {method} {path} {self.times[method, path]}")
        if self.hits >= self.limit or draw.random() >= self.rates.get(route, self.rates.get("*", 0.0)):
            return None
        rule = self._rule(draw, method, route)
        if rule is not None:
            self.hits += 1
            self.made.append(f"{method} {path}: {rule.kind} {rule.status if 'status' in rule.kind else ''}".strip())
        return rule

    def _rule(self, draw: random.Random, method: str, route: str) -> Rule | None:
        kinds = ["status", "status", "drop"]
        if method in ("POST", "DELETE", "PUT"):
            kinds += ["status-after", "drop-after", "drop-request"]
        if method == "GET":
            kinds += ["cut", "cut", "slow"]
            if route in ("resolve", "object"):
                kinds += ["short", "corrupt", "ignore-range"]
        kinds = [kind for kind in kinds if self.kinds is None or kind in self.kinds]
        if not kinds:
            return None
        statuses = [429, 429, 500, 502, 503] + [412] * (route == "commit")
        kind, status = draw.choice(kinds), draw.choice(statuses)
        if kind == "status-after":
            status = draw.choice([500, 502, 504])
        headers = {"Retry-After": str(self.retry_after_seconds)} if status == 429 else {}
        return Rule(
            kind,
            status=status,
            headers=headers,
            after_fraction=draw.random(),
            bytes_per_second=draw.choice([200_000, 2_000_000]),
            reset=draw.random() < 0.5,
        )


class Faults:
    """The rules and the chance in force."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rules: list[Rule] = []
        self.chance: Chance | None = None
        self.cleared = threading.Event()  # wakes answers that hang

    def clear(self) -> None:
        with self._lock:
            self.rules, self.chance = [], None
            self.cleared.set()
            self.cleared = threading.Event()

    def choose(self, origin: str, method: str, route: str, path: str) -> Rule | None:
        """Return the fault for a request: that of the first rule which has hits left, or one by chance."""
        with self._lock:
            for rule in self.rules:
                if rule.times is not None and rule.hits >= rule.times:
                    continue
                if not rule.matches(origin, method, route, path):
                    continue
                rule.seen += 1
                if rule.seen > rule.skip:
                    rule.hits += 1
                    return rule
            return self.chance.choose(method, route, path) if self.chance else None
