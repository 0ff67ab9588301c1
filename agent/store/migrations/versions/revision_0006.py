"""What projects and users may use a day. A program of revision 0005 does not hold anybody to it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for name in ("daily_tokens", "daily_tokens_per_user"):
        op.add_column("projects", sa.Column(name, sa.BigInteger))
