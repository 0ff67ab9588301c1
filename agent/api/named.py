"""What a project has by name and REST makes, changes and forgets in one way: skills and servers of tools."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, TypeVar

from pydantic import BaseModel

from agent.api.context import Context
from agent.api.problems import Problem
from agent.store.named import Named

_Settings = TypeVar("_Settings", bound=BaseModel)
_Record = TypeVar("_Record", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Shelf(Generic[_Settings, _Record]):
    """Things of one kind, of the caller's project."""

    what: str
    """In a sentence, such as ``skill``; also in the codes of problems."""
    path: str
    most: int
    """So many a project may have."""
    kept: Callable[[Context], Named[_Settings, _Record]]

    async def create(self, shared: Context, name: str, settings: _Settings) -> _Record:
        """
        Raises:
            Problem: 409, there is one of this name already, or too many.
        """
        project, subject = shared.principal.project_id, shared.principal.subject
        if await self.kept(shared).count(project) >= self.most:
            raise Problem(
                HTTPStatus.CONFLICT,
                f"too_many_{self._code}s",
                f"The project has {self.most} {self.what}s, and may have no more.",
                remedy="Delete one that is of no use.",
            )
        made = await self.kept(shared).create(project, name, settings, updated_by=subject)
        if made is None:
            raise Problem(
                HTTPStatus.CONFLICT,
                f"{self._code}_exists",
                f"The project has a {self.what} {name} already.",
                remedy=f"Choose another name, or change it: PUT {self.path}/{name}.",
            )
        return made

    async def replace(self, shared: Context, name: str, settings: _Settings) -> _Record:
        """
        Raises:
            Problem: 404.
        """
        project, subject = shared.principal.project_id, shared.principal.subject
        replaced = await self.kept(shared).replace(project, name, settings, updated_by=subject)
        if replaced is None:
            raise self._unknown(name)
        return replaced

    async def find(self, shared: Context, name: str) -> _Record:
        """
        Raises:
            Problem: 404.
        """
        found = await self.kept(shared).get(shared.principal.project_id, name)
        if found is None:
            raise self._unknown(name)
        return found

    async def delete(self, shared: Context, name: str) -> None:
        """
        Raises:
            Problem: 404.
        """
        await self.find(shared, name)
        await self.kept(shared).delete(shared.principal.project_id, name)

    @property
    def _code(self) -> str:
        return self.what.lower().replace(" ", "_")

    def _unknown(self, name: str) -> Problem:
        return Problem(
            HTTPStatus.NOT_FOUND,
            f"unknown_{self._code}",
            f"The project has no {self.what} {name[:100]!r}.",
            remedy=f"GET {self.path} lists those it has.",
        )
