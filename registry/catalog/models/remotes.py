"""Repositories on the Hub: what was seen there last, and where adapters lie in them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.catalog.models.base import Base, Digest, Id


class RemoteRow(Base):
    """A repository that a corpus was pushed to or pulled from."""

    __tablename__ = "remotes"
    __table_args__ = (
        UniqueConstraint("endpoint", "repository", "corpus_id"),
        Index(None, "corpus_id"),
        {"comment": "Repositories on the Hub that corpora were pushed to or pulled from, as they were seen last."},
    )

    id: Mapped[Id]
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpora.id"))
    endpoint: Mapped[str] = mapped_column(comment="address of the Hub")
    repository: Mapped[str] = mapped_column(comment="NAMESPACE/NAME")
    commit_id: Mapped[str] = mapped_column(comment="the commit that was seen last")
    root: Mapped[str] = mapped_column(comment="the root manifest at that commit, JSON")
    is_lazy: Mapped[bool] = mapped_column(comment="whether adapters are left there until they are asked for")
    pushed_at: Mapped[datetime | None] = mapped_column(comment="null: it was never pushed to from here")
    pulled_at: Mapped[datetime | None] = mapped_column(comment="null: it was never pulled from here")


class RemotePackRow(Base):
    """A pack that lies in a repository."""

    __tablename__ = "remote_packs"
    __table_args__ = (
        UniqueConstraint("remote_id", "digest"),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        CheckConstraint("size_bytes > 0", name="not_empty"),
        {"comment": "Packs that lie in repositories."},
    )

    id: Mapped[Id]
    remote_id: Mapped[int] = mapped_column(ForeignKey("remotes.id"))
    digest: Mapped[Digest] = mapped_column(comment="sha256 of the file, by which it is named there")
    size_bytes: Mapped[int]


class RemoteLocationRow(Base):
    """Where an adapter lies in a repository."""

    __tablename__ = "remote_locations"
    __table_args__ = (
        CheckConstraint('"offset" >= 0 AND size_bytes > 0', name="range_not_empty"),
        Index(None, "adapter_id"),
        Index(None, "pack_id"),
        {"comment": "Where adapters lie in repositories; one that lies there is not lost."},
    )

    remote_id: Mapped[int] = mapped_column(ForeignKey("remotes.id"), primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    pack_id: Mapped[int] = mapped_column(ForeignKey("remote_packs.id"))
    offset: Mapped[int] = mapped_column(comment="bytes from the start of the file")
    size_bytes: Mapped[int]


class RemoteNameRow(Base):
    """What a file is called in a repository.

    Its name was given at the first push and stays. What was received has no row: its URI says what it is called.
    """

    __tablename__ = "remote_names"
    __table_args__ = (
        Index(None, "remote_id", "name"),
        {"comment": "What the files that documents came from are called in repositories."},
    )

    remote_id: Mapped[int] = mapped_column(ForeignKey("remotes.id"), primary_key=True)
    uri: Mapped[str] = mapped_column(primary_key=True, comment="of the file here, without the number of a line")
    name: Mapped[str] = mapped_column(comment="its path there, below the folder that the corpus' files share")
