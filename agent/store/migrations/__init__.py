"""How the tables came to be, one revision a file; ``upgrade`` brings a database to the newest.

A revision first expands: it adds what the program before it can ignore, so that programs of two neighbouring releases
work on one database. What nobody uses any more is removed by a later revision. A program therefore opens a database
that is one revision ahead of it.
"""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from agent.errors import StoreError
from agent.store.tables import metadata

HEAD = "0013"
"""The newest revision; a number, one more each time."""

_FOLDER = Path(__file__).parent


def revision_of(connection: Connection) -> str | None:
    """The revision of a database; None where it has no tables of ours.

    Raises:
        StoreError: its tables are of a program before the first release.
    """
    names = set(inspect(connection).get_table_names())
    if "alembic_version" in names:
        found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return found
    if "schema_version" in names:
        version = connection.execute(text("SELECT version FROM schema_version")).scalar()
        if version not in (None, 1):
            raise StoreError(f"the database has schema version {version}, which this program does not know")
        return "0001"
    return None


def create(connection: Connection) -> None:
    """Make the tables of the newest revision in an empty database; what :func:`upgrade` makes of it, without steps."""
    metadata.create_all(connection)
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
    _add_default_project(connection)


def upgrade(connection: Connection, revision: str = HEAD) -> None:
    """Bring the database to a revision, in the caller's transaction."""
    # Slow to import, and seldom needed.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER))
    if revision_of(connection) == "0001" and not inspect(connection).has_table("alembic_version"):
        command.stamp(config, "0001")
    command.upgrade(config, revision)


def check_newer(revision: str) -> None:
    """
    Raises:
        StoreError: the revision is more than one ahead of this program.
    """
    if int(revision) > int(HEAD) + 1:
        raise StoreError(f"schema revision {revision}, this program reads {HEAD}; use the program that wrote it")


def _add_default_project(connection: Connection) -> None:
    connection.execute(text("INSERT INTO projects (project_id, created_at) VALUES ('default', CURRENT_TIMESTAMP)"))
