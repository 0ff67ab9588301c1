"""``mimo mcp-server``: other programs whose tools the agents of a service's project may call."""

from collections.abc import Sequence

from pydantic import ValidationError
from rich.table import Table

from agent.api.mcp_servers import McpServerList, NewMcpServer
from agent.cli.arguments import invalid
from agent.cli.client import Client
from agent.cli.failure import ExitCode, Failure
from agent.cli.output import Format
from agent.cli.terminal import Terminal, one_line
from agent.store.mcp_servers import McpServerSettings, ProjectMcpServer


def described(
    name: str, url: str, headers: Sequence[str], tools: Sequence[str] | None, timeout_s: float | None
) -> NewMcpServer:
    """A server as the command line describes it.

    Raises:
        Failure: a service does not take it.
    """
    if wrong := next((header for header in headers if ":" not in header), None):
        example = "write, for example, --header 'Authorization: Bearer ${TRACKER_TOKEN}'"
        raise Failure(ExitCode.USAGE, f"--header: {wrong!r} is not of the form NAME:VALUE", example)
    pairs = (header.partition(":") for header in headers)
    given = {
        "name": name,
        "url": url,
        "headers": {name.strip(): value.strip() for name, _, value in pairs},
        "tools": tools,
        "timeout_s": timeout_s,
    }
    try:
        return NewMcpServer.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise invalid(error, {"timeout_s": "--timeout", "tools": "--tool", "headers": "--header"}) from error


async def add(client: Client, terminal: Terminal, new: NewMcpServer, *, replace: bool) -> None:
    """
    Args:
        replace: it takes the place of the one of its name.
    """
    if replace:
        settings = McpServerSettings.model_validate(new.model_dump(exclude={"name"}))
        await client.ask(ProjectMcpServer, "PUT", f"/v1/mcp_servers/{new.name}", settings)
    else:
        await client.ask(ProjectMcpServer, "POST", "/v1/mcp_servers", new)
    terminal.note(f"{'Replaced' if replace else 'Added'} {new.name}.")


async def list_servers(client: Client, terminal: Terminal, output: Format) -> None:
    found = await client.ask(McpServerList, "GET", "/v1/mcp_servers")
    if output is Format.JSON:
        terminal.result(found.model_dump_json(indent=2))
        return
    if not found.mcp_servers:
        terminal.note("No servers; add one with mimo mcp-server add NAME URL.")
        return
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "tools", "address"):
        rows.add_column(heading, no_wrap=True)
    for server in found.mcp_servers:
        tools = "all" if server.tools is None else str(len(server.tools))
        rows.add_row(server.name, tools, one_line(server.url, 100))
    terminal.out.print(rows)


async def show(client: Client, name: str, terminal: Terminal) -> None:
    server = await client.ask(ProjectMcpServer, "GET", f"/v1/mcp_servers/{name}")
    terminal.result(server.model_dump_json(indent=2))


async def remove(client: Client, name: str, terminal: Terminal) -> None:
    await client.ask(None, "DELETE", f"/v1/mcp_servers/{name}")
    terminal.note(f"Removed {name}.")
