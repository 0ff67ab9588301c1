"""Tools of other programs by the Model Context Protocol. The one module that imports the client of the package ``mcp``.

Servers run beside the sandbox, as the user: each is started by the first call that needs it, with an environment of its
own. https://modelcontextprotocol.io/specification
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from mcp.client.auth.oauth2 import OAuthClientProvider, OAuthContext, TokenStorage
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthMetadata,
    OAuthToken,
    ProtectedResourceMetadata,
)
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, CallToolResult, PaginatedResult, TextResourceContents, Tool
from pydantic import AnyUrl, BaseModel

from agent.integrations.mcp_server import McpServer
from agent.tools.base import ToolResult, fit

_MAX_PAGES = 100
"""Of one server's list: a list that never ends must not keep us."""

_T = TypeVar("_T")
_P = TypeVar("_P", bound=PaginatedResult)


class Vault(Protocol):
    """Where the sign-in to one server is kept."""

    def get(self) -> str | None: ...

    def put(self, text: str) -> None: ...


class SignIn(Protocol):
    """A person at a browser."""

    @property
    def redirect_uri(self) -> str: ...

    async def show(self, url: str) -> None:
        """Have the person open the address."""

    async def answer(self) -> Mapping[str, str]:
        """What the browser came back with: ``code``, and ``state`` and ``iss`` where they were given."""


class ServerFailed(Exception):
    """A server did not do what was asked; the model reads why."""


class Way(Protocol):
    """How servers are reached."""

    async def open(self, name: str, server: McpServer, stack: AsyncExitStack) -> Any:
        """What the ``mcp`` package's client takes; closed with the stack.

        Raises:
            ServerFailed
        """

    def hide(self, text: str) -> str:
        """What a server says, without what no model may read."""


class McpServers:
    """All servers of one conversation. Use in ``async with``."""

    def __init__(self, servers: Mapping[str, McpServer], way: Way) -> None:
        self._way = way
        self._connections = {name: _Connection(name, servers[name], way) for name in sorted(servers)}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections.values():
            await connection.close()

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._connections)

    @property
    def states(self) -> Mapping[str, str]:
        """How it is with each server, in a few words."""
        return {name: connection.state for name, connection in self._connections.items()}

    async def describe(self, server: str, tool: str) -> ToolResult:
        asked = [server] if server else list(self._connections)
        parts = await asyncio.gather(*(self._listed(name, tool) for name in asked))
        text, dropped = fit(self._way.hide("\n".join(parts)) or "[error] there is no server")
        return ToolResult(text, error=all(part.startswith("[error]") for part in parts), truncated_bytes=dropped)

    async def call(self, server: str, tool: str, arguments: dict[str, Any]) -> ToolResult:
        try:
            connection = self._connection(server)
            connection.check(tool)
            answer = await connection.ask(lambda client: client.call_tool(tool, arguments))
        except ServerFailed as error:
            return ToolResult(self._way.hide(f"[error] {error}"), error=True)
        text, dropped = fit(self._way.hide(_text(answer)))
        return ToolResult(text, error=bool(answer.is_error), truncated_bytes=dropped)

    async def read(self, server: str, uri: str) -> ToolResult:
        try:
            answer = await self._connection(server).ask(lambda client: client.read_resource(uri))
        except ServerFailed as error:
            return ToolResult(self._way.hide(f"[error] {error}"), error=True)
        parts = [
            part.text if isinstance(part, TextResourceContents) else f"[{part.mime_type or 'binary'}: not shown]"
            for part in answer.contents
        ]
        text, dropped = fit(self._way.hide("\n".join(parts)) or "[nothing]")
        return ToolResult(text, error=False, truncated_bytes=dropped)

    async def resources(self, server: str) -> Sequence[tuple[str, str]]:
        try:
            found = await self._connection(server).resources()
        except ServerFailed:
            return ()
        return [(uri, _first_line(self._way.hide(about or ""))) for uri, about in found]

    async def _listed(self, server: str, tool: str) -> str:
        try:
            tools = await self._connection(server).tools()
            resources = [] if tool else await self._connection(server).resources()
        except ServerFailed as error:
            return f"[error] {error}"
        if not tool:
            lines = [f"{server}:", *(f"  {found.name}: {_first_line(found.description)}" for found in tools)]
            if resources:
                lines += ["  to read:", *(f"    {uri}: {_first_line(about)}" for uri, about in resources)]
            return "\n".join(lines)
        wanted = next((found for found in tools if found.name == tool), None)
        if wanted is None:
            return f"[error] {server} has no tool {tool!r}"
        return f"{server}: {wanted.name}\n{wanted.description or ''}\n{json.dumps(wanted.input_schema)}"

    def _connection(self, server: str) -> "_Connection":
        if server not in self._connections:
            raise ServerFailed(f"there is no server {server!r}; there are {', '.join(self._connections)}")
        return self._connections[server]


