"""What a project has by name, such as repositories and skills: a row each, with its settings."""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import RowMapping, Table, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from agent.store.database import Database, whole
from agent.stored import stored

_Settings = TypeVar("_Settings", bound=BaseModel)
_Record = TypeVar("_Record", bound=BaseModel)


class Named(Generic[_Settings, _Record]):
    """Of all projects; every call names one."""

    def __init__(self, database: Database, table: Table, settings: type[_Settings], record: type[_Record]) -> None:
        """
        Args:
            table: with ``project_id``, ``name``, ``settings``, ``updated_by`` and ``updated_at``.
            record: the settings, and the last three.
        """
        self.database = database
        self._table = table
        self._settings = settings
        self._record = record

    @whole
    async def create(self, project_id: str, name: str, settings: _Settings, *, updated_by: str) -> _Record | None:
        """None where the project has one of this name already."""
        try:
            async with self.database.writing() as transaction:
                values = self._values(settings, updated_by, transaction.now)
                await transaction.db.execute(
                    insert(self._table).values({"project_id": project_id, "name": name, **values})
                )
        except IntegrityError:
            return None
        return self._read({"name": name, **values})

    @whole
    async def replace(self, project_id: str, name: str, settings: _Settings, *, updated_by: str) -> _Record | None:
        """None where the project has none of this name."""
        its = (self._table.c.project_id == project_id, self._table.c.name == name)
        async with self.database.writing() as transaction:
            values = self._values(settings, updated_by, transaction.now)
            done = await transaction.db.execute(update(self._table).where(*its).values(values))
        return self._read({"name": name, **values}) if done.rowcount else None

    @whole
    async def get(self, project_id: str, name: str) -> _Record | None:
        query = select(self._table).where(self._table.c.project_id == project_id, self._table.c.name == name)
        async with self.database.reading() as db:
            row = (await db.execute(query)).mappings().first()
        return None if row is None else self._read(row)

    @whole
    async def all(self, project_id: str) -> tuple[_Record, ...]:
        """Those of a project, by name."""
        query = select(self._table).where(self._table.c.project_id == project_id).order_by(self._table.c.name)
        async with self.database.reading() as db:
            return tuple(map(self._read, (await db.execute(query)).mappings()))

    @whole
    async def count(self, project_id: str) -> int:
        query = select(func.count()).select_from(self._table).where(self._table.c.project_id == project_id)
        async with self.database.reading() as db:
            return (await db.execute(query)).scalar_one()

    @whole
    async def delete(self, project_id: str, name: str) -> bool:
        """Whether there was one."""
        its = (self._table.c.project_id == project_id, self._table.c.name == name)
        async with self.database.writing() as transaction:
            gone = await transaction.db.execute(delete(self._table).where(*its))
        return gone.rowcount > 0

    def _values(self, settings: _Settings, updated_by: str, updated_at: datetime) -> dict[str, Any]:
        dumped = settings.model_dump(mode="json", include=set(self._settings.model_fields), exclude_defaults=True)
        return {"settings": dumped, "updated_by": updated_by, "updated_at": updated_at}

    def _read(self, row: RowMapping | dict[str, Any]) -> _Record:
        """
        Raises:
            StoreTooNew: it has what this release does not know.
        """
        others = {name: row[name] for name in ("name", "updated_by", "updated_at")}
        return stored(self._record, f"{row['name']!r} of {self._table.name}", row["settings"] | others)
