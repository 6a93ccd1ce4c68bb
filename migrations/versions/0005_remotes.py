"""Repositories on the Hub, where adapters lie in them, and texts that are known by their digests alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_remotes"
down_revision = "0004_views"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DIGEST = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True)

_WITHHELD = {
    "documents": "title and text are not here, only what they are: their digest",
    "augmentations": "the payload is not here, only what it is: its digest and counts",
}

# Index, the end of a range that it finds, and of which rows.
_PLACES = (
    ("ix_places_begun", "from_version", "from_version > 1"),
    ("ix_places_ended", "to_version", "to_version IS NOT NULL"),
)

_DOCUMENTS = """
SELECT documents.digest AS document_digest, documents.title, documents.text, documents.characters{withheld},
    documents.created_at
FROM documents
"""

_REMOTES = """
SELECT corpora.name AS corpus, remotes.endpoint, remotes.repository, remotes.commit_id, remotes.is_lazy,
    (SELECT count(*) FROM remote_locations WHERE remote_locations.remote_id = remotes.id) AS adapters,
    (SELECT CAST(coalesce(sum(remote_locations.size_bytes), 0) AS BIGINT) FROM remote_locations
        WHERE remote_locations.remote_id = remotes.id) AS adapters_bytes,
    remotes.pushed_at, remotes.pulled_at
FROM remotes
JOIN corpora ON corpora.id = remotes.corpus_id
"""


def upgrade() -> None:
    """Create the tables of remotes, mark texts as here, show both in views, and index what changed of places."""
    _create_remotes()
    _create_remote_packs()
    _create_remote_locations()
    _create_remote_names()
    # Not as batches: those rebuild a table on SQLite, and lose its check constraints.
    for table, comment in _WITHHELD.items():
        op.add_column(
            table, sa.Column("withheld", sa.Boolean(), nullable=False, server_default=sa.false(), comment=comment)
        )
        op.create_index(
            f"ix_{table}_withheld",
            table,
            ["id"],
            sqlite_where=sa.text("withheld = 1"),
            postgresql_where=sa.text("withheld"),
        )
    for name, column, condition in _PLACES:
        where = sa.text(condition)
        columns = ["corpus_id", column, "document_id"]
        op.create_index(name, "places", columns, sqlite_where=where, postgresql_where=where)
    op.execute("DROP VIEW v_documents")
    op.execute(f"CREATE VIEW v_documents AS {_DOCUMENTS.format(withheld=', documents.withheld')}")
    op.execute(f"CREATE VIEW v_remotes AS {_REMOTES}")


def downgrade() -> None:
    """Undo it; which texts are withheld is forgotten, so those become empty ones."""
    op.execute("DROP VIEW v_remotes")
    op.execute("DROP VIEW v_documents")
    for name, _, _ in _PLACES:
        op.drop_index(name, table_name="places")
    for table in _WITHHELD:
        op.drop_index(f"ix_{table}_withheld", table_name=table)
        op.drop_column(table, "withheld")
    op.execute(f"CREATE VIEW v_documents AS {_DOCUMENTS.format(withheld='')}")
    for table in ("remote_names", "remote_locations", "remote_packs", "remotes"):
        op.drop_table(table)


def _create_remotes() -> None:
    op.create_table(
        "remotes",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("corpus_id", INTEGER, nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False, comment="address of the Hub"),
        sa.Column("repository", sa.Text(), nullable=False, comment="NAMESPACE/NAME"),
        sa.Column("commit_id", sa.Text(), nullable=False, comment="the commit that was seen last"),
        sa.Column("root", sa.Text(), nullable=False, comment="the root manifest at that commit, JSON"),
        sa.Column(
            "is_lazy",
            sa.Boolean(),
            nullable=False,
            comment="whether adapters are left there until they are asked for",
        ),
        sa.Column("pushed_at", MOMENT, nullable=True, comment="null: it was never pushed to from here"),
        sa.Column("pulled_at", MOMENT, nullable=True, comment="null: it was never pulled from here"),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpora.id"], name=op.f("fk_remotes_corpus_id_corpora")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remotes")),
        sa.UniqueConstraint(
            "endpoint", "repository", "corpus_id", name=op.f("uq_remotes_endpoint_repository_corpus_id")
        ),
        comment="Repositories on the Hub that corpora were pushed to or pulled from, as they were seen last.",
    )
    op.create_index(op.f("ix_remotes_corpus_id"), "remotes", ["corpus_id"])


def _create_remote_packs() -> None:
    op.create_table(
        "remote_packs",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("remote_id", INTEGER, nullable=False),
        sa.Column("digest", DIGEST, nullable=False, comment="sha256 of the file, by which it is named there"),
        sa.Column("size_bytes", INTEGER, nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_remote_packs_digest_length")),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_remote_packs_not_empty")),
        sa.ForeignKeyConstraint(["remote_id"], ["remotes.id"], name=op.f("fk_remote_packs_remote_id_remotes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remote_packs")),
        sa.UniqueConstraint("remote_id", "digest", name=op.f("uq_remote_packs_remote_id_digest")),
        comment="Packs that lie in repositories.",
    )


def _create_remote_locations() -> None:
    op.create_table(
        "remote_locations",
        sa.Column("remote_id", INTEGER, nullable=False),
        sa.Column("adapter_id", INTEGER, nullable=False),
        sa.Column("pack_id", INTEGER, nullable=False),
        sa.Column("offset", INTEGER, nullable=False, comment="bytes from the start of the file"),
        sa.Column("size_bytes", INTEGER, nullable=False),
        sa.CheckConstraint('"offset" >= 0 AND size_bytes > 0', name=op.f("ck_remote_locations_range_not_empty")),
        sa.ForeignKeyConstraint(["remote_id"], ["remotes.id"], name=op.f("fk_remote_locations_remote_id_remotes")),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_remote_locations_adapter_id_adapters")),
        sa.ForeignKeyConstraint(
            ["pack_id"], ["remote_packs.id"], name=op.f("fk_remote_locations_pack_id_remote_packs")
        ),
        sa.PrimaryKeyConstraint("remote_id", "adapter_id", name=op.f("pk_remote_locations")),
        comment="Where adapters lie in repositories; one that lies there is not lost.",
    )
    for column in ("adapter_id", "pack_id"):
        op.create_index(op.f(f"ix_remote_locations_{column}"), "remote_locations", [column])


def _create_remote_names() -> None:
    op.create_table(
        "remote_names",
        sa.Column("remote_id", INTEGER, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False, comment="of the file here, without the number of a line"),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="its path there, below the folder that the corpus' files share",
        ),
        sa.ForeignKeyConstraint(["remote_id"], ["remotes.id"], name=op.f("fk_remote_names_remote_id_remotes")),
        sa.PrimaryKeyConstraint("remote_id", "uri", name=op.f("pk_remote_names")),
        comment="What the files that documents came from are called in repositories.",
    )
    op.create_index(op.f("ix_remote_names_remote_id_name"), "remote_names", ["remote_id", "name"])
