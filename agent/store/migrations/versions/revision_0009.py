"""What a schedule does while its last task is not over. A program of revision 0008 does not wait for it, as before."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("schedules", sa.Column("overlap", sa.String(16), nullable=False, server_default="allow"))
    op.add_column("schedules", sa.Column("last_skipped_at", sa.DateTime))
