"""Pages of a project's rows, newest first. Where one ends, for who asks for the next, is sealed: the place itself would
say how much the whole service has.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, RowMapping, Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from agent.errors import InvalidCursor
from agent.store.database import Database
from agent.store.tables import projects


async def page_of(
    database: Database, project_id: str, query: Select[Any], position: Column[int], cursor: str | None, limit: int
) -> tuple[Sequence[RowMapping], str | None]:
    """Rows of the project, from where the cursor says, and the cursor of the next page; None at the end.

    Args:
        position: what the rows are in the order of.

    Raises:
        InvalidCursor: no such page of the project ended in it.
    """
    if cursor is not None:
        query = query.where(position < await _opened(database, project_id, position, cursor))
    async with database.reading() as db:
        rows = (await db.execute(query.order_by(position.desc()).limit(limit + 1))).mappings().all()
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], await _sealed(database, project_id, position, rows[limit - 1][position.name])


async def _sealed(database: Database, project_id: str, position: Column[int], value: int) -> str:
    """Text that says nothing, and is of use in this project and for these rows only."""
    from cryptography.fernet import Fernet  # Slow to import, and most commands turn no page.

    text = f"{position.table.name} {value}"
    return Fernet(await _key(database, project_id)).encrypt(text.encode()).decode("ascii")


async def _opened(database: Database, project_id: str, position: Column[int], cursor: str) -> int:
    from cryptography.fernet import Fernet, InvalidToken

    try:
        table, _, value = Fernet(await _key(database, project_id)).decrypt(cursor.encode()).decode().partition(" ")
    except InvalidToken as error:
        raise InvalidCursor(f"not a cursor of this project: {cursor[:64]!r}") from error
    if table != position.table.name:
        raise InvalidCursor(f"a cursor of {table}, not of {position.table.name}")
    return int(value)


async def _key(database: Database, project_id: str) -> bytes:
    """The project's own, made when it is first asked for.

    Raises:
        InvalidCursor: there is no such project.
    """
    from cryptography.fernet import Fernet

    async with database.reading() as db:
        key = await _known(db, project_id)
    if key is not None:
        return key
    unset = update(projects).where(projects.c.project_id == project_id, projects.c.cursor_key.is_(None))
    async with database.writing() as transaction:
        await transaction.db.execute(unset.values(cursor_key=Fernet.generate_key()))
        key = await _known(transaction.db, project_id)
    if key is None:
        raise InvalidCursor(f"no project {project_id}")
    return key


async def _known(db: AsyncConnection, project_id: str) -> bytes | None:
    query = select(projects.c.cursor_key).where(projects.c.project_id == project_id)
    key: bytes | None = (await db.execute(query)).scalar()
    return key
