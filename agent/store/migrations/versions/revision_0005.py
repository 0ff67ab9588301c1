"""Repositories on git hosts. A program of revision 0004 can ignore them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "repos",
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.project_id"), primary_key=True),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("updated_by", sa.String(256), nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
    )
