"""Why a source cannot be opened or read, whichever file system it lies on."""

from __future__ import annotations

import re
from http import HTTPStatus

_PASSWORD = re.compile(r"(://[^/@:\s]*):[^/@\s]*@")


def failure_reason(error: Exception) -> str:
    """Return in a few words why a source cannot be read, without passwords."""
    # Over http every failure is a "file not found"; what happened is its cause.
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        status = getattr(error.__cause__, "status", None)
        if status != HTTPStatus.NOT_FOUND:
            return f"cannot be read: {f'HTTP status {status}' if status else without_password(str(error.__cause__))}"
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be read: {without_password(detail) or type(error).__name__}"


def without_password(url: str) -> str:
    """Return ``url`` without the password of its user."""
    return _PASSWORD.sub(r"\1@", url)
