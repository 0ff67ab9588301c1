"""What a fork began with, which another run had spent; an index goes that no program since revision 0012 looks at. A
program of the revision before counts what it forks as if the fork had spent that too."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("runs", sa.Column("copied_steps", sa.Integer))
    op.add_column("runs", sa.Column("copied_usage", sa.JSON))
    op.drop_index("runs_by_end", "runs")
