"""Who may ask the server."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, CheckConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.catalog.models.base import Base, Digest, Id

_IN_USE = text("revoked_at IS NULL")


class ApiKeyRow(Base):
    """An API key of the server, as the sha256 of its secret.

    Revoked keys stay, so that the list tells who could ask when.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("digest"),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        # A name is free again once its key is revoked.
        Index("uq_api_keys_in_use", "name", unique=True, sqlite_where=_IN_USE, postgresql_where=_IN_USE),
        Index(None, "prefix"),
        {"comment": "API keys of `pragreg serve`; of a secret only its sha256 is kept."},
    )

    id: Mapped[Id]
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(comment="the first characters of the secret, to recognise it")
    digest: Mapped[Digest] = mapped_column(comment="sha256 of the secret")
    scopes: Mapped[list[str]] = mapped_column(JSON, comment='["ask", "search:handbook"]: what it is good for')
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None] = mapped_column(comment="null: it is good")
    last_used_at: Mapped[datetime | None] = mapped_column(comment="to the minute; null: it never was")
