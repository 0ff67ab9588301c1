"""What projects and users may spend, and what a project gives its agents. A program of revision 0007 does not hold
anybody to it, and ignores the rest."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for name in ("daily_cost", "daily_cost_per_user", "monthly_cost", "monthly_cost_per_user"):
        op.add_column("projects", sa.Column(name, sa.Float))
    for table in ("skills", "mcp_servers"):
        op.create_table(
            table,
            sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.project_id"), primary_key=True),
            sa.Column("name", sa.String(64), primary_key=True),
            sa.Column("settings", sa.JSON, nullable=False),
            sa.Column("updated_by", sa.String(256), nullable=False),
            sa.Column("updated_at", sa.DateTime, nullable=False),
        )
