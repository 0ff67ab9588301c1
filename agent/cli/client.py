"""Client of the REST API, as far as ``mimo task`` needs it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar, cast, overload
from urllib.parse import quote

import anyio
import httpx
import httpx_sse
from pydantic import BaseModel, ValidationError

from agent.api.access import LoginOffer, Me
from agent.api.schemas import (
    DRAFT,
    LAST_EVENT,
    STREAM_NOTES,
    CheckpointList,
    DiffView,
    DraftView,
    EventPage,
    EventView,
    MessageText,
    MessageView,
    RewindPoint,
    TaskList,
    TaskView,
)
from agent.client import operations
from agent.types import Status, TaskRequest

_GIVE_UP_AFTER = 30
"""Reconnections in a row that bring no event, before the service counts as gone."""


class ServiceUnreachable(Exception):
    """Nobody answers at the service's address."""

    remedy = "start a service with 'mimo serve', or name another one with --server or MIMO_SERVER_URL"


@dataclass(frozen=True, slots=True)
class FieldProblem:
    where: str
    detail: str


class ServiceProblem(Exception):
    """The service refused; carries what its problem document says."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        self.status = status
        self.code = str(document.get("code", "unknown"))
        self.detail = str(document.get("detail", f"HTTP {status}"))
        self.remedy = str(document.get("remedy", ""))
        self.request_id = str(document.get("request_id", ""))
        self.errors = tuple(
            FieldProblem(str(error.get("pointer") or error.get("parameter", "")), str(error.get("detail", "")))
            for error in document.get("errors", ())
        )
        super().__init__(self.detail)

    @property
    def retryable(self) -> bool:
        return self.status >= 500 or self.status == 429


class _SawTheEnd(Exception):
    """There is nothing to stream: the task ended, and we have its last event."""


_T = TypeVar("_T", bound=BaseModel)


class Client:
    """One service. Use in ``async with``."""

    def __init__(self, server: str, *, api_key: str | None = None, reconnect_s: float = 1.0) -> None:
        self._reconnect_s = reconnect_s
        self._server = server.rstrip("/")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        # trust_env: a proxy set for the outside must not see a loopback service's traffic.
        self._http = httpx.AsyncClient(base_url=self._server, headers=headers, timeout=30.0, trust_env=False)
        self._api = operations.Operations(self._operate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def submit(self, request: TaskRequest) -> TaskView:
        """Queue a task, with what its problem looks like where it is a :class:`agent.api.schemas.NewTask`."""
        body = cast(operations.NewTask, _body(request))
        return await self._shown(TaskView, self._api.submit(body))

    async def list(self, *, status: Status | None = None, cursor: str | None = None, limit: int = 20) -> TaskList:
        given: operations.Status | None = status.value if status else None
        return await self._shown(TaskList, self._api.list_tasks(status=given, cursor=cursor, limit=limit))

    async def show(self, task_id: str) -> TaskView:
        """With what a benchmark's task looked at."""
        return await self._shown(TaskView, self._api.show_task(task_id, expand="mining"))

    async def diff(self, task_id: str) -> DiffView:
        return await self._shown(DiffView, self._api.show_diff(task_id))

    async def run_diff(self, task_id: str, run_id: str) -> DiffView:
        return await self._shown(DiffView, self._api.read_run_diff(task_id, run_id))

    async def events(self, task_id: str, *, after: int = 0) -> EventPage:
        return await self._shown(EventPage, self._api.read_events(task_id, after=after, limit=1000))

    async def cancel(self, task_id: str) -> TaskView:
        return await self._shown(TaskView, self._api.cancel(task_id))

    async def pause(self, task_id: str) -> TaskView:
        return await self._shown(TaskView, self._api.pause(task_id))

    async def resume(self, task_id: str) -> TaskView:
        return await self._shown(TaskView, self._api.resume(task_id))

    async def checkpoints(self, task_id: str) -> CheckpointList:
        return await self._shown(CheckpointList, self._api.list_checkpoints(task_id))

    async def rewind(self, task_id: str, point: RewindPoint) -> TaskView:
        body = cast(operations.RewindPoint, point.model_dump(mode="json"))
        return await self._shown(TaskView, self._api.rewind(task_id, body))

    async def say(self, task_id: str, message: MessageText) -> MessageView:
        body = cast(operations.MessageText, _body(message))
        return await self._shown(MessageView, self._api.say(task_id, body))

    @overload
    async def ask(self, kind: type[_T], method: str, path: str, body: BaseModel | None = None) -> _T: ...

    @overload
    async def ask(self, kind: None, method: str, path: str, body: BaseModel | None = None) -> None: ...

    async def ask(self, kind: type[_T] | None, method: str, path: str, body: BaseModel | None = None) -> _T | None:
        """Any operation; ``kind`` is the shape of its answer, None where it has none."""
        content = None if body is None else body.model_dump_json().encode()
        answer = await self._send(method, quote(path, safe="/"), content=content)
        return None if kind is None else self._read(kind, answer)

    async def me(self) -> Me:
        """Whom the service takes us for."""
        return await self._shown(Me, self._api.me())

    async def login_offer(self) -> LoginOffer:
        """How people sign in to the service."""
        return await self._shown(LoginOffer, self._api.login())

    async def watch(
        self, task_id: str, *, after: int = 0, on_draft: Callable[[DraftView], None] | None = None
    ) -> AsyncIterator[EventView]:
        """Every event after ``after``, until the task's last one; lost connections are taken up again without a hole.

        Args:
            on_draft: hears what the model is writing.

        Raises:
            ServiceProblem: no such task.
            ServiceUnreachable: the service stayed away.
        """
        misses = 0
        while misses < _GIVE_UP_AFTER:
            try:
                async for event in self._stream(task_id, after, on_draft):
                    after, misses = event.seq, 0
                    yield event
                    if event.type == LAST_EVENT:
                        return
            except _SawTheEnd:
                return
            except httpx.TransportError:
                if after == 0 and misses == 0:
                    await self._send("GET", _task(task_id))  # Never was there: say so at once.
            misses += 1
            await anyio.sleep(self._reconnect_s)
        raise self._unreachable()

    async def _stream(
        self, task_id: str, after: int, on_draft: Callable[[DraftView], None] | None
    ) -> AsyncIterator[EventView]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        # Heartbeats come every 15 s; three missing ones mean that the connection is dead.
        timeout = httpx.Timeout(30.0, read=45.0)
        url = f"{_task(task_id)}/events?deltas={json.dumps(on_draft is not None)}"
        async with httpx_sse.aconnect_sse(self._http, "GET", url, headers=headers, timeout=timeout) as source:
            response = source.response
            if response.is_error:
                raise _problem(response.status_code, await response.aread())
            if response.status_code == HTTPStatus.NO_CONTENT:
                raise _SawTheEnd
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._foreign()
            async for message in source.aiter_sse():
                if message.event == DRAFT and on_draft:
                    on_draft(self._read(DraftView, message.data.encode()))
                elif message.data and message.event not in STREAM_NOTES:
                    yield self._read(EventView, message.data.encode())

    async def _shown(self, kind: type[_T], asking: Awaitable[object]) -> _T:
        """The answer to an operation, as a record."""
        try:
            return kind.model_validate(await asking)
        except ValueError as error:
            raise self._foreign() from error

    async def _operate(
        self, method: str, path: str, query: dict[str, Any], headers: dict[str, str], body: object
    ) -> bytes:
        content = None if body is None else json.dumps(body).encode()
        return await self._send(method, path, params=query, headers=headers, content=content)

    async def _send(
        self, method: str, url: str, *, headers: Mapping[str, str] = MappingProxyType({}), **arguments: Any
    ) -> bytes:
        accepted = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            response = await self._http.request(method, url, headers={**accepted, **headers}, **arguments)
        except httpx.TransportError as error:
            raise self._unreachable() from error
        if response.is_error:
            raise _problem(response.status_code, response.content)
        return response.content

    def _read(self, kind: type[_T], content: bytes) -> _T:
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            raise self._foreign() from error

    def _foreign(self) -> ServiceUnreachable:
        return ServiceUnreachable(f"what answers at {self._server} is no mimo service, or one of another version")

    def _unreachable(self) -> ServiceUnreachable:
        return ServiceUnreachable(f"no service answers at {self._server}")


def _task(task_id: str) -> str:
    return f"/v1/tasks/{quote(task_id, safe='')}"


def _body(given: BaseModel) -> dict[str, Any]:
    """Without ``images`` where there are none: older services know no such field, and refuse what they do not know."""
    body = given.model_dump(mode="json")
    return body if body.get("images") else {name: value for name, value in body.items() if name != "images"}


def _problem(status: int, content: bytes) -> ServiceProblem:
    try:
        document = json.loads(content)
    except ValueError:
        document = {}
    return ServiceProblem(status, document if isinstance(document, dict) else {})
