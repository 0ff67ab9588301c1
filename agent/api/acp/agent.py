"""Answers an editor: begins sessions, finds earlier ones, and has turns done in them."""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import acp
from acp.interfaces import Client
from acp.schema import (
    AgentCapabilities,
    Implementation,
    InitializeResponse,
    ListSessionsResponse,
    LoadSessionResponse,
    McpCapabilities,
    McpServerStdio,
    NewSessionResponse,
    PromptCapabilities,
    PromptResponse,
    SessionCapabilities,
    SessionInfo,
    SessionListCapabilities,
    SessionMode,
    SessionModeState,
    SetSessionModeResponse,
    SseMcpServer,
)
from fastapi import WebSocket, WebSocketDisconnect
from starlette.status import WS_1008_POLICY_VIOLATION

from agent.api.acp.route import Terms
from agent.api.acp.session import CWD_LABEL, SESSION_LABEL, Session, Work
from agent.api.context import Context
from agent.api.inward import Refused, sender
from agent.api.lasting import Lasting
from agent.api.problems import Problem
from agent.api.web.session import address
from agent.api.web.text import first_line
from agent.client.operations import Image, Operations, TaskSummary
from agent.errors import AgentError, UnknownTask
from agent.integrations.acp import words
from agent.types import Approvals

_logger = logging.getLogger(__name__)

_MOST_SESSIONS = 64
"""Of one connection."""
_PAGE = 50
_PICTURES = "See the image."
"""What is said by a prompt of images alone."""

_MODES: dict[Approvals, str] = {
    "plan": "Plan",
    "ask": "Ask",
    "accept edits": "Accept edits",
    "auto": "Auto",
    "none": "No approvals",
}


async def serve(socket: WebSocket, shared: Context, terms: Terms) -> None:
    """Until the editor hangs up. The tasks go on."""
    work = Work(shared, Operations(sender(socket)), address(socket), terms)
    with shared.streams.open(shared.principal, "editor"):
        await socket.accept()
        _logger.info("action=acp_connect subject=%s", shared.principal.subject)
        agent = ServiceAgent(work)
        try:
            # It lacks the optional parts of the interface, which editors are told in initialize.
            await acp.run_agent(agent, _Messages(socket))  # type: ignore[arg-type]
        finally:
            await agent.close()
            _logger.info("action=acp_disconnect subject=%s", shared.principal.subject)


