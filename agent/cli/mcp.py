"""``mimo mcp``: which servers of tools there are, and signing in to them."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from agent.cli.credentials import Credential, Credentials
from agent.cli.failure import ExitCode, Failure
from agent.cli.settings import Settings
from agent.cli.terminal import Terminal, printable
from agent.integrations.mcp_server import McpServer

_INSTALL = "install mimo-coder[mcp]"
_THANKS = "You are signed in. This window can be closed."


class KeptSignIn:
    """The sign-in to one server, where the logins to services are."""

    def __init__(self, credentials: Credentials, server: McpServer) -> None:
        self._credentials = credentials
        self._name = f"mcp:{server.url}"

    def get(self) -> str | None:
        kept = self._credentials.get(self._name)
        return None if kept is None else kept.secret

    def put(self, text: str) -> None:
        self._credentials.put(self._name, Credential(secret=text))

    def remove(self) -> bool:
        return self._credentials.remove(self._name)


def list_servers(settings: Settings, terminal: Terminal) -> None:
    for name, server in sorted(settings.mcp_servers.items()):
        terminal.result(f"{name}  {server.url or ' '.join(server.command)}\n")
    if not settings.mcp_servers:
        terminal.note("No servers. Each is a table [mcp_servers.NAME] in config.toml.")


async def login(name: str, settings: Settings, home: Path, terminal: Terminal, browse: Callable[[str], bool]) -> None:
    """Sign in with a browser on this machine.

    Args:
        browse: opens an address in the browser.

    Raises:
        Failure: there is no such server, or it does not let us in.
    """
    server = _server(name, settings)
    try:
        from agent.integrations.mcp import ServerFailed, sign_in
    except ImportError as error:
        raise Failure(ExitCode.FAILED, f"there is no MCP here: {error}", _INSTALL) from error
    async with _Browser(terminal, browse) as person:
        try:
            await sign_in(server, KeptSignIn(Credentials(home), server), person)
        except ServerFailed as error:
            raise Failure(ExitCode.FAILED, printable(str(error)), "try again; else ask who runs the server") from error
    terminal.note(f"Signed in to {name}.")


def logout(name: str, settings: Settings, home: Path, terminal: Terminal) -> None:
    """Forget the sign-in."""
    known = KeptSignIn(Credentials(home), _server(name, settings)).remove()
    terminal.note(f"Signed out of {name}." if known else f"There was no login for {name}.")


def _server(name: str, settings: Settings) -> McpServer:
    server = settings.mcp_servers.get(name)
    if server is None or not server.oauth:
        remedy = f"set url and oauth = true in [mcp_servers.{name}] of config.toml"
        raise Failure(ExitCode.USAGE, f"{name} is no server to sign in to", remedy)
    return server


class _Browser:
    """Sends the person to an address, and waits on this machine for the browser to come back."""

    def __init__(self, terminal: Terminal, browse: Callable[[str], bool]) -> None:
        self._browse = browse
        self._terminal = terminal
        self._came_back: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        await self._listening.wait_closed()

    @property
    def redirect_uri(self) -> str:
        return f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}/"

    async def show(self, url: str) -> None:
        self._terminal.err.print(f"Open {printable(url)}", markup=False, highlight=False, soft_wrap=True)
        await asyncio.to_thread(self._browse, url)

    async def answer(self) -> Mapping[str, str]:
        return await self._came_back

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode("ascii", "replace").split(" ")
        answer = dict(parse_qsl(urlsplit(line[1]).query)) if len(line) == 3 else {}
        if "code" in answer and not self._came_back.done():
            self._came_back.set_result(answer)
        body = _THANKS if "code" in answer else "There is nothing here."
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()
