"""Schedules and evaluations. A program of revision 0006 can ignore them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("schedule_id", sa.String(64), primary_key=True),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.project_id"), nullable=False, index=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("cron", sa.String(200), nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("task", sa.JSON, nullable=False),
        sa.Column("any_path", sa.Boolean, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("next_run_at", sa.DateTime),
        sa.Column("taken_until", sa.DateTime),
        sa.Column("last_run_at", sa.DateTime),
        sa.Column("last_task_id", sa.String(64)),
        sa.Column("last_error", sa.Text),
        sa.Column("created_by", sa.String(256), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_index("schedules_by_next_run", "schedules", ["next_run_at"])
    op.create_table(
        "evals",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("eval_id", sa.String(64), nullable=False, unique=True),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.project_id"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("suite", sa.String(100)),
        sa.Column("num_tasks", sa.Integer, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.String(256), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("evals_by_project", "evals", ["project_id", "position"])
    op.add_column("tasks", sa.Column("eval_id", sa.String(64)))
    op.create_index("tasks_by_eval", "tasks", ["eval_id", "position"])
