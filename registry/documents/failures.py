"""What can go wrong when a source is opened or read, whichever file system it lies on."""

from __future__ import annotations

import re
import sys
import zlib
from http import HTTPStatus

# fsspec's file systems raise their client library's own errors; these are the roots of the well-known ones.
_CLIENT_ERRORS = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("ftplib", "Error"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("httpx", "HTTPError"),
    ("huggingface_hub.errors", "HfHubHTTPError"),
    ("paramiko.ssh_exception", "SSHException"),
    ("requests.exceptions", "RequestException"),
)
_PASSWORD = re.compile(r"(://[^/@:\s]*):[^/@\s]*@")


def read_failures(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return ``more`` and what opening and reading a source can raise; client libraries count once imported."""
    found: list[type[Exception]] = [OSError, EOFError, ValueError, ImportError, zlib.error, *more]
    for module, name in _CLIENT_ERRORS:
        error = getattr(sys.modules.get(module), name, None)
        if isinstance(error, type) and issubclass(error, Exception):
            found.append(error)
    return tuple(found)


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
