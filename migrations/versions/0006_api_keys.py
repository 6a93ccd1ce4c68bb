"""API keys of the server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_api_keys"
down_revision = "0005_remotes"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DIGEST = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)

_IN_USE = sa.text("revoked_at IS NULL")


def upgrade() -> None:
    """Create the table of API keys."""
    op.create_table(
        "api_keys",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False, comment="the first characters of the secret, to recognise it"),
        sa.Column("digest", DIGEST, nullable=False, comment="sha256 of the secret"),
        sa.Column("scopes", sa.JSON(), nullable=False, comment='["ask", "search:handbook"]: what it is good for'),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("revoked_at", MOMENT, nullable=True, comment="null: it is good"),
        sa.Column("last_used_at", MOMENT, nullable=True, comment="to the minute; null: it never was"),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_api_keys_digest_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
        comment="API keys of `pragreg serve`; of a secret only its sha256 is kept.",
    )
    op.create_index(
        "uq_api_keys_in_use", "api_keys", ["name"], unique=True, sqlite_where=_IN_USE, postgresql_where=_IN_USE
    )
    op.create_index(op.f("ix_api_keys_prefix"), "api_keys", ["prefix"])


def downgrade() -> None:
    """Undo it; no key is good any more."""
    op.drop_table("api_keys")
