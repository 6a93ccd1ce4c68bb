"""Who asks: API keys out of the catalog."""

from __future__ import annotations

from dataclasses import dataclass

from registry.catalog.api_keys import ApiKey, allows, any_keys, find_key
from registry.catalog.engine import Catalog
from registry.serving.failures import ApiError

_BEARER = "bearer "


@dataclass(frozen=True)
class Caller:
    """Who sent a request: the holder of a key, or anybody where none is needed."""

    key: ApiKey | None

    @property
    def name(self) -> str | None:
        """The key's name."""
        return None if self.key is None else self.key.name

    def may(self, scope: str, corpus: str | None = None) -> bool:
        """Return whether the key is good for that."""
        return self.key is None or allows(self.key, scope, corpus)

    def may_somewhere(self, scope: str) -> bool:
        """Return whether the key is good for that on some corpus at least."""
        return self.key is None or any(each.partition(":")[0] == scope for each in self.key.scopes)

    def require(self, scope: str, corpus: str | None = None) -> None:
        """Check that the key is good for that.

        Raises:
            ApiError: it is not.
        """
        if not self.may(scope, corpus):
            wanted = scope if corpus is None else f"{scope}:{corpus}"
            raise ApiError(
                403,
                f"this key is not good for {wanted}; try: pragreg keys create NAME --scope {wanted}",
                code="insufficient_scope",
            )


ANYBODY = Caller(None)


class Access:
    """Whether a key is needed, and whose it is. May be called by several threads."""

    def __init__(self, catalog: Catalog, *, is_open: bool) -> None:
        """Let everybody in where ``is_open`` and there never was a key."""
        self._catalog, self._is_open = catalog, is_open

    @property
    def is_needed(self) -> bool:
        """Whether requests need a key now."""
        with self._catalog.read() as session:
            return not self._is_open or any_keys(session)

    def caller(self, authorization: str | None) -> Caller:
        """Return who sent a request with this header.

        Raises:
            ApiError: a key is needed, and this is none that is good.
        """
        has_bearer = authorization is not None and authorization[: len(_BEARER)].lower() == _BEARER
        with self._catalog.read() as session:
            if self._is_open and not any_keys(session):
                return ANYBODY
            key = find_key(session, (authorization or "")[len(_BEARER) :].strip()) if has_bearer else None
        if key is None:
            message = "this API key is not good" if has_bearer else "an API key is needed"
            raise ApiError(
                401,
                f"{message}: send the header `Authorization: Bearer KEY`; try: pragreg keys create NAME",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return Caller(key)
