"""What a project gives its agents, skills and servers of tools: what its administrators see and change."""

from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from agent.api import mcp_servers, skills
from agent.api.context import Shared
from agent.api.web.form import Form, checked, read_form
from agent.api.web.page import Html, page_router
from agent.store.mcp_servers import McpServerSettings
from agent.store.skills import SkillSettings

router = page_router("tasks:read", "projects:admin")

_SKILL = "Give the skill a name in small letters, a line that says when it is of use, and a text."
_SERVER = "Give the server a name and a URL, and headers as lines such as: Authorization: Bearer ${SECRET}"


@router.post("/settings/skills")
async def make_skill(request: Request, shared: Shared) -> Response:
    form = await read_form(request)
    await skills.create(shared, checked(skills.NewSkill, {"name": _name(form), **_skill(form)}, _SKILL))
    return _back()


@router.get("/settings/skills/{name}")
async def show_skill(request: Request, name: str, shared: Shared, html: Html) -> Response:
    return html.page(request, "skill.html", skill=await skills.SKILLS.find(shared, name))


@router.post("/settings/skills/{name}")
async def change_skill(request: Request, name: str, shared: Shared) -> Response:
    form = await read_form(request)
    await skills.SKILLS.find(shared, name)
    await skills.SKILLS.replace(shared, name, checked(SkillSettings, _skill(form), _SKILL))
    return _back()


@router.post("/settings/skills/{name}/delete")
async def delete_skill(request: Request, name: str, shared: Shared) -> Response:
    await read_form(request)
    await skills.SKILLS.delete(shared, name)
    return _back()


@router.post("/settings/mcp_servers")
async def make_server(request: Request, shared: Shared) -> Response:
    form = await read_form(request)
    new = checked(mcp_servers.NewMcpServer, {"name": _name(form), **_server(form)}, _SERVER)
    await mcp_servers.create(shared, new)
    return _back()


@router.get("/settings/mcp_servers/{name}")
async def show_server(request: Request, name: str, shared: Shared, html: Html) -> Response:
    return html.page(request, "mcp_server.html", server=await mcp_servers.SERVERS.find(shared, name))


@router.post("/settings/mcp_servers/{name}")
async def change_server(request: Request, name: str, shared: Shared) -> Response:
    form = await read_form(request)
    before = await mcp_servers.SERVERS.find(shared, name)
    given = _server(form) | {"timeout_s": before.timeout_s}
    await mcp_servers.replace(shared, name, checked(McpServerSettings, given, _SERVER))
    return _back()


@router.post("/settings/mcp_servers/{name}/delete")
async def delete_server(request: Request, name: str, shared: Shared) -> Response:
    await read_form(request)
    await mcp_servers.SERVERS.delete(shared, name)
    return _back()


def _name(form: Form) -> str:
    return form.get("name", "").strip()


def _skill(form: Form) -> dict[str, Any]:
    return {"description": form.get("description", ""), "text": form.get("text", "").replace("\r\n", "\n").strip()}


def _server(form: Form) -> dict[str, Any]:
    lines = [line.partition(":") for line in form.get("headers", "").splitlines() if line.strip()]
    tools = tuple(name.strip() for name in form.get("tools", "").split(",") if name.strip())
    return {
        "url": form.get("url", "").strip(),
        "headers": {name.strip(): value.strip() for name, _, value in lines},
        "tools": tools or None,
    }


def _back() -> Response:
    return RedirectResponse("/settings", HTTPStatus.SEE_OTHER)
