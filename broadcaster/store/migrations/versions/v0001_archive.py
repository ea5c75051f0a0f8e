"""The first schema: models, their archived versions, and the numbers that were handed out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table("meta", sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.BigInteger, nullable=False))
    op.create_table(
        "floors",
        sa.Column("namespace", sa.String(128), primary_key=True),
        sa.Column("model_id", sa.String(128), primary_key=True),
        sa.Column("ceiling", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String(64), nullable=False, unique=True),
        sa.Column("namespace", sa.String(128), nullable=False),
        sa.Column("model_id", sa.String(128), nullable=False),
        sa.Column("creation_timestamp", sa.BigInteger, nullable=False),
        sa.Column("user_data", sa.JSON, nullable=False),
        sa.Column("stamp", sa.String(80), nullable=False),
        sa.UniqueConstraint("namespace", "model_id"),
    )
    op.create_table(
        "versions",
        sa.Column("model", sa.Integer, sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, index=True),
        sa.Column("creation_timestamp", sa.BigInteger, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("user_data", sa.JSON, nullable=False),
        sa.Column("upload_id", sa.LargeBinary, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("chunk_size", sa.BigInteger, nullable=False),
        sa.Column("chunk_digests", sa.LargeBinary, nullable=False),
        sa.Column("stamp", sa.String(80), nullable=False),
    )
    op.create_table("metrics", *_owner(), sa.Column("value", sa.Double, nullable=True))
    op.create_table("tags", *_owner(), sa.Column("value", sa.Text, nullable=False))
    op.create_table(
        "aliases",
        sa.Column("model", sa.Integer, sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop all tables: the manifests still know everything that was in them."""
    for table in ("aliases", "tags", "metrics", "versions", "models", "floors", "meta"):
        op.drop_table(table)


def _owner() -> list[sa.Column[object]]:
    # Number 0 is the model itself.
    return [
        sa.Column("model", sa.Integer, sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, primary_key=True),
    ]
