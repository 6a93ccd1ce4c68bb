"""The connection to an endpoint of the Hub: the token, time-outs, attempts, redirects, and a way to stop it all."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from registry.errors import Interrupted, PragregError, UsageError
from registry.hub import session as sessions
from registry.hub.answers import Answer, server_text
from registry.hub.refusals import Asked, UncertainError, What, explained, offline, refusal, unanswered
from registry.hub.retrying import COMMIT_TIMEOUTS, PassingError, Patience, passing, raise_if_passing, timeout_seconds
from registry.masking import keep_secret

if TYPE_CHECKING:
    from huggingface_hub import HfApi

COMMIT_ID = re.compile(r"[0-9a-f]{40}")
MAX_REDIRECTS = 8

_T = TypeVar("_T")
_ENDPOINT = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_COMMIT_URL = re.compile(r"/api/models/[^/]+/[^/]+/commit/")
_BUSY = b"another conflicting operation is in progress"
_PORTS = {"http": 80, "https": 443}
_LINGER_SECONDS = 1.0


class Connection:
    """An endpoint and who asks it; see ``Hub``."""

    def __init__(self, endpoint: str | None, notify: Callable[[str], None] | None) -> None:
        """See ``Hub``."""
        from huggingface_hub import constants

        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).strip().rstrip("/")
        if not _ENDPOINT.fullmatch(self.endpoint):
            raise UsageError(
                f"{self.endpoint!r} is no address of a Hub",
                hint="give HF_ENDPOINT one such as https://huggingface.co, without a name or password in it",
            )
        self.library = sessions.http_library()
        self._notify = notify or (lambda text: None)
        self._stopped = threading.Event()
        self._origin = _origin(self.endpoint)
        self._calls = _Calls(self)

    def asked(self, repository: str, doing: str) -> Asked:
        """Return the words for what is asked now.

        Raises:
            HubError: offline mode is on.
        """
        asked = Asked(self.endpoint, repository, doing)
        if _is_offline():
            raise offline(asked)
        return replace(asked, has_token="authorization" in self._headers(doing))

    def patience(self, asked: Asked) -> Patience:
        """Return a new count of failures."""
        return Patience(asked, self.pause, self._notify)

    def patiently(self, asked: Asked, attempt: Callable[[], _T]) -> _T:
        """Return what ``attempt`` returns once it raises no PassingError any more."""
        patience = self.patience(asked)
        while True:
            try:
                return attempt()
            except PassingError as error:
                patience.failed(error)

    def owns(self, url: str) -> bool:
        """Say whether the token may be sent there: to the endpoint's own scheme, host and port."""
        return _origin(url) == self._origin

    @contextmanager
    def calls(self, asked: Asked) -> Iterator[HfApi]:
        """Give the client's own API, whose requests are performed as all others here, and explain its errors."""
        from huggingface_hub import HfApi

        try:
            with sessions.speaking(self._calls), self._calls.by_this_thread(asked):
                yield HfApi(endpoint=self.endpoint, library_name="pragreg", library_version=_version())
        except Exception as error:
            raise explained(error, asked, self.library) from None

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        asked: Asked,
        *,
        headers: Mapping[str, str] | None = None,
        stop_at_file: bool = False,
        missing: What = "file",
    ) -> Iterator[Answer]:
        """Give the answer to one request, of wherever it is redirected to, its body not read yet.

        With ``stop_at_file`` a redirect to a file's bytes is not followed; ``url`` of the answer is where they lie.
        The token is sent to the endpoint's own origin only.

        Raises:
            PassingError: what may pass by itself, also while the body is read in the block.
            RefusedError: the answer is a status from 400 on; ``missing`` is what a 404 without a reason means.
        """
        try:
            for _ in range(MAX_REDIRECTS):
                self.check()
                with self._stream(method, url, headers or {}, asked) as response:
                    if response.has_redirect_location:
                        target = self._target(url, response, asked)
                        if not (stop_at_file and ("x-linked-etag" in response.headers or not self.owns(target))):
                            _drain(response)
                            url = target
                            continue
                        url = target
                    elif response.status_code >= 400:
                        raise_if_passing(response.status_code, response.headers)
                        text = server_text(response)
                        raise refusal(asked, response.status_code, response.headers, text, missing=missing)
                    elif response.headers.get("content-encoding", "identity") != "identity":
                        raise PassingError("the server compresses what it was asked to send as it is")
                    yield Answer(response, url, self.check)
                    return
        except (PragregError, PassingError):
            raise
        except (self.library.HTTPError, self.library.StreamError, self.library.InvalidURL) as error:
            self.check()
            raise passing(error, self.library) or explained(error, asked, self.library) from None
        raise unanswered(asked, "redirects without end")

    def in_background(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns. It runs in a thread of its own, so that Ctrl-C need not wait for uploads."""
        outcome: Future[_T] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            return outcome.result()
        except BaseException:
            if not outcome.done():
                self.stop()
                thread.join(_LINGER_SECONDS)
            raise

    def stop(self) -> None:
        """See ``Hub``."""
        self._stopped.set()
        sessions.cut_connections()

    def check(self) -> None:
        """Raise Interrupted after ``stop``."""
        if self._stopped.is_set():
            raise Interrupted("stopped; what was finished is kept")

    def pause(self, seconds: float) -> None:
        """Wait; raise Interrupted at once after ``stop``."""
        self._stopped.wait(seconds)
        self.check()

    def _headers(self, doing: str) -> dict[str, str]:
        """Return the headers with the token, if there is one."""
        try:
            headers: dict[str, str] = sessions.client_utils().build_hf_headers(
                library_name="pragreg", library_version=_version()
            )
        except Exception as error:  # a login by other means than a token, such as that of a CI, may fail in many ways
            raise explained(error, Asked(self.endpoint, "", doing), self.library) from None
        keep_secret(headers.get("authorization", "").removeprefix("Bearer "))
        return headers

    def _stream(self, method: str, url: str, headers: Mapping[str, str], asked: Asked) -> Any:
        own = self._headers(asked.doing)
        if not self.owns(url):
            own.pop("authorization", None)
        return sessions.session().stream(
            method,
            url,
            headers={**own, "accept-encoding": "identity", **headers},
            follow_redirects=False,
            timeout=timeout_seconds(),
        )

    def _target(self, url: str, response: Any, asked: Asked) -> str:
        try:
            target = urljoin(url, str(response.headers["location"]))
            before, after = urlsplit(url).scheme, urlsplit(target).scheme
        except ValueError:
            raise unanswered(asked, "a redirect to no address") from None
        if after != before and (before, after) != ("http", "https"):
            raise unanswered(asked, f"a redirect from {before}: to {after}:")
        return target


class _Calls:
    """How requests of the client are performed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked = threading.local()
        self._last: Asked | None = None

    @contextmanager
    def by_this_thread(self, asked: Asked) -> Iterator[None]:
        """Remember what is asked, for messages: what the client's own threads do belongs to what began last."""
        self._asked.now = self._last = asked
        try:
            yield
        finally:
            self._asked.now = None

    def owns(self, url: str) -> bool:
        return self._connection.owns(url)

    def perform(self, send: sessions.Send, method: str, url: str, options: dict[str, Any]) -> Any:
        is_commit = method == "POST" and _COMMIT_URL.search(url) is not None
        options["headers"] = {**(options.get("headers") or {}), "accept-encoding": "identity"}
        options["timeout"] = timeout_seconds() * (COMMIT_TIMEOUTS if is_commit else 1)
        body: Any = options.get("data")  # a file that is uploaded, or a part of one
        start = body.tell() if hasattr(body, "tell") else None
        asked = getattr(self._asked, "now", None) or self._last
        assert asked is not None
        patience = self._connection.patience(asked)
        while True:
            self._connection.check()
            try:
                return self._answer(send, options, is_commit=is_commit)
            except PassingError as error:
                if is_commit and error.is_sent and error.status != 429:
                    raise UncertainError(f"{asked.failed}: {error.reason}") from None
                patience.failed(error)
            if start is not None:
                body.seek(start)

    def _answer(self, send: sessions.Send, options: dict[str, Any], *, is_commit: bool) -> Any:
        try:
            response = send(**options)
        except self._connection.library.TransportError as error:
            self._connection.check()
            raise passing(error, self._connection.library) or error from None
        raise_if_passing(response.status_code, response.headers)
        if response.status_code == 409 and _BUSY in response.content:
            raise PassingError("another operation of this account is in progress")
        if is_commit and response.is_success and not _names_commit(response.content):
            raise PassingError("the server does not name the commit")
        return response


def _names_commit(content: bytes) -> bool:
    try:
        answer = json.loads(content)
        return COMMIT_ID.fullmatch(answer["commitOid"]) is not None and isinstance(answer["commitUrl"], str)
    except (ValueError, KeyError, TypeError):
        return False


def _drain(response: Any) -> None:
    """Read what little a redirect says, so that the connection can be used again."""
    left = 64 * 1024
    for chunk in response.iter_raw():
        left -= len(chunk)
        if left < 0:
            return


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, (parts.hostname or "").lower(), _PORTS.get(parts.scheme, 0) if port is None else port


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _version() -> str:
    return importlib.metadata.version("pragreg")
