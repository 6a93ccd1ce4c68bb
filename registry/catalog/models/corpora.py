"""What a corpus was at every version: membership and places as validity ranges, aliases with their history."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.catalog.models.base import Base, Digest, Id

_CLOSED = text("to_version IS NOT NULL")
_LATER = text("from_version > 1")


class CorpusRow(Base):
    """A named collection of documents under one recipe."""

    __tablename__ = "corpora"
    __table_args__ = (
        UniqueConstraint("name"),
        {"comment": "Named collections of documents: what is built and queried."},
    )

    id: Mapped[Id]
    name: Mapped[str]
    language: Mapped[str] = mapped_column(comment="how its text is analysed by the index; an ISO 639-1 code")
    created_at: Mapped[datetime]


class VersionRow(Base):
    """An immutable numbered state of a corpus."""

    __tablename__ = "versions"
    __table_args__ = (
        ForeignKeyConstraint(["corpus_id", "parent"], ["versions.corpus_id", "versions.number"]),
        CheckConstraint("length(digest) = 64", name="digest_length"),
        CheckConstraint("number > 0", name="number_positive"),
        CheckConstraint("parent < number", name="parent_before"),
        CheckConstraint("documents >= 0", name="documents_not_negative"),
        Index(None, "corpus_id", "digest"),
        Index(None, "recipe_id"),
        Index(None, "build_id"),
        {"comment": "Immutable numbered states of corpora."},
    )

    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpora.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[Digest] = mapped_column(comment="sha256 over recipe digest and sorted (document, adapter) pairs")
    parent: Mapped[int | None] = mapped_column(comment="number of the version it was made from")
    recipe_id: Mapped[int] = mapped_column(ForeignKey("recipes.id"))
    build_id: Mapped[int | None] = mapped_column(ForeignKey("builds.id"))
    message: Mapped[str]
    documents: Mapped[int] = mapped_column(comment="number of documents in it")
    size_bytes: Mapped[int] = mapped_column(server_default="0", comment="bytes of its adapters")
    created_at: Mapped[datetime]
    collected_at: Mapped[datetime | None] = mapped_column(
        comment="when `pragreg gc` took adapters of it away; null: it can be queried"
    )


class MembershipRow(Base):
    """Which document has which adapter in which versions.

    A row holds for every version v with from_version <= v < to_version, or from from_version on while to_version is
    null. So a version costs rows for what changed only.

    A line is a document through its edits, and the indexes hold all columns that comparing two versions along their
    lines takes.
    """

    __tablename__ = "memberships"
    __table_args__ = (
        ForeignKeyConstraint(["corpus_id", "from_version"], ["versions.corpus_id", "versions.number"]),
        ForeignKeyConstraint(["corpus_id", "to_version"], ["versions.corpus_id", "versions.number"]),
        CheckConstraint("to_version > from_version", name="range_not_empty"),
        Index("ix_memberships_begun", "corpus_id", "from_version", "to_version", "line_id"),
        Index(
            "ix_memberships_ended",
            *("corpus_id", "to_version", "from_version", "line_id", "document_id", "adapter_id"),
            sqlite_where=_CLOSED,
            postgresql_where=_CLOSED,
        ),
        # The line first: an index of all columns that began with the corpus, SQLite would scan for a document.
        Index("ix_memberships_line", "line_id", "corpus_id", "from_version", "to_version", "document_id", "adapter_id"),
        Index(
            "ix_memberships_shared",
            *("corpus_id", "line_id"),
            # As SQLAlchemy writes the condition for each.
            sqlite_where=text("shares_line = 1"),
            postgresql_where=text("shares_line"),
        ),
        Index(None, "document_id"),
        Index(None, "adapter_id"),
        {"comment": "Which document has which adapter in which versions."},
    )

    corpus_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"), primary_key=True)
    from_version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="first version with it")
    to_version: Mapped[int | None] = mapped_column(comment="first version without it; null: still valid")
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    line_id: Mapped[int] = mapped_column(
        server_default="0", comment="the document through its edits: the first document of the line"
    )
    shares_line: Mapped[bool] = mapped_column(
        server_default=false(), comment="another row of its line holds for some of the same versions"
    )


class PlaceRow(Base):
    """Where documents stand in their sources, in which versions (as in memberships).

    Places are no part of a version's digest: a build that finds the same documents at other places amends the places
    of the newest version.
    """

    __tablename__ = "places"
    __table_args__ = (
        ForeignKeyConstraint(["corpus_id", "from_version"], ["versions.corpus_id", "versions.number"]),
        ForeignKeyConstraint(["corpus_id", "to_version"], ["versions.corpus_id", "versions.number"]),
        CheckConstraint("to_version > from_version", name="range_not_empty"),
        CheckConstraint("ordinal >= 0", name="ordinal_not_negative"),
        # Covers the report on documents that stand at several places.
        Index("ix_places_documents", "document_id", "corpus_id", "from_version", "to_version"),
        # For what changed between two versions alone, and without the many places that stay as they were.
        Index(
            "ix_places_begun",
            *("corpus_id", "from_version", "document_id"),
            sqlite_where=_LATER,
            postgresql_where=_LATER,
        ),
        Index(
            "ix_places_ended",
            *("corpus_id", "to_version", "document_id"),
            sqlite_where=_CLOSED,
            postgresql_where=_CLOSED,
        ),
        {"comment": "Where documents stand in their sources, in which versions."},
    )

    corpus_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="number of the passage in its source, from 0"
    )
    from_version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, comment="first version with it")
    to_version: Mapped[int | None] = mapped_column(comment="first version without it; null: still valid")
    record_id: Mapped[str | None] = mapped_column(comment="identifier that the source itself gives the record")
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"))


class AliasRow(Base):
    """A movable name for a version."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["corpus_id", "version"], ["versions.corpus_id", "versions.number"]),
        {"comment": "Movable names for versions."},
    )

    corpus_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    moved_at: Mapped[datetime]


class AliasMoveRow(Base):
    """One move of an alias."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        ForeignKeyConstraint(["corpus_id", "from_version"], ["versions.corpus_id", "versions.number"]),
        ForeignKeyConstraint(["corpus_id", "to_version"], ["versions.corpus_id", "versions.number"]),
        Index(None, "corpus_id", "name"),
        {"comment": "The history of aliases: every move, oldest first by id."},
    )

    id: Mapped[Id]
    corpus_id: Mapped[int]
    name: Mapped[str]
    from_version: Mapped[int | None] = mapped_column(comment="null: the alias was new")
    to_version: Mapped[int | None] = mapped_column(comment="null: the alias was removed")
    who: Mapped[str]
    moved_at: Mapped[datetime]


class PinRow(Base):
    """A version that garbage collection must leave, until the pin is taken off."""

    __tablename__ = "pins"
    __table_args__ = (
        ForeignKeyConstraint(["corpus_id", "version"], ["versions.corpus_id", "versions.number"]),
        {"comment": "Versions that `pragreg gc` never collects."},
    )

    corpus_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    reason: Mapped[str]
    who: Mapped[str]
    pinned_at: Mapped[datetime]
