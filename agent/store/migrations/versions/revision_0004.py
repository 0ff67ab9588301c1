"""Artifacts, and the run of a task that was chosen. A program of revision 0003 can ignore them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("selected_run", sa.String(64)))
    op.create_table(
        "artifacts",
        sa.Column("task_id", sa.String(64), sa.ForeignKey("tasks.task_id"), primary_key=True),
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("project_id", sa.String(64), nullable=False, server_default="default"),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(128), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
