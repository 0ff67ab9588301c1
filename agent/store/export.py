"""Everything that a project has, for its users to take with them."""

import base64
import json
from collections.abc import AsyncIterator

from pydantic import BaseModel
from sqlalchemy import and_, select

from agent.store.artifacts import Artifacts, holds_tokens
from agent.store.database import Database
from agent.store.evals import Evals
from agent.store.identity import Identities
from agent.store.mcp_servers import ProjectMcpServers
from agent.store.reasoning import hidden, hidden_request
from agent.store.repos import Repos
from agent.store.rows import read_events, read_project, read_runs, task_record
from agent.store.schedules import Schedules
from agent.store.skills import ProjectSkills
from agent.store.tables import events, runs, tasks
from agent.store.webhooks import Webhooks

_PAGE = 100


class Export:
    """Of one project, one JSON object a line, whose only key says what it is."""

    def __init__(self, database: Database, project_id: str, kept: Artifacts | None = None) -> None:
        """
        Args:
            kept: the artifacts; None where none are kept.
        """
        self._database = database
        self._project_id = project_id
        self._kept = kept

    async def lines(self, *, reasoning: bool = False) -> AsyncIterator[str]:
        """``project`` and what it has set up; each ``task`` with every ``event`` and ``artifact``, whose ``content`` is
        its bytes in base 64; and every ``deed`` of the audit log. Of keys and secrets there is all but what they are.

        Args:
            reasoning: with what the model thought, opened.

        Raises:
            UnknownProject: there is no such project.
        """
        async with self._database.reading() as db:
            yield _line("project", await read_project(db, self._project_id))
        async for line in self._settings():
            yield line
        async for line in self._tasks(reasoning):
            yield line
        async for line in self._deeds():
            yield line

    async def _settings(self) -> AsyncIterator[str]:
        database, project_id = self._database, self._project_id
        identities = Identities(database)
        found: dict[str, tuple[BaseModel, ...]] = {
            "api_key": await identities.keys(project_id),
            "secret": await identities.secrets(project_id),
            "repo": await Repos(database).all(project_id),
            "skill": await ProjectSkills(database).all(project_id),
            "mcp_server": await ProjectMcpServers(database).all(project_id),
            "webhook": await Webhooks(database).all(project_id),
            "schedule": await Schedules(database).all(project_id),
        }
        for kind, records in found.items():
            for record in records:
                yield _line(kind, record)
        cursor = None
        while True:
            evaluations, cursor = await Evals(database).all(project_id, cursor=cursor, limit=_PAGE)
            for evaluation in evaluations:
                yield _line("eval", evaluation)
            if cursor is None:
                return

    async def _tasks(self, reasoning: bool) -> AsyncIterator[str]:
        position = 0
        while True:
            query = select(tasks).where(tasks.c.project_id == self._project_id, tasks.c.position > position)
            async with self._database.reading() as db:
                rows = (await db.execute(query.order_by(tasks.c.position).limit(_PAGE))).mappings().all()
                owned = await read_runs(db, runs.c.task_id.in_([row["task_id"] for row in rows]))
            for row in rows:
                record = task_record(row, owned[row["task_id"]])
                # What was thought in the conversation before it is in its first event, if it is wanted.
                record = record.model_copy(update={"request": hidden_request(record.request)})
                yield _line("task", record)
                async for line in self._log(record.id, reasoning):
                    yield line
                async for line in self._artifacts(record.id, reasoning):
                    yield line
            if not rows:
                return
            position = rows[-1]["position"]

    async def _log(self, task_id: str, reasoning: bool) -> AsyncIterator[str]:
        after = 0
        while True:
            async with self._database.reading() as db:
                page = await read_events(db, and_(events.c.task_id == task_id, events.c.seq > after), _PAGE)
            for event in page:
                after = event.seq
                yield _line("event", event if reasoning else hidden(event))
            if not page:
                return

    async def _artifacts(self, task_id: str, reasoning: bool) -> AsyncIterator[str]:
        if self._kept is None:
            return
        for artifact in await self._kept.of_task(self._project_id, task_id):
            if holds_tokens(artifact.name) and not reasoning:
                continue
            pieces = [piece async for piece in self._kept.read(self._project_id, task_id, artifact)]
            content = base64.b64encode(b"".join(pieces)).decode()
            yield json.dumps({"artifact": artifact.model_dump(mode="json") | {"content": content}})

    async def _deeds(self) -> AsyncIterator[str]:
        """Newest first."""
        cursor = None
        while True:
            page = await Identities(self._database).audit(self._project_id, cursor=cursor, limit=_PAGE)
            for entry in page.entries:
                yield _line("deed", entry)
            cursor = page.next_cursor
            if cursor is None:
                return


def _line(kind: str, record: BaseModel) -> str:
    return json.dumps({kind: record.model_dump(mode="json")})
