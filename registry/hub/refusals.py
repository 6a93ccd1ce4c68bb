"""What goes wrong between us and the Hub, in words: with the next thing to do, without tokens and signed addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import ModuleType
from typing import Literal
from urllib.parse import urlsplit

from registry.errors import HubError, PragregError, StorageError
from registry.masking import masked

MESSAGE_CHARACTERS = 300
LOGIN = "hf auth login"

_URL = re.compile(r"\b(https?)://[^\s'\"<>]+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_AGAIN = "run the same command again; what has arrived is kept"
_NO_ROOM = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.INSUFFICIENT_STORAGE, HTTPStatus.PAYMENT_REQUIRED)
_README = "Invalid metadata in README.md"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of whom, for messages; ``doing`` goes on after "cannot", such as "commit to ns/name"."""

    endpoint: str
    repository: str
    doing: str
    has_token: bool = False

    @property
    def failed(self) -> str:
        """How every message about it begins."""
        return f"cannot {self.doing} at {self.endpoint}"


class RefusedError(HubError):
    """The server says no; ``status`` is HTTP's, ``headers`` are those of its answer."""

    def __init__(self, message: str, *, status: int, headers: Mapping[str, str], hint: str | None) -> None:
        """Keep the status and the headers."""
        super().__init__(message, hint=hint)
        self.status = status
        self.headers = headers


class MissingError(RefusedError):
    """The server says that there is no such repository (or that we may not see it), commit or file."""

    def __init__(self, message: str, *, status: int, headers: Mapping[str, str], hint: str | None, what: What) -> None:
        """Keep what is missing."""
        super().__init__(message, status=status, headers=headers, hint=hint)
        self.what = what


What = Literal["repository", "revision", "file"]
_MISSING: dict[str, What] = {"RepoNotFound": "repository", "RevisionNotFound": "revision", "EntryNotFound": "file"}


class UncertainError(HubError):
    """A commit was sent and no proper answer came: it may have been made or not."""


def plain(text: object) -> str:
    """Return text of a server or library for a message: one short line, of addresses only scheme and host."""
    line = " ".join(_CONTROL.sub(" ", str(text)).split())
    line = _URL.sub(lambda found: f"{found[1]}://{urlsplit(found[0]).netloc.rpartition('@')[2]}/...", line)
    line = masked(line)
    return line if len(line) <= MESSAGE_CHARACTERS else line[:MESSAGE_CHARACTERS] + "..."


def refusal(
    asked: Asked, status: int, headers: Mapping[str, str], text: str | None, *, missing: What = "repository"
) -> RefusedError:
    """Return the error for an answer of status 4xx or 5xx; ``missing`` is what a 404 without a reason means."""
    code = headers.get("x-error-code", "")
    says = plain(text or headers.get("x-error-message") or "")
    what = _MISSING.get(code)
    if what is None and (status == HTTPStatus.NOT_FOUND or (status == HTTPStatus.UNAUTHORIZED and not asked.has_token)):
        what = missing if status == HTTPStatus.NOT_FOUND else "repository"
    if what is not None and code != "GatedRepo":
        message, hint = _missing(asked, what)
        return MissingError(message, status=status, headers=headers, hint=hint, what=what)
    message = f"{asked.failed}: {_named(status)}" + (f", {says}" if says else "")
    return RefusedError(message, status=status, headers=headers, hint=_hint(asked, status, code, says))


def unanswered(asked: Asked, reason: str) -> HubError:
    """Return the error for an answer that is none."""
    return HubError(
        f"{asked.failed}: the server gives no proper answer ({plain(reason)})",
        hint="check HF_ENDPOINT, or try again later",
    )


def offline(asked: Asked) -> HubError:
    """Return the error for offline mode."""
    return HubError(f"cannot {asked.doing}: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE, then try again")


