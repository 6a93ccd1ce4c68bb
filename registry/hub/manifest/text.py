"""Text of a repository that is shown on one line: messages, names, URIs, record ids. Titles and texts are content."""

from __future__ import annotations

import re

from registry.hub.manifest.limits import TEXT_LENGTH

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""What controls a terminal, ends a line, turns the direction of writing, is invisible, or is no character at all."""


def plain(text: str) -> str:
    """Return ``text`` as it is published: spaces for what controls a terminal or turns the writing; cut off if long."""
    return _UNSAFE.sub(" ", text)[:TEXT_LENGTH].strip()


def is_plain(text: str, most: int = TEXT_LENGTH) -> bool:
    """Return whether ``text`` may stand in a manifest: at most so many characters, none of them unsafe."""
    return len(text) <= most and _UNSAFE.search(text) is None
