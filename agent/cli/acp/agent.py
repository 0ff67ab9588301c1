"""Answers an editor: opens sessions, has turns done in them, and closes them at the end."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import acp
import anyio
from acp.interfaces import Client
from acp.schema import (
    AgentCapabilities,
    HttpMcpServer,
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
)

from agent.cli.acp.session import Session
from agent.cli.chat.conversation import open_conversation
from agent.cli.chat.folders import ConversationBusy, list_conversations, new_folder
from agent.cli.chat.journal import JournalDamaged
from agent.cli.chat.setting import Asked, Folder, open_setting
from agent.cli.failure import Failure
from agent.cli.settings import Settings, Trust, load
from agent.config import ModelSettings
from agent.errors import AgentError
from agent.integrations.acp import words
from agent.integrations.mcp_server import McpServer
from agent.permissions.policy import Mode


@dataclass(frozen=True, slots=True)
class Means:
    """What all sessions share."""

    model: ModelSettings
    embedded: bool
    """The model is our own small one."""
    asked: Asked
    mode: str | None
    """Of new sessions; None: as the configuration says."""
    home: Path
    environment: Mapping[str, str]
    version: str


class EditorAgent:
    """The agent's side of one connection. Use in ``async with``."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._client: Client | None = None
        self._sessions: dict[str, Session] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "EditorAgent":
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            assert session.conversation is not None
            session.conversation.interrupt()
        await self._stack.aclose()

    def on_connect(self, conn: Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        return InitializeResponse(
            protocol_version=min(protocol_version, acp.PROTOCOL_VERSION),
            agent_capabilities=AgentCapabilities(
                load_session=True,
                mcp_capabilities=McpCapabilities(http=True),
                prompt_capabilities=PromptCapabilities(embedded_context=True),
                session_capabilities=SessionCapabilities(list=SessionListCapabilities()),
            ),
            agent_info=Implementation(name="mimo", title="MiMo", version=self._means.version),
            auth_methods=[],
        )

    async def new_session(self, cwd: str, mcp_servers: Sequence[Any] | None = None, **_: Any) -> NewSessionResponse:
        folder = new_folder(self._means.home / "conversations")
        session, settings = await self._open(folder, Path(cwd), mcp_servers or ())
        assert session.conversation is not None
        session.conversation.choose(Mode(self._means.mode or settings.mode))
        return NewSessionResponse(session_id=folder.name, modes=_modes(session))

    async def load_session(
        self, cwd: str, session_id: str, mcp_servers: Sequence[Any] | None = None, **_: Any
    ) -> LoadSessionResponse:
        folder = self._means.home / "conversations" / session_id
        if Path(session_id).name != session_id or not (folder / "journal.jsonl").is_file():
            raise acp.RequestError.resource_not_found(session_id)
        session, _settings = await self._open(folder, Path(cwd), mcp_servers or ())
        await session.replay()
        return LoadSessionResponse(modes=_modes(session))

    async def list_sessions(self, cwd: str | None = None, **_: Any) -> ListSessionsResponse:
        known = list_conversations(self._means.home / "conversations", Path(cwd) if cwd else None)
        infos = [SessionInfo(session_id=kept.folder.name, cwd=kept.root, title=kept.title) for kept in known]
        return ListSessionsResponse(sessions=infos)

    async def set_session_mode(self, session_id: str, mode_id: str, **_: Any) -> SetSessionModeResponse:
        if mode_id not in tuple(Mode):
            raise acp.RequestError.invalid_params({"modeId": mode_id})
        conversation = self._session(session_id).conversation
        assert conversation is not None
        conversation.choose(Mode(mode_id))
        return SetSessionModeResponse()

    async def prompt(self, session_id: str, prompt: Sequence[Any], **_: Any) -> PromptResponse:
        session = self._session(session_id)
        conversation = session.conversation
        assert conversation is not None
        if conversation.busy and not conversation.unfinished:
            raise acp.RequestError.invalid_request({"reason": "a turn is under way in this session"})
        try:
            reason = await session.prompt("\n".join(words(block) for block in prompt))
        except AgentError as error:
            raise acp.RequestError(-32603, str(error)) from error
        return PromptResponse.model_validate({"stop_reason": reason})

    async def cancel(self, session_id: str, **_: Any) -> None:
        conversation = self._session(session_id).conversation
        assert conversation is not None
        conversation.interrupt()

    async def _open(self, folder: Path, root: Path, servers: Sequence[Any]) -> tuple[Session, Settings]:
        means = self._means
        assert self._client is not None
        if not root.is_absolute() or not await anyio.Path(root).is_dir():
            raise acp.RequestError.invalid_params({"cwd": str(root)})
        trusted = bool(Trust(means.home).decided(root))
        try:
            settings = load(means.environment, root if trusted else None).settings
            settings = settings.model_copy(update={"mcp_servers": {**settings.mcp_servers, **_given(servers)}})
            async with AsyncExitStack() as stack:
                about = Folder(root, trusted)
                setting = await open_setting(
                    means.asked, settings, means.model, means.embedded, about, means.environment, stack
                )
                session = Session(folder.name, self._client)
                stack.push_async_callback(session.close)
                session.conversation = await stack.enter_async_context(
                    open_conversation(folder, root, setting, session)
                )
                self._stack.push_async_callback(stack.pop_all().aclose)
        except Failure as failure:
            raise acp.RequestError(-32603, f"{failure.message}; {failure.remedy}") from failure
        except (ConversationBusy, JournalDamaged, AgentError) as error:
            raise acp.RequestError(-32603, str(error)) from error
        self._sessions[folder.name] = session
        return session, settings

    def _session(self, session_id: str) -> Session:
        if session_id not in self._sessions:
            raise acp.RequestError.resource_not_found(session_id)
        return self._sessions[session_id]


def _modes(session: Session) -> SessionModeState:
    assert session.conversation is not None
    modes = [SessionMode(id=mode, name=mode.capitalize()) for mode in Mode]
    return SessionModeState(current_mode_id=session.conversation.state.mode, available_modes=modes)


def _given(servers: Sequence[Any]) -> dict[str, McpServer]:
    """Those that the editor names: programs and addresses, the kinds that we say we take."""
    given = {}
    for server in servers:
        match server:
            case McpServerStdio():
                variables = {pair.name: pair.value for pair in server.env}
                given[server.name] = McpServer(command=(server.command, *server.args), env=variables)
            case HttpMcpServer():
                headers = {pair.name: pair.value for pair in server.headers}
                given[server.name] = McpServer(url=server.url, headers=headers)
    return given
