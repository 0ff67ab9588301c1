"""Where a page ends, for who asks for the next one: sealed, as the place itself says how much the whole service has."""

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from agent.errors import InvalidCursor
from agent.store.database import Database
from agent.store.tables import projects


async def seal_cursor(database: Database, project_id: str, position: int) -> str:
    """Text that says nothing, and is of use in this project only."""
    from cryptography.fernet import Fernet  # Slow to import, and most commands turn no page.

    return Fernet(await _key(database, project_id)).encrypt(str(position).encode()).decode("ascii")


async def open_cursor(database: Database, project_id: str, cursor: str) -> int:
    """
    Raises:
        InvalidCursor: no page of the project ended in it.
    """
    from cryptography.fernet import Fernet, InvalidToken

    try:
        return int(Fernet(await _key(database, project_id)).decrypt(cursor.encode()))
    except InvalidToken as error:
        raise InvalidCursor(f"not a cursor of this project: {cursor[:64]!r}") from error


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
