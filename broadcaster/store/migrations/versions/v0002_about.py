"""What is said of models and versions beside their user data: descriptions, pins, retention; and which numbers were deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make room for them, and forget which manifests were read: one that a program of this schema wrote before may say more."""
    for table in ("models", "versions"):
        op.add_column(table, sa.Column("description", sa.Text, nullable=False, server_default=""))
    op.add_column("models", sa.Column("retention", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("versions", sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "tombstones",
        sa.Column("model", sa.Integer, sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    for table in ("models", "versions"):
        op.execute(f"UPDATE {table} SET stamp = ''")


def downgrade() -> None:
    """The manifests still know what is dropped here."""
    op.drop_table("tombstones")
    op.drop_column("versions", "pinned")
    op.drop_column("models", "retention")
    for table in ("versions", "models"):
        op.drop_column(table, "description")
