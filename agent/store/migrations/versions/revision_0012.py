"""Sums of what ended runs used, by day. A program of the revision before adds nothing to them: what it ends is read run
by run, as what ended before this revision, until a worker of this one adds it."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("runs", sa.Column("summed_at", sa.DateTime))
    not_summed = sa.text("summed_at IS NULL")
    op.create_index(
        "runs_not_summed",
        "runs",
        ["project_id", "finished_at"],
        sqlite_where=not_summed,
        postgresql_where=not_summed,
    )
    op.create_table(
        "used_by_day",
        sa.Column("project_id", sa.String(64), primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("created_by", sa.String(256), primary_key=True),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    )
