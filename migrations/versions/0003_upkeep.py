"""Pins, sizes of versions, and the marks of what was collected or unnamed."""

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


def upgrade() -> None:
    """Create the table of pins, and change those of versions and of the moves of aliases."""
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
    with op.batch_alter_table("alias_moves") as table:
        table.alter_column("to_version", existing_type=INTEGER, nullable=True, comment="null: the alias was removed")


def downgrade() -> None:
    """Undo it; removals of aliases are forgotten."""
    op.execute("DELETE FROM alias_moves WHERE to_version IS NULL")
    with op.batch_alter_table("alias_moves") as table:
        table.alter_column("to_version", existing_type=INTEGER, nullable=False, comment=None)
    op.drop_column("versions", "collected_at")
    op.drop_column("versions", "size_bytes")
    op.drop_table("pins")
