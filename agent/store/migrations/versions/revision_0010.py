"""Runs in the background, and an index over when runs ended. A program of the revision before
serves background runs as if they were others."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("runs", sa.Column("background", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("projects", sa.Column("passed_over", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.create_index("runs_by_end", "runs", ["project_id", "finished_at"])
