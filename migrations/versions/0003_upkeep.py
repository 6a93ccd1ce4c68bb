"""Pins, sizes of versions, lines of documents, and the marks of what was collected or unnamed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_upkeep"
down_revision = "0002_task_adapters_evaluations"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)

_SIZES = """
UPDATE versions SET size_bytes = (
    SELECT coalesce(sum(adapters.size_bytes), 0)
    FROM memberships JOIN adapters ON adapters.id = memberships.adapter_id
    WHERE memberships.corpus_id = versions.corpus_id AND memberships.from_version <= versions.number
      AND (memberships.to_version IS NULL OR memberships.to_version > versions.number)
)
"""

_CLOSED = sa.text("to_version IS NOT NULL")


def upgrade() -> None:
    """Create the table of pins, and change those of versions, memberships and moves of aliases."""
    op.create_table(
        "pins",
        sa.Column("corpus_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("version", INTEGER, autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("pinned_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["corpus_id", "version"],
            ["versions.corpus_id", "versions.number"],
            name=op.f("fk_pins_corpus_id_version_versions"),
        ),
        sa.PrimaryKeyConstraint("corpus_id", "version", name=op.f("pk_pins")),
        comment="Versions that `pragreg gc` never collects.",
    )
    # Not as batches: those rebuild a table on SQLite, and lose its check constraints.
    op.add_column(
        "versions",
        sa.Column("size_bytes", INTEGER, nullable=False, server_default="0", comment="bytes of its adapters"),
    )
    op.add_column(
        "versions",
        sa.Column(
            "collected_at",
            MOMENT,
            nullable=True,
            comment="when `pragreg gc` took adapters of it away; null: it can be queried",
        ),
    )
    op.execute(_SIZES)
    _add_lines()
    with op.batch_alter_table("alias_moves") as table:
        table.alter_column("to_version", existing_type=INTEGER, nullable=True, comment="null: the alias was removed")


def _add_lines() -> None:
    """Give every document of a corpus a line of its own: which of them were edits of others was not recorded."""
    op.add_column(
        "memberships",
        sa.Column(
            "line_id",
            INTEGER,
            nullable=False,
            server_default="0",
            comment="the document through its edits: the first document of the line",
        ),
    )
    op.add_column(
        "memberships",
        sa.Column(
            "shares_line",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="another row of its line holds for some of the same versions",
        ),
    )
    op.execute("UPDATE memberships SET line_id = document_id")
    op.drop_index(op.f("ix_memberships_corpus_id_from_version"), table_name="memberships")
    op.drop_index(op.f("ix_memberships_corpus_id_to_version"), table_name="memberships")
    begun = ["corpus_id", "from_version", "to_version", "line_id"]
    op.create_index("ix_memberships_begun", "memberships", begun)
    ended = ["corpus_id", "to_version", "from_version", "line_id", "document_id", "adapter_id"]
    op.create_index("ix_memberships_ended", "memberships", ended, sqlite_where=_CLOSED, postgresql_where=_CLOSED)
    line = ["line_id", "corpus_id", "from_version", "to_version", "document_id", "adapter_id"]
    op.create_index("ix_memberships_line", "memberships", line)
    shared = ["corpus_id", "line_id"]
    op.create_index(
        "ix_memberships_shared",
        "memberships",
        shared,
        sqlite_where=sa.text("shares_line = 1"),
        postgresql_where=sa.text("shares_line"),
    )


def _drop_lines() -> None:
    for name in ("begun", "ended", "line", "shared"):
        op.drop_index(f"ix_memberships_{name}", table_name="memberships")
    op.create_index(op.f("ix_memberships_corpus_id_from_version"), "memberships", ["corpus_id", "from_version"])
    op.create_index(
        op.f("ix_memberships_corpus_id_to_version"),
        "memberships",
        ["corpus_id", "to_version"],
        sqlite_where=_CLOSED,
        postgresql_where=_CLOSED,
    )
    op.drop_column("memberships", "shares_line")
    op.drop_column("memberships", "line_id")


def downgrade() -> None:
    """Undo it; removals of aliases are forgotten."""
    op.execute("DELETE FROM alias_moves WHERE to_version IS NULL")
    with op.batch_alter_table("alias_moves") as table:
        table.alter_column("to_version", existing_type=INTEGER, nullable=False, comment=None)
    _drop_lines()
    op.drop_column("versions", "collected_at")
    op.drop_column("versions", "size_bytes")
    op.drop_table("pins")
