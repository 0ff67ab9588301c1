"""The tables of the SQL store. ``SCHEMA_VERSION`` rises with every change of them."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

SCHEMA_VERSION = 1


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored as UTC: SQLite keeps no zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData()

schema = Table("schema_version", metadata, Column("version", Integer, nullable=False))

tasks = Table(
    "tasks",
    metadata,
    # The order of submission: the queue and the pages follow it.
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("task_id", String(64), nullable=False, unique=True),
    Column("request", JSON, nullable=False),
    Column("status", String(32), nullable=False),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("last_seq", Integer, nullable=False, default=0),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Index("tasks_by_status", "status", "position"),
    # Without this SQLite may give the position of a deleted task to a new one.
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(64), nullable=False, unique=True),
    Column("task_id", String(64), ForeignKey("tasks.task_id"), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("status", String(32), nullable=False),
    Column("generation", Integer, nullable=False, default=0),
    Column("lease_until", UtcDateTime),
    Column("stop_reason", String(32)),
    Column("verdict", JSON(none_as_null=True)),
    Column("patch", Text, nullable=False, default=""),
    Column("steps", Integer, nullable=False, default=0),
    Column("usage", JSON, nullable=False),
    Column("error", Text),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Index("runs_by_status", "status", "position"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("task_id", String(64), ForeignKey("tasks.task_id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("run_id", String(64), index=True),
    Column("generation", Integer, nullable=False),
    Column("type", String(64), nullable=False),
    Column("body", JSON, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
