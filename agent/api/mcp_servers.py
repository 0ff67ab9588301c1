"""Servers of tools of the project: other programs that its agents may call by the Model Context Protocol."""

from http import HTTPStatus
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from agent.api.auth import needs
from agent.api.body import described, read_body, rejected
from agent.api.context import Context, Shared
from agent.api.named import Shelf
from agent.api.problems import Problem
from agent.api.webhooks import check_url
from agent.integrations.mcp_server import ServerName
from agent.store.mcp_servers import MAX_SERVERS, McpServerSettings, ProjectMcpServer

router = APIRouter(prefix="/v1/mcp_servers", tags=["mcp_servers"])

_ADMIN = [needs("projects:admin")]


class NewMcpServer(McpServerSettings):
    name: ServerName


class McpServerList(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    mcp_servers: tuple[ProjectMcpServer, ...]


_Shape = TypeVar("_Shape", bound=McpServerSettings)
_OF_PROGRAMS = ("#/command", "#/args", "#/env", "#/cwd")
"""What only a server has that speaks on its standard streams."""

BODIES = (NewMcpServer, McpServerSettings)
SERVERS = Shelf("MCP server", "/v1/mcp_servers", MAX_SERVERS, lambda shared: shared.mcp_servers)


@router.post(
    "",
    dependencies=_ADMIN,
    status_code=HTTPStatus.CREATED,
    response_model=ProjectMcpServer,
    openapi_extra=described(NewMcpServer),
)
async def create_mcp_server(request: Request, response: Response, shared: Shared) -> ProjectMcpServer:
    """Let the agents of the profile `assistant` call the tools of a server. Runs that begin from now on know of it."""
    server = await create(shared, await _read(request, NewMcpServer))
    response.headers["Location"] = f"/v1/mcp_servers/{server.name}"
    return server


@router.get("", dependencies=[needs("tasks:read")])
async def list_mcp_servers(shared: Shared) -> McpServerList:
    """Those of the project, by name."""
    return McpServerList(mcp_servers=await shared.mcp_servers.all(shared.principal.project_id))


@router.get("/{name}", dependencies=[needs("tasks:read")])
async def show_mcp_server(name: str, shared: Shared) -> ProjectMcpServer:
    return await SERVERS.find(shared, name)


@router.put("/{name}", dependencies=_ADMIN, response_model=ProjectMcpServer, openapi_extra=described(McpServerSettings))
async def replace_mcp_server(name: str, request: Request, shared: Shared) -> ProjectMcpServer:
    """Say all of a server anew. Runs that know of it go by that once a worker takes them again."""
    await SERVERS.find(shared, name)
    return await replace(shared, name, await _read(request, McpServerSettings))


@router.delete("/{name}", dependencies=_ADMIN, status_code=HTTPStatus.NO_CONTENT)
async def delete_mcp_server(name: str, shared: Shared) -> None:
    """Forget a server."""
    await SERVERS.delete(shared, name)


async def create(shared: Context, new: NewMcpServer) -> ProjectMcpServer:
    """
    Raises:
        Problem: 409, there is one of this name already, or too many; 422, it could not be called.
    """
    settings = McpServerSettings.model_validate(new.model_dump(exclude={"name"}))
    await _check(shared, settings)
    return await SERVERS.create(shared, new.name, settings)


async def replace(shared: Context, name: str, settings: McpServerSettings) -> ProjectMcpServer:
    """
    Raises:
        Problem: 404; 422, it could not be called.
    """
    await _check(shared, settings)
    return await SERVERS.replace(shared, name, settings)


async def _read(request: Request, kind: type[_Shape]) -> _Shape:
    """As :func:`read_body`; a program is refused in words."""
    try:
        return await read_body(request, kind)
    except Problem as problem:
        for error in problem.errors:
            if error.pointer in _OF_PROGRAMS:
                remedy = "Run it somewhere as a server that speaks HTTP, and give its url."
                raise rejected(error.pointer.removeprefix("#"), "A service starts no programs", remedy) from problem
        raise


async def _check(shared: Context, settings: McpServerSettings) -> None:
    check_url(settings.url)
    known = {note.name for note in await shared.store.identities.secrets(shared.principal.project_id)}
    for name in settings.secrets:
        if name not in known:
            remedy = f"Set it first: PUT /v1/projects/{shared.principal.project_id}/secrets/{name}."
            raise rejected("/headers", f"The project has no secret {name}", remedy)