def explained(error: BaseException, asked: Asked, library: ModuleType) -> PragregError:
    """Return what the client raised as one of ours; ``library`` is the client's HTTP library."""
    from huggingface_hub import errors

    while isinstance(error, RuntimeError) and error.__cause__ is not None:  # how the client wraps a failed upload
        error = error.__cause__
    if isinstance(error, PragregError):
        return error
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline(asked)
    if isinstance(error, errors.HfHubHTTPError):
        answer = error.response
        return refusal(asked, answer.status_code, answer.headers, error.server_message)
    if isinstance(error, errors.LocalTokenNotFoundError) or "oidc" in type(error).__name__.lower():
        return HubError(f"{asked.failed}: the login cannot be used ({plain(error)})", hint=LOGIN)
    if isinstance(error, (library.UnsupportedProtocol, library.InvalidURL)):
        return HubError(f"{asked.failed}: that is no web address", hint="set HF_ENDPOINT to one, or unset it")
    if isinstance(error, errors.HFValidationError):
        return HubError(f"{asked.failed}: {plain(error)}", hint="name a repository as NAMESPACE/NAME")
    if isinstance(error, ValueError) and str(error).startswith(_README):
        return HubError(
            f"{asked.failed}: the Hub does not accept README.md: {plain(str(error).removeprefix(_README + '.'))}",
            hint="check --license and the model card",
        )
    if isinstance(error, ValueError) and str(error).startswith("LFS batch API returned errors"):
        return HubError(f"{asked.failed}: {plain(error)}", hint=_hint(asked, 0, "", str(error)))
    if isinstance(error, OSError) and not isinstance(error, library.HTTPError):
        return StorageError(f"{asked.failed}: {error.filename or 'a file'}: {error.strerror or plain(error)}")
    return unanswered(asked, f"{type(error).__name__}: {error}")


def _missing(asked: Asked, what: What) -> tuple[str, str]:
    if what == "repository":
        hint = "check the name, and that your login may see it: hf auth whoami"
        hint = hint if asked.has_token else f"check the name; for a private one: {LOGIN}"
        return f"{asked.failed}: there is no repository {asked.repository}, or it is private", hint
    if what == "revision":
        return f"{asked.failed}: the repository has no such revision", f"look at {_page(asked)}/tree/main"
    return f"{asked.failed}: there is no such file", f"look at {_page(asked)}/tree/main"


def _hint(asked: Asked, status: int, code: str, says: str) -> str:
    if code == "GatedRepo":
        return f"ask for access at {_page(asked)}, then: {LOGIN}"
    if status in _NO_ROOM or re.search(r"\b(storage|quota)\b", says, re.IGNORECASE):
        return f"free storage of the account, or get more: {asked.endpoint}/settings/billing"
    if status == HTTPStatus.UNAUTHORIZED:
        return LOGIN
    if status == HTTPStatus.FORBIDDEN:
        return "check that your login may do that: hf auth whoami" if asked.has_token else LOGIN
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return f"wait a few minutes, then {_AGAIN}" + ("" if asked.has_token else f"; more is allowed after: {LOGIN}")
    return f"look at {_page(asked)}, or {_AGAIN}"


def _page(asked: Asked) -> str:
    return f"{asked.endpoint}/{asked.repository}" if asked.repository else asked.endpoint


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def gave_up(asked: Asked, reason: str, *, is_reached: bool, status: int | None) -> HubError:
    """Return the error for what did not pass after many attempts."""
    if not is_reached:
        return HubError(
            f"{asked.failed}: it cannot be reached ({plain(reason)})",
            hint="check the network" + (", HF_ENDPOINT" if os.environ.get("HF_ENDPOINT") else "") + f", then {_AGAIN}",
        )
    hint = _hint(asked, status, "", "") if status == HTTPStatus.TOO_MANY_REQUESTS else f"try later: {_AGAIN}"
    return HubError(f"{asked.failed}: {plain(reason).rstrip('.')}, again and again", hint=hint)
