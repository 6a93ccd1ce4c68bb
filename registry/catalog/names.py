"""How corpora, versions, aliases and SQLite catalogs are named, as text; nothing here asks a database.

``handbook``, ``handbook@production``, ``handbook@v3``, ``handbook@sha256:1f2e`` and ``handbook@1f2e`` each name a
version.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from registry.errors import UsageError

LATEST = "latest"
"""The alias that every build moves to its version."""

SQLITE = "sqlite:///"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(r"v([1-9][0-9]{0,17})")
_DIGEST = re.compile(r"sha256:([0-9a-f]{1,64})")
_BARE_DIGEST = re.compile(r"[0-9a-f]{4,64}")


class Reference(NamedTuple):
    """What names a version: the corpus, and its number, a range of digests (ends included), or an alias.

    ``wanted`` is the text after the @, or ``latest``. If it is an alias and digests, an alias of that name comes first.
    """

    corpus: str
    wanted: str
    number: int | None = None
    digests: tuple[str, str] | None = None
    is_alias: bool = False


def parse_reference(text: str) -> Reference:
    """Take ``corpus``, ``corpus@alias``, ``corpus@vN``, ``corpus@sha256:PREFIX`` or ``corpus@PREFIX`` apart."""
    corpus, _, wanted = text.partition("@")
    wanted = wanted or LATEST
    if match := _NUMBER.fullmatch(wanted):
        return Reference(corpus, wanted, number=int(match[1]))
    if match := _DIGEST.fullmatch(wanted):
        return Reference(corpus, wanted, digests=_range(match[1]))
    if _BARE_DIGEST.fullmatch(wanted):
        return Reference(corpus, wanted, digests=_range(wanted), is_alias=True)
    return Reference(corpus, wanted, is_alias=True)


def _range(prefix: str) -> tuple[str, str]:
    return prefix.ljust(64, "0"), prefix.ljust(64, "f")


def is_version_number(text: str) -> bool:
    """Return whether a text is the number of a version, as ``v3``."""
    return _NUMBER.fullmatch(text) is not None


def sqlite_path(url: str) -> str | None:
    """Return the path in ``sqlite:///PATH``, which may be empty; None for another URL."""
    return unquote(url.removeprefix(SQLITE)) if url.startswith(SQLITE) else None


def is_corpus_name(name: str) -> bool:
    """Return whether a corpus may have this name."""
    return _NAME.fullmatch(name) is not None


def check_corpus_name(name: str) -> None:
    """Check that a corpus may have this name (it becomes a folder and part of a Hub repository's name).

    Raises:
        UsageError: it may not.
    """
    if not is_corpus_name(name):
        raise UsageError(
            f"{name!r} cannot be the name of a corpus",
            hint="use up to 64 of the letters a-z, digits, dot, dash and underscore, beginning with a letter or digit",
        )


def check_alias_name(name: str) -> None:
    """Check that an alias may have this name.

    Raises:
        UsageError: it may not, or it reads as a version.
    """
    if _NAME.fullmatch(name) is None or _NUMBER.fullmatch(name) is not None:
        raise UsageError(
            f"{name!r} cannot be an alias", hint="use a name such as production; v3 would read as a version"
        )
