"""What projects and users may spend. A program of revision 0007 does not hold anybody to it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for name in ("daily_cost", "daily_cost_per_user", "monthly_cost", "monthly_cost_per_user"):
        op.add_column("projects", sa.Column(name, sa.Float))
