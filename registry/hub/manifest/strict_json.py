"""JSON from a stranger: keys once each, finite numbers, bounded depth and size; values taken by name and type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from registry.hub.manifest.limits import TEXT_LENGTH
from registry.hub.manifest.text import is_plain

MOST_NUMBER = 2**53 - 1
"""Larger integers are not the same in every JSON reader."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


def parse(data: bytes, *, most_parts: int) -> Any:
    """Return the value of a JSON text, of at most ``most_parts`` commas and brackets.

    Raises:
        ValueError: it is not that; the message says why.
    """
    if sum(data.count(part) for part in (b",", b"[", b"{")) > most_parts:
        raise ValueError("it has too many parts")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("it has a key twice")
    return values


def _constant(name: str) -> float:
    raise ValueError(f"it has the number {name}")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("it has a number that is not finite")
    return value


class Fields:
    """The fields of a JSON object, each to be taken once by its name and type; ``where`` names it in messages.

    Every method raises ValueError where the value is another than it promises.
    """

    def __init__(self, value: Any, where: str) -> None:
        """Take an object apart."""
        if not isinstance(value, dict):
            raise ValueError(f"{where} is no object")
        self._rest: dict[str, Any] = dict(value)
        self._where = where

    def take(self, name: str) -> Any:
        """Return a value of any type."""
        if name not in self._rest:
            raise ValueError(f"{self._where} has no {name!r}")
        return self._rest.pop(name)

    def end(self) -> None:
        """Check that every field was taken."""
        if self._rest:
            names = ", ".join(repr(name[:40]) for name in sorted(self._rest)[:3])
            raise ValueError(f"{self._where} has fields of no meaning: {names}")

    def integer(self, name: str, least: int = 0, most: int = MOST_NUMBER) -> int:
        """Return an integer between two bounds, which belong to them."""
        value = self.take(name)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(name, value)
        return value

    def number(self, name: str) -> float:
        """Return a finite number."""
        value = self.take(name)
        if type(value) not in (int, float) or abs(value) > MOST_NUMBER:
            raise self._wrong(name, value)
        return float(value)

    def truth(self, name: str) -> bool:
        """Return a boolean."""
        value = self.take(name)
        if type(value) is not bool:
            raise self._wrong(name, value)
        return value

    def text(self, name: str, most: int = TEXT_LENGTH, *, least: int = 1) -> str:
        """Return a text of one line, of ``least`` to ``most`` characters."""
        value = self.take(name)
        if type(value) is not str or not least <= len(value) or not is_plain(value, most):
            raise self._wrong(name, value)
        return value

    def digest(self, name: str) -> str:
        """Return a digest."""
        value = self.take(name)
        if not is_digest(value):
            raise self._wrong(name, value)
        return str(value)

    def moment(self, name: str) -> datetime:
        """Return a moment in UTC, written as ``2026-01-31T12:00:00.000000Z``."""
        value = self.take(name)
        if type(value) is not str or not _MOMENT.fullmatch(value):
            raise self._wrong(name, value)
        return datetime.fromisoformat(value).astimezone(UTC)

    def items(self, name: str, most: int) -> list[Any]:
        """Return a list of at most so many values."""
        value = self.take(name)
        if type(value) is not list or len(value) > most:
            raise self._wrong(name, value)
        return value

    def mapping(self, name: str, most: int) -> Mapping[str, Any]:
        """Return an object of at most so many fields."""
        value = self.take(name)
        if type(value) is not dict or len(value) > most:
            raise self._wrong(name, value)
        return value

    def _wrong(self, name: str, value: Any) -> ValueError:
        shown = f"{type(value).__name__} of {len(value)}" if isinstance(value, (list, dict)) else ascii(value)[:60]
        return ValueError(f"{self._where} has {name!r}: {shown}")


def is_digest(value: Any) -> bool:
    """Return whether a value is a digest, as text."""
    return type(value) is str and _DIGEST.fullmatch(value) is not None


def moment_text(moment: datetime) -> str:
    """Return a moment as it is written in manifests."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
