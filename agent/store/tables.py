"""The tables of the SQL store. What makes and changes them is in ``migrations``; a test holds the two equal."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)
from sqlalchemy.types import TypeDecorator

from agent.identity import DEFAULT_PROJECT
from agent.types import Usage


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored as UTC: SQLite keeps no zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


ANY_TEXT = Text().with_variant(JSON(none_as_null=True), "postgresql")
"""Text with any character: Postgres has no U+0000, except written as JSON."""

metadata = MetaData()


def _project() -> Column[str]:
    """Whose row it is. Rows of a program that knew no projects are the default project's."""
    return Column("project_id", String(64), nullable=False, server_default=DEFAULT_PROJECT)


projects = Table(
    "projects",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("weight", Float, nullable=False, server_default=text("1")),
    Column("max_running", Integer),
    Column("max_running_per_user", Integer),
    Column("daily_tokens", BigInteger),
    Column("daily_tokens_per_user", BigInteger),
    Column("daily_cost", Float),
    Column("daily_cost_per_user", Float),
    Column("monthly_cost", Float),
    Column("monthly_cost_per_user", Float),
    Column("retention_days", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    # Since when nobody may act in it; null while it is open.
    Column("closed_at", UtcDateTime),
    # Seals what pages tell of where they end, see cursors.py; made with the first page.
    Column("cursor_key", LargeBinary),
    # The account of the fair queue, see queue.py: seconds of worker time charged, the share when last served, and the
    # turns for which background runs waited.
    Column("used_s", Float, nullable=False, server_default=text("0")),
    Column("served_at", Float, nullable=False, server_default=text("0")),
    Column("passed_over", Integer, nullable=False, server_default=text("0")),
)

tasks = Table(
    "tasks",
    metadata,
    # The order of submission: the pages follow it.
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("task_id", String(64), nullable=False, unique=True),
    _project(),
    Column("created_by", String(256), nullable=False, server_default="local"),
    Column("idempotency_key", String(256)),
    Column("request", JSON, nullable=False),
    # What the user changed since, see task.updated; null is what the request says.
    Column("title", JSON(none_as_null=True)),
    Column("labels", JSON(none_as_null=True)),
    Column("priority", String(16), nullable=False, server_default="normal"),
    Column("status", String(32), nullable=False),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("last_seq", Integer, nullable=False, default=0),
    # Newest event of the user: a worker that has seen it need not read the log.
    Column("last_user_seq", Integer, nullable=False, server_default=text("0")),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    # The run that a user or the selection chose; null leaves it to the rule, see base.select.
    Column("selected_run", String(64)),
    # The evaluation it is part of.
    Column("eval_id", String(64)),
    Index("tasks_by_status", "status", "position"),
    Index("tasks_by_project", "project_id", "position"),
    Index("tasks_by_idempotency_key", "project_id", "idempotency_key", unique=True),
    Index("tasks_by_eval", "eval_id", "position"),
    # Without this SQLite may give the position of a deleted task to a new one.
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(64), nullable=False, unique=True),
    Column("task_id", String(64), ForeignKey("tasks.task_id"), nullable=False, index=True),
    _project(),
    Column("created_by", String(256), nullable=False, server_default="local"),
    Column("attempt", Integer, nullable=False),
    Column("status", String(32), nullable=False),
    Column("waiting_on", String(16)),
    Column("generation", Integer, nullable=False, default=0),
    Column("lease_until", UtcDateTime),
    # When the worker that has it claimed it; null while nobody has.
    Column("claimed_at", UtcDateTime),
    # Its place among the runs of its project: time of submission, less the head start of its priority.
    Column("due", UtcDateTime),
    Column("background", Boolean, nullable=False, server_default=false()),
    # Since when it is queued or waits.
    Column("idle_since", UtcDateTime),
    Column("stop_reason", String(32)),
    Column("verdict", JSON(none_as_null=True)),
    Column("patch", ANY_TEXT, nullable=False, default=""),
    Column("steps", Integer, nullable=False, default=0),
    Column("usage", JSON, nullable=False),
    # How many of the steps, and how much of the usage, a fork began with; null for other runs.
    Column("copied_steps", Integer),
    Column("copied_usage", JSON(none_as_null=True)),
    Column("error", ANY_TEXT),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    # When what it used went into used_by_day; null while it has not.
    Column("summed_at", UtcDateTime),
    Index("runs_by_status", "status", "position"),
    Index("runs_by_project", "project_id", "status", "due"),
    Index(
        "runs_not_summed",
        "project_id",
        "finished_at",
        sqlite_where=text("summed_at IS NULL"),
        postgresql_where=text("summed_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)

# What ended runs used, by the day of their end in UTC, see spending.py.

used_by_day = Table(
    "used_by_day",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("created_by", String(256), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in Usage.model_fields),
)

events = Table(
    "events",
    metadata,
    Column("task_id", String(64), ForeignKey("tasks.task_id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    _project(),
    Column("run_id", String(64), index=True),
    Column("generation", Integer, nullable=False),
    Column("type", String(64), nullable=False),
    Column("body", JSON, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

# What runs leave beside their events, see artifacts.py.

artifacts = Table(
    "artifacts",
    metadata,
    Column("task_id", String(64), ForeignKey("tasks.task_id"), primary_key=True),
    Column("name", String(512), primary_key=True),
    _project(),
    Column("run_id", String(64), nullable=False),
    Column("media_type", String(128), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    # Bytes that are stored in place of it; null where it is stored as it is.
    Column("sealed_size", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
)

# What the service knows of its callers, see identity.py.

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("project_id", String(64), ForeignKey("projects.project_id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_by", String(256), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
)

project_secrets = Table(
    "project_secrets",
    metadata,
    Column("project_id", String(64), ForeignKey("projects.project_id"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("updated_by", String(256), nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

# What it has by name, see named.py.


def _by_name(table: str, name_length: int) -> Table:
    return Table(
        table,
        metadata,
        Column("project_id", String(64), ForeignKey("projects.project_id"), primary_key=True),
        Column("name", String(name_length), primary_key=True),
        Column("settings", JSON, nullable=False),
        Column("updated_by", String(256), nullable=False),
        Column("updated_at", UtcDateTime, nullable=False),
    )


# Where its code is, see repos.py.

repos = _by_name("repos", 100)

# What its agents learn when they need it, and whose tools they may call, see skills.py and mcp_servers.py.

skills = _by_name("skills", 64)

mcp_servers = _by_name("mcp_servers", 64)

audit_log = Table(
    "audit_log",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    # No reference: what was done in a project is known also when the project is gone.
    Column("project_id", String(64), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("action", String(200), nullable=False),
    Column("target", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("request_id", String(64), nullable=False),
    Index("audit_log_by_project", "project_id", "position"),
    sqlite_autoincrement=True,
)

# Whom the service tells of what, see webhooks.py.

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", String(64), primary_key=True),
    Column("project_id", String(64), ForeignKey("projects.project_id"), nullable=False, index=True),
    Column("url", Text, nullable=False),
    Column("events", JSON, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("sealed", Boolean, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_by", String(256), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("delivery_id", String(64), nullable=False, unique=True),
    Column("webhook_id", String(64), ForeignKey("webhooks.webhook_id"), nullable=False),
    Column("type", String(64), nullable=False),
    Column("body", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # When it is tried next; null when it is not. While a sender has it, when another may take it.
    Column("due", UtcDateTime),
    Column("num_tries", Integer, nullable=False),
    Column("tries", JSON, nullable=False),
    Index("webhook_deliveries_by_webhook", "webhook_id", "position"),
    Index("webhook_deliveries_by_due", "due"),
    Index("webhook_deliveries_by_creation", "created_at"),
    sqlite_autoincrement=True,
)

# What is submitted again and again, see schedules.py.

schedules = Table(
    "schedules",
    metadata,
    Column("schedule_id", String(64), primary_key=True),
    Column("project_id", String(64), ForeignKey("projects.project_id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("cron", String(200), nullable=False),
    Column("time_zone", String(64), nullable=False),
    Column("task", JSON, nullable=False),
    # Whether who gave the task may take any path of the service's machine.
    Column("any_path", Boolean, nullable=False),
    Column("enabled", Boolean, nullable=False),
    # When it is due; null while it is off.
    Column("next_run_at", UtcDateTime),
    # Until then the task that is due is being looked at by one process.
    Column("taken_until", UtcDateTime),
    Column("last_run_at", UtcDateTime),
    Column("last_task_id", String(64)),
    Column("last_error", Text),
    # What happens while the last task is not over; rows of before revision 0009 do not wait for it.
    Column("overlap", String(16), nullable=False, server_default=text("'allow'")),
    Column("last_skipped_at", UtcDateTime),
    Column("created_by", String(256), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("schedules_by_next_run", "next_run_at"),
)

# Tasks that are counted together, see evals.py.

evals = Table(
    "evals",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("eval_id", String(64), nullable=False, unique=True),
    Column("project_id", String(64), ForeignKey("projects.project_id"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("suite", String(100)),
    Column("num_tasks", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("created_by", String(256), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("evals_by_project", "project_id", "position"),
    sqlite_autoincrement=True,
)

# Answers to requests that came with a key of their own, see idempotency.py.

idempotent_answers = Table(
    "idempotent_answers",
    metadata,
    Column("project_id", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    # The task that the answer is about: the key lives as long as it does.
    Column("task_id", String(64), index=True),
    Column("status", Integer),
    Column("location", Text),
    Column("body", Text),
    Column("at", UtcDateTime, nullable=False),
)