async def sign_in(server: McpServer, vault: Vault, person: SignIn) -> None:
    """Have a person sign in at a server, and keep what it gives us.

    Raises:
        ServerFailed: it does not let us in.
    """
    assert server.url is not None
    sign = _oauth(server.url, _Kept(vault, fresh=True), person)
    connection = _Connection(server.url, server, OnThisMachine({}, Path(), lambda server: vault, sign))
    try:
        await connection.tools()
    finally:
        await connection.close()


class _Connection:
    """One server: started when it is needed, and again after it died."""

    def __init__(self, name: str, server: McpServer, way: Way) -> None:
        self._name = name
        self._server = server
        self._way = way
        self._opening = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._over = asyncio.Event()
        self.state = "not started"

    async def tools(self) -> list[Tool]:
        """By name, whatever the order in which the server tells them."""
        found = [tool async for page in self._pages(Client.list_tools) for tool in page.tools]
        shown = [tool for tool in found if self._shows(tool.name)]
        self.state = f"running, {len(shown)} tools"
        return sorted(shown, key=lambda tool: tool.name)

    def check(self, tool: str) -> None:
        """
        Raises:
            ServerFailed: the description of the server leaves the tool out.
        """
        if not self._shows(tool):
            raise ServerFailed(f"{self._name} has no tool {tool!r}")

    def _shows(self, tool: str) -> bool:
        return self._server.tools is None or tool in self._server.tools

    async def resources(self) -> list[tuple[str, str | None]]:
        """What can be read: address, or template of addresses, and what it is. None where the server has no such."""
        if not await self.ask(_has_resources):
            return []
        found = [
            (resource.uri, resource.description or resource.name)
            async for page in self._pages(Client.list_resources)
            for resource in page.resources
        ]
        found += [
            (template.uri_template, template.description or template.name)
            async for page in self._pages(Client.list_resource_templates)
            for template in page.resource_templates
        ]
        return sorted(found)

    async def _pages(self, ask: "Callable[..., Awaitable[_P]]") -> AsyncIterator[_P]:
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self.ask(lambda client, at=cursor: ask(client, cursor=at))  # type: ignore[misc]
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    async def ask(self, work: Callable[[Client], Awaitable[_T]]) -> _T:
        """
        Raises:
            ServerFailed
        """
        async with self._opening:
            client = await self._open()
        assert self._keeping is not None
        working = asyncio.ensure_future(work(client))
        try:
            await asyncio.wait({working, self._keeping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                await self._fail("the connection was closed")
            raise ServerFailed(f"{self._name}: {error.message}") from error
        finally:
            working.cancel()
        raise await self._fail(_reason(self._keeping))

    async def close(self) -> None:
        if self._keeping is None:
            return
        self._over.set()
        await asyncio.wait({self._keeping})
        if not self._keeping.cancelled():
            self._keeping.exception()  # marks it as seen: whoever asked last was told
        self._keeping = self._client = None
        self.state = "not running"

    async def _open(self) -> Client:
        if self._client is not None and self._keeping is not None and not self._keeping.done():
            return self._client
        await self.close()
        self._over.clear()
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.ensure_future(self._keep(ready))
        either: set[asyncio.Future[Any]] = {ready, self._keeping}
        await asyncio.wait(either, timeout=self._server.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            done = self._keeping.done()
            self._keeping.cancel()
            raise await self._fail(_reason(self._keeping) if done else "it does not answer")
        self._client = ready.result()
        self.state = "running"
        return self._client

    async def _keep(self, ready: "asyncio.Future[Client]") -> None:
        """A client has to be left in the task that entered it, so that this one does both."""
        async with AsyncExitStack() as stack:
            transport = await self._way.open(self._name, self._server, stack)
            client = Client(transport, read_timeout_seconds=self._server.timeout_s)
            ready.set_result(await stack.enter_async_context(client))
            await self._over.wait()

    async def _fail(self, reason: str) -> ServerFailed:
        await self.close()
        self.state = f"failed: {reason}"
        return ServerFailed(f"{self._name}: {reason}")


class OnThisMachine:
    """Programs run beside us, as the user, and addresses are whatever the user names."""

    def __init__(
        self,
        environment: Mapping[str, str],
        logs: Path,
        vault: Callable[[McpServer], Vault],
        sign: OAuthClientProvider | None = None,
    ) -> None:
        """
        Args:
            environment: the user's; servers are given of it what their description names.
            logs: folder for what the programs write to their standard error.
            sign: signs in while it asks, instead of what a vault has.
        """
        self._environment = environment
        self._logs = logs
        self._vault = vault
        self._sign = sign

    async def open(self, name: str, server: McpServer, stack: AsyncExitStack) -> Any:
        if server.command:
            self._logs.mkdir(parents=True, exist_ok=True)
            log = stack.enter_context((self._logs / f"mcp-{name}.log").open("a", encoding="utf-8"))
            given = {name: self._environment[name] for name in server.pass_env if name in self._environment}
            program = StdioServerParameters(
                command=server.command[0], args=list(server.command[1:]), env={**given, **server.env}
            )
            return stdio_client(program, errlog=log)
        assert server.url is not None
        headers = dict(server.headers)
        if server.token_env is not None:
            if server.token_env not in self._environment:
                raise ServerFailed(f"{server.token_env} is not set")
            headers["Authorization"] = f"Bearer {self._environment[server.token_env]}"
        sign = self._sign
        if server.oauth and sign is None:
            vault = self._vault(server)
            if vault.get() is None:
                raise ServerFailed(f"sign in first: mimo mcp login {name}")
            sign = _oauth(server.url, _Kept(vault), _Nobody(name))
        http = await stack.enter_async_context(create_mcp_http_client(headers=headers, auth=sign))
        return streamable_http_client(server.url, http_client=http)

    def hide(self, text: str) -> str:
        return text


class _SignedIn(BaseModel):
    """What is kept of a sign-in."""

    client: OAuthClientInformationFull | None = None
    tokens: OAuthToken | None = None
    expires_at: float | None = None
    """Unix time at which the access token ends; None where that is not known."""
    issuer: OAuthMetadata | None = None
    """Who renews it."""
    resource: ProtectedResourceMetadata | None = None


class _Kept(TokenStorage):
    """Puts it into a vault, as one text."""

    def __init__(self, vault: Vault, *, fresh: bool = False) -> None:
        self._vault = vault
        self._context: OAuthContext | None = None
        text = None if fresh else vault.get()
        self._kept = _SignedIn.model_validate_json(text) if text else _SignedIn()

    def restore(self, context: OAuthContext) -> None:
        """The library reads tokens and client by itself; without the rest it would show a token that has ended, and ask
        the wrong server for another."""
        context.token_expiry_time = self._kept.expires_at
        context.oauth_metadata = self._kept.issuer
        context.protected_resource_metadata = self._kept.resource
        self._context = context

    async def get_tokens(self) -> OAuthToken | None:
        return self._kept.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        assert self._context is not None, "restore comes first"
        known = {
            "tokens": tokens,
            "expires_at": self._context.token_expiry_time,
            "issuer": self._context.oauth_metadata,
            "resource": self._context.protected_resource_metadata,
        }
        self._kept = self._kept.model_copy(update=known)
        self._vault.put(self._kept.model_dump_json(exclude_none=True))

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._kept.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        # Alone it is no sign-in yet: the vault gets it together with the tokens.
        self._kept = self._kept.model_copy(update={"client": client_info})


class _Nobody:
    """Where no person is at a browser, whoever reads the answer is told that one has to be."""

    redirect_uri = "http://127.0.0.1/"

    def __init__(self, name: str) -> None:
        self._name = name

    async def show(self, url: str) -> None:
        raise ServerFailed(f"sign in again: mimo mcp login {self._name}")

    async def answer(self) -> Mapping[str, str]:
        raise AssertionError("nobody was shown anything")


def _oauth(url: str, kept: _Kept, person: SignIn) -> OAuthClientProvider:
    """Shows tokens, renews them, and has ``person`` sign in where that does not do."""

    async def answered() -> AuthorizationCodeResult:
        return AuthorizationCodeResult.model_validate(await person.answer())

    about = OAuthClientMetadata(client_name="mimo", redirect_uris=[AnyUrl(person.redirect_uri)])
    provider = OAuthClientProvider(url, about, kept, redirect_handler=person.show, callback_handler=answered)
    kept.restore(provider.context)
    return provider


async def _has_resources(client: Client) -> bool:
    return client.server_capabilities.resources is not None


def _text(answer: CallToolResult) -> str:
    parts = [part.text if part.type == "text" else f"[{part.type}: not shown]" for part in answer.content]
    if not parts and answer.structured_content is not None:
        parts = [json.dumps(answer.structured_content)]
    return "\n".join(parts) or "[nothing]"


def _first_line(description: str | None) -> str:
    return next(iter((description or "").strip().splitlines()), "")


def _reason(task: "asyncio.Task[None]") -> str:
    """Why a connection ended, in the words of whatever failed first."""
    error = None if task.cancelled() else task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "the connection ended" if error is None else str(error) or type(error).__name__
