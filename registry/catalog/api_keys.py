"""API keys of the server: who may ask for what.

A key is 256 random bits, so its sha256 tells as little of it as a slow hash would; the secret itself is never kept.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from registry.catalog.dialect import BULK, lock_api_keys
from registry.catalog.models import ApiKeyRow, utc_now
from registry.catalog.names import is_corpus_name
from registry.digests import sha256_hex
from registry.errors import NotFoundError, UsageError
from registry.masking import KEY_START

SCOPES = ("ask", "search", "documents", "metrics")
"""What a key may be good for; all but ``metrics`` also for one corpus alone, as ``ask:handbook``."""

DEFAULT_SCOPES = ("ask", "search", "documents")
"""What a key is good for that was asked for without scopes: what a client needs."""

PREFIX_LENGTH = 16
"""Characters of a secret that are kept to recognise it; 35 remain unknown."""

TOUCH_SECONDS = 60
"""How exact ``last_used_at`` is; not every request has to write."""

_SECRET_BYTES = 32
_SECRET = re.compile(re.escape(KEY_START) + r"[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret; ``prefix`` are the secret's first characters. It is good unless it was revoked."""

    key_id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


def create_key(session: Session, name: str, scopes: Sequence[str] = DEFAULT_SCOPES) -> tuple[ApiKey, str]:
    """Make a key and return it with its secret, which cannot be had again.

    Raises:
        UsageError: no key may have that name, one that is good has it, or a scope is none.
    """
    if _NAME.fullmatch(name) is None or name.startswith(KEY_START):
        raise UsageError(
            f"{name!r} cannot be the name of a key",
            hint=f"use up to 64 letters, digits and . _ - @ +; begin with a letter or digit, not with {KEY_START}",
        )
    if not scopes:
        raise UsageError(f"the key {name!r} would be good for nothing", hint=f"give scopes: {', '.join(SCOPES)}")
    for scope in scopes:
        _check_scope(scope)
    lock_api_keys(session)
    if session.scalar(select(ApiKeyRow.id).where(ApiKeyRow.name == name, ApiKeyRow.revoked_at.is_(None))) is not None:
        raise UsageError(
            f"there is a key {name!r} already", hint=f"choose another name, or: pragreg keys revoke {name}"
        )
    secret = KEY_START + secrets.token_urlsafe(_SECRET_BYTES)
    row = ApiKeyRow(
        name=name,
        prefix=secret[:PREFIX_LENGTH],
        digest=sha256_hex(secret.encode()),
        scopes=sorted(set(scopes)),
        created_at=utc_now(),
    )
    session.add(row)
    session.flush()
    return _key(row), secret


def list_keys(session: Session) -> list[ApiKey]:
    """Return all keys, the revoked ones too, oldest first."""
    return [_key(row) for row in session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.id))]


def revoke_key(session: Session, name_or_prefix: str) -> ApiKey:
    """Revoke the key of that name, or whose secret begins so (16 characters or more), for good.

    Raises:
        NotFoundError: no key that is good is called so; the message does not repeat a secret.
    """
    named = name_or_prefix[:PREFIX_LENGTH] if name_or_prefix.startswith(KEY_START) else name_or_prefix
    query = select(ApiKeyRow).where(
        or_(ApiKeyRow.name == named, ApiKeyRow.prefix == named), ApiKeyRow.revoked_at.is_(None)
    )
    row = None if "\0" in named else session.scalars(query.limit(1)).first()
    if row is None:
        raise NotFoundError(f"there is no key {named!r} that is good", hint="pragreg keys list")
    row.revoked_at = utc_now()
    session.flush()
    return _key(row)


def find_key(session: Session, secret: str) -> ApiKey | None:
    """Return the key of a secret; None where there is none, or it was revoked."""
    if _SECRET.fullmatch(secret) is None:
        return None
    digest = sha256_hex(secret.encode())
    row = session.scalars(select(ApiKeyRow).where(ApiKeyRow.prefix == secret[:PREFIX_LENGTH])).all()
    # The time that this takes tells nothing of the rest of a secret whose beginning somebody knows.
    found = [each for each in row if hmac.compare_digest(each.digest, digest) and each.revoked_at is None]
    return _key(found[0]) if found else None


def is_touch_due(key: ApiKey) -> bool:
    """Return whether ``touch_key`` would write, so that most requests need no transaction that does."""
    return key.last_used_at is None or utc_now() - key.last_used_at >= timedelta(seconds=TOUCH_SECONDS)


def touch_key(session: Session, key_id: int) -> None:
    """Record that a key was used now, at most once a minute."""
    now = utc_now()
    stale = or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at <= now - timedelta(seconds=TOUCH_SECONDS))
    touched = update(ApiKeyRow).where(ApiKeyRow.id == key_id, stale).values(last_used_at=now)
    session.execute(touched, execution_options=BULK)


def any_keys(session: Session) -> bool:
    """Return whether there ever was a key. Revoking the last one must not open the server to everyone."""
    return session.scalar(select(ApiKeyRow.id).limit(1)) is not None


def allows(key: ApiKey, scope: str, corpus: str | None = None) -> bool:
    """Return whether a key is good for ``scope`` on ``corpus``; None is what belongs to no corpus alone."""
    return key.revoked_at is None and (
        scope in key.scopes or (corpus is not None and f"{scope}:{corpus}" in key.scopes)
    )


def _check_scope(scope: str) -> None:
    kind, colon, corpus = scope.partition(":")
    if kind not in SCOPES or (colon and (kind == "metrics" or not is_corpus_name(corpus))):
        raise UsageError(
            f"there is no scope {scope!r}",
            hint=f"use {', '.join(SCOPES)}; or of one corpus alone, as {SCOPES[0]}:CORPUS",
        )


def _key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(row.id, row.name, row.prefix, tuple(row.scopes), row.created_at, row.revoked_at, row.last_used_at)
