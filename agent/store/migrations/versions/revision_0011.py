"""Artifacts that are sealed, keys of page cursors, and an index over when messages of webhooks were written. A program
of the revision before seals no artifact, and cannot read one that is; its cursors are others."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("artifacts", sa.Column("sealed_size", sa.BigInteger))
    op.add_column("projects", sa.Column("cursor_key", sa.LargeBinary))
    op.create_index("webhook_deliveries_by_creation", "webhook_deliveries", ["created_at"])
