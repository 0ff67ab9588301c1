"""From a call as the model wrote it to a tool with checked arguments, or to what the model reads instead."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from agent.tools.base import Tool, ToolResult, argument_error
from agent.types import ToolCall


def check(call: ToolCall, tools: Sequence[Tool], *, cut: bool) -> tuple[Tool, BaseModel] | ToolResult:
    """The tool and its arguments; a :class:`ToolResult` says why there are none.

    Args:
        cut: the answer ended at the token limit, which explains broken JSON.
    """
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return _error(f"unknown tool {call.name!r}; the tools are {', '.join(tool.name for tool in tools)}")
    try:
        given = json.loads(call.arguments)
    except ValueError as error:
        reason = "they were cut off at the token limit; be shorter" if cut else str(error)
        return _error(f"{call.name}: the arguments are not JSON: {reason}")
    except RecursionError:
        return _error(f"{call.name}: the arguments are nested too deeply")
    if not isinstance(given, dict):
        return _error(f"{call.name}: the arguments are not a JSON object")
    if any("\0" in value for value in given.values() if isinstance(value, str)):
        return _error(f"{call.name}: the arguments hold a NUL character")
    return _fit(tool, given)


def _fit(tool: Tool, given: dict[str, Any]) -> tuple[Tool, BaseModel] | ToolResult:
    try:
        return tool, tool.arguments.model_validate(given)
    except ValidationError as error:
        return ToolResult(argument_error(tool.name, error), error=True)


def _error(what: str) -> ToolResult:
    return ToolResult(f"[error] {what}", error=True)
