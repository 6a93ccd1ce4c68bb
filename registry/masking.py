"""Passwords stay out of everything that people read: messages, tracebacks, rows of the catalog.

Whoever takes a URL apart tells its password here (``keep_secret``); whoever shows text of unknown origin, such as the
words of a driver or a traceback, shows ``masked(text)``.
"""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus

MASK = "***"

KEY_START = "pragreg-"
"""How every API key of the server begins."""

_IN_URL = re.compile(r"(://[^/@:\s]*):(?!\d+/)[^@\s]*@")  # digits before a slash are a port
_API_KEY = re.compile(rf"{KEY_START}[A-Za-z0-9_-]{{43,}}")
_LONG = 4
"""Shorter passwords are masked only where they stand alone, or no text could be read."""

_secrets: set[str] = set()


def keep_secret(*texts: str | None) -> None:
    """Have ``masked`` leave these texts out from now on, also as they are spelled in a URL."""
    for text in texts:
        if text:
            _secrets.update((text, quote(text, safe=""), quote(text), quote_plus(text)))


def masked_urls(text: str) -> str:
    """Return ``text`` without the passwords of the URLs in it, and without API keys of the server."""
    return _API_KEY.sub(f"{KEY_START}{MASK}", _IN_URL.sub(rf"\1:{MASK}@", text))


def masked(text: str) -> str:
    """Return ``text`` without the passwords of URLs, API keys, and any secret that is known."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if len(secret) >= _LONG:
            text = text.replace(secret, MASK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return masked_urls(text)