class _Messages:
    """The socket as the protocol's package wants it: a message is a text, which the server bounds."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._caller = Lasting(socket.scope)

    async def send(self, message: dict[str, Any]) -> None:
        try:
            await self._caller.check()
            await self._socket.send_text(json.dumps(message, default=str))
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError("the editor hung up") from error
        except Problem as problem:
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._socket.close(WS_1008_POLICY_VIOLATION, problem.code)
            raise ConnectionError(f"the editor may not be here any more: {problem.detail}") from problem

    async def receive(self) -> dict[str, Any] | None:
        """None at the end."""
        while True:
            try:
                message = json.loads(await self._socket.receive_text())
            except (WebSocketDisconnect, KeyError, TypeError):  # Bytes are no message of the protocol.
                return None
            except (ValueError, RecursionError):
                await self.send(_no_message(-32700, "Parse error"))
                continue
            if isinstance(message, dict):
                return message
            await self.send(_no_message(-32600, "Invalid request"))

    async def close(self) -> None:
        """Whoever accepted it closes it."""


def _no_message(code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}


class ServiceAgent:
    """The agent's side of one connection."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._client: Client | None = None
        self._sessions: dict[str, Session] = {}

    async def close(self) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions.values()))

    def on_connect(self, conn: Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        return InitializeResponse(
            protocol_version=min(protocol_version, acp.PROTOCOL_VERSION),
            agent_capabilities=AgentCapabilities(
                load_session=True,
                mcp_capabilities=McpCapabilities(http=True),
                prompt_capabilities=PromptCapabilities(embedded_context=True, image=self._work.shared.takes_images),
                session_capabilities=SessionCapabilities(list=SessionListCapabilities()),
            ),
            agent_info=Implementation(name="mimo", title="MiMo", version=version("mimo-coder")),
            auth_methods=[],  # Who is connected was asked before.
        )

    async def new_session(self, cwd: str, mcp_servers: Sequence[Any] | None = None, **_: Any) -> NewSessionResponse:
        async with _told():
            ignored = await self._ignored(mcp_servers or ())
            repository = await self._repository(cwd)
            session = self._add(Session(f"session_{secrets.token_hex(16)}", cwd, self._work, self._connected))
        session.repository = repository
        session.ignored = ignored
        modes = [SessionMode(id=mode, name=name) for mode, name in _MODES.items()]
        state = SessionModeState(current_mode_id=session.approvals, available_modes=modes)
        return NewSessionResponse(session_id=session.id, modes=state)

    async def load_session(
        self, cwd: str, session_id: str, mcp_servers: Sequence[Any] | None = None, **_: Any
    ) -> LoadSessionResponse:
        """Say what was said, and go on from there: a task that works is followed."""
        async with _told():
            ignored = await self._ignored(mcp_servers or ())
            found = await self._work.api.list_tasks(label=[f"{SESSION_LABEL}={session_id}"], limit=1)
            task_id = found["tasks"][0]["id"] if found["tasks"] else session_id
            task = await self._work.shared.tasks.get(task_id)
            if known := self._sessions.get(session_id):
                _expect_idle(known)
                await known.close()
                del self._sessions[session_id]
            session = self._add(Session(session_id, cwd, self._work, self._connected))
            session.ignored = ignored
            await session.load(task)
        mode = task.request.approvals
        only = SessionMode(id=mode, name=_MODES[mode])
        return LoadSessionResponse(modes=SessionModeState(current_mode_id=mode, available_modes=[only]))

    async def list_sessions(self, cwd: str | None = None, cursor: str | None = None, **_: Any) -> ListSessionsResponse:
        """One for each task that no later one goes on with, the newest first."""
        async with _told():
            label = [f"{CWD_LABEL}={cwd}"] if cwd else None
            page = await self._work.api.list_tasks(label=label, cursor=cursor, limit=_PAGE)
        sessions: dict[str, SessionInfo] = {}
        for task in page["tasks"]:
            info = _info(task)
            sessions.setdefault(info.session_id, info)
        return ListSessionsResponse(sessions=list(sessions.values()), next_cursor=page["next_cursor"])

    async def set_session_mode(self, session_id: str, mode_id: str, **_: Any) -> SetSessionModeResponse:
        session = self._session(session_id)
        mode = next((mode for mode in _MODES if mode == mode_id), None)
        if mode is None:
            raise acp.RequestError.invalid_params({"modeId": mode_id})
        if session.begun and mode != session.approvals:
            raise acp.RequestError.invalid_request({"reason": "the mode of a session is that with which it began"})
        session.approvals = mode
        return SetSessionModeResponse()

    async def prompt(self, session_id: str, prompt: Sequence[Any], **_: Any) -> PromptResponse:
        session = self._session(session_id)
        _expect_idle(session)
        text = "\n".join(words(block, session.cwd) for block in prompt if block.type != "image")
        images: list[Image] = [
            {"media_type": block.mime_type, "data": block.data} for block in prompt if block.type == "image"
        ]
        async with _told():
            reason = await session.prompt(text or _PICTURES, images)
        return PromptResponse.model_validate({"stop_reason": reason})

    async def cancel(self, session_id: str, **_: Any) -> None:
        async with _told():
            await self._session(session_id).cancel()

    @property
    def _connected(self) -> Client:
        assert self._client is not None, "the package says so before anything is asked"
        return self._client

    def _add(self, session: Session) -> Session:
        if len(self._sessions) >= _MOST_SESSIONS:
            reason = f"a connection has at most {_MOST_SESSIONS} sessions; connect again"
            raise acp.RequestError.invalid_request({"reason": reason})
        self._sessions[session.id] = session
        return session

    def _session(self, session_id: str) -> Session:
        if session_id not in self._sessions:
            raise acp.RequestError.resource_not_found(session_id)
        return self._sessions[session_id]

    async def _ignored(self, servers: Sequence[Any]) -> tuple[str, ...]:
        """Names of servers of tools that the editor passes, and agents do not get: they have those of the project.

        Raises:
            RequestError: there are such servers, and the address does not say that they are left out.
        """
        own = {server["url"] for server in (await self._work.api.list_mcp_servers())["mcp_servers"]} if servers else ()
        others = [server for server in servers if getattr(server, "url", None) not in own]
        if others and self._work.terms.mcp_servers == "project":
            reasons = " ".join(f"{server.name[:100]!r}: {_why_not(server)}." for server in others)
            raise acp.RequestError(-32602, f"{reasons} Or connect to /acp?mcp_servers=ignore, which leaves them out.")
        return tuple(server.name for server in others)

    async def _repository(self, cwd: str) -> str:
        """That which the address names, or a folder of the editor goes by."""
        names = [repo["name"] for repo in (await self._work.api.list_repos())["repos"]]
        wanted = self._work.terms.repository or _folder(cwd)
        if wanted in names or wanted.startswith("/"):
            return wanted
        if self._work.terms.repository is None and self._work.shared.principal.may("service:admin"):
            return cwd  # An operator's editor may stand on the service's own machine.
        known = ", ".join(names[:20]) or "none"
        reason = f"The project has no repository {wanted[:100]!r}; name one in the address: ?repository=NAME ({known})."
        raise acp.RequestError(-32602, reason)


def _expect_idle(session: Session) -> None:
    if session.busy:
        raise acp.RequestError.invalid_request({"reason": "a turn is under way in this session"})


def _why_not(server: Any) -> str:
    if isinstance(server, McpServerStdio):
        return "this service starts no programs of its users; take it out of what your editor passes to this agent"
    if isinstance(server, SseMcpServer):
        return "this service does not speak SSE with servers of tools; name an address with streamable HTTP"
    return (
        "agents call servers that their project has; an administrator of the project adds this one by "
        "POST /v1/mcp_servers, with what lets agents in as a secret"
    )


def _folder(cwd: str) -> str:
    path = PureWindowsPath(cwd) if "\\" in cwd else PurePosixPath(cwd)
    return path.name or cwd


def _info(task: TaskSummary) -> SessionInfo:
    labels = task["labels"]
    return SessionInfo(
        session_id=labels.get(SESSION_LABEL, task["id"]),
        cwd=labels.get(CWD_LABEL, "/"),
        title=task["title"] or first_line(task["problem_statement"]),
        updated_at=task["updated_at"],
    )


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """What goes wrong in a request, as the protocol has it."""
    try:
        yield
    except UnknownTask as error:
        raise acp.RequestError(-32002, str(error)) from error
    except (Refused, AgentError) as error:
        raise acp.RequestError(-32603, str(error)) from error
