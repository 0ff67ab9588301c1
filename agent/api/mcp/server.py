"""Speaks the Model Context Protocol, over HTTP: every request is complete in itself, and so is its answer, so that any
process of the API may get the next one. https://modelcontextprotocol.io/specification
"""

import json
from functools import cache
from typing import Any

import mcp_types as types
from fastapi import Request
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError
from starlette.types import Message, Receive, Scope
from starlette.types import Send as AsgiSend

from agent.api.inward import Refused, sender
from agent.api.mcp.tools import INSTRUCTIONS, TOOLS, Api, Tool, arguments_of
from agent.api.problems import invalid_input

_Context = ServerRequestContext[Any, Request]


async def answer(scope: Scope, receive: Receive, send: AsgiSend, body: bytes) -> None:
    """Answer one request, whose body was read already."""
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return unread.pop() if unread else await receive()

    manager = StreamableHTTPSessionManager(_server(), json_response=True, stateless=True)
    async with manager.run():
        await manager.handle_request(scope, read, send)


@cache
def _server() -> Server[Any]:
    return Server("mimo-coder", instructions=INSTRUCTIONS, on_list_tools=_list_tools, on_call_tool=_call_tool)


async def _list_tools(context: _Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[_described(tool) for tool in TOOLS])


def _described(tool: Tool[Any]) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(),
        annotations=types.ToolAnnotations(read_only_hint=tool.reads_only, open_world_hint=False),
    )


async def _call_tool(context: _Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    tool = next((tool for tool in TOOLS if tool.name == params.name), None)
    if tool is None:
        names = ", ".join(tool.name for tool in TOOLS)
        raise MCPError(types.INVALID_PARAMS, f"There is no tool {params.name[:64]!r}; there are {names}.")
    assert context.request is not None
    try:
        found = await tool.run(Api(sender(context.request)), arguments_of(tool, params.arguments))
    except ValidationError as error:
        problem = invalid_input(error.errors(include_url=False, include_context=False))
        return _result(f"{problem.detail}. Correct the arguments; the tool's input schema describes them.", error=True)
    except Refused as refused:
        return _result(str(refused), error=True)
    if isinstance(found, str):
        return _result(found)
    result = _result(json.dumps(found, ensure_ascii=False))
    return result.model_copy(update={"structured_content": found})


def _result(text: str, *, error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=error)
