"""Projects, what users say to tasks, and the fair queue. A program of revision 0001 can ignore all of it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("project_id", sa.String(64), primary_key=True),
        sa.Column("weight", sa.Float, nullable=False, server_default=sa.text("1")),
        sa.Column("max_running", sa.Integer),
        sa.Column("max_running_per_user", sa.Integer),
        sa.Column("retention_days", sa.Integer),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("closed_at", sa.DateTime),
        sa.Column("used_s", sa.Float, nullable=False, server_default=sa.text("0")),
        sa.Column("served_at", sa.Float, nullable=False, server_default=sa.text("0")),
    )
    op.execute("INSERT INTO projects (project_id, created_at) VALUES ('default', CURRENT_TIMESTAMP)")
    for name in ("tasks", "runs", "events"):
        op.add_column(name, sa.Column("project_id", sa.String(64), nullable=False, server_default="default"))
    for name in ("tasks", "runs"):
        op.add_column(name, sa.Column("created_by", sa.String(256), nullable=False, server_default="local"))
    op.add_column("tasks", sa.Column("idempotency_key", sa.String(256)))
    op.add_column("tasks", sa.Column("title", sa.JSON(none_as_null=True)))
    op.add_column("tasks", sa.Column("labels", sa.JSON(none_as_null=True)))
    op.add_column("tasks", sa.Column("priority", sa.String(16), nullable=False, server_default="normal"))
    op.add_column("tasks", sa.Column("last_user_seq", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("runs", sa.Column("waiting_on", sa.String(16)))
    for name in ("claimed_at", "due", "idle_since"):
        op.add_column("runs", sa.Column(name, sa.DateTime))
    submitted = "(SELECT created_at FROM tasks WHERE tasks.task_id = runs.task_id)"
    op.execute(f"UPDATE runs SET due = {submitted}, idle_since = {submitted}")  # noqa: S608
    op.execute("UPDATE runs SET claimed_at = lease_until WHERE lease_until IS NOT NULL")
    op.create_index("tasks_by_project", "tasks", ["project_id", "position"])
    op.create_index("tasks_by_idempotency_key", "tasks", ["project_id", "idempotency_key"], unique=True)
    op.create_index("runs_by_project", "runs", ["project_id", "status", "due"])
    _add_identities()
    op.execute("DROP TABLE IF EXISTS schema_version")


def _add_identities() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.project_id"), nullable=False, index=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_by", sa.String(256), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime),
        sa.Column("revoked_at", sa.DateTime),
        sa.Column("last_used_at", sa.DateTime),
    )
    op.create_table(
        "project_secrets",
        sa.Column("project_id", sa.String(64), sa.ForeignKey("projects.project_id"), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("updated_by", sa.String(256), nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "audit_log",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("project_id", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("action", sa.String(200), nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_log_by_project", "audit_log", ["project_id", "position"])
