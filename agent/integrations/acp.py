"""What editors are told of an agent's work, in the words of the Agent Client Protocol.

https://agentclientprotocol.com
"""

import secrets
from collections.abc import Callable, Iterator
from typing import Any, Literal

import acp
from acp.schema import (
    AgentMessageChunk,
    AgentThoughtChunk,
    ToolCallProgress,
    ToolCallStart,
    ToolCallUpdate,
    ToolKind,
    UserMessageChunk,
)

from agent.events import MessageTaken, StepMessage, ToolCompleted, ToolIntent
from agent.tools.finish import summary_of
from agent.types import Event, StopReason, ToolCall

Update = AgentMessageChunk | AgentThoughtChunk | ToolCallProgress | ToolCallStart | UserMessageChunk

_OVER = {
    StopReason.FINISHED: "end_turn",
    StopReason.CANCELLED: "cancelled",
    StopReason.STEP_LIMIT: "max_turn_requests",
    StopReason.TOKEN_BUDGET: "max_tokens",
}

_TOOL_KINDS: dict[str, ToolKind] = {
    **dict.fromkeys(("bash", "job"), "execute"),
    **dict.fromkeys(("str_replace", "write"), "edit"),
    **dict.fromkeys(("grep", "glob"), "search"),
    **dict.fromkeys(("read", "skill", "mcp_list", "mcp_read"), "read"),
    "todo": "think",
}


class Telling:
    """Tells events, and pieces of the answers that they will hold, once each."""

    def __init__(self, title: Callable[[ToolCall], str]) -> None:
        """
        Args:
            title: a call in a line.
        """
        self._title = title
        self._calls: dict[tuple[str | None, str], tuple[str, ToolCall]] = {}
        self._asked: dict[str | None, str] = {}
        """Under this id the editor knows the call of a run that its user was asked about."""
        self._told: dict[str | None, dict[str, str]] = {}
        """What was told of the answer that a run is writing."""
        self._answered_steps: dict[str | None, int] = {}
        """The newest step that has its answer, by run."""

    def event(self, event: Event) -> Iterator[Update]:
        match event.type:
            case "step.message":
                yield from self._answered(event.run_id, StepMessage.model_validate(event.body))
            case "message.taken":
                yield acp.update_user_message_text(MessageTaken.model_validate(event.body).text)
            case "tool.intent":
                yield self._begun(event.run_id, ToolIntent.model_validate(event.body))
            case "tool.completed":
                yield from self._completed(event.run_id, ToolCompleted.model_validate(event.body))

    def delta(
        self, run_id: str | None, kind: str, text: str, *, offset: int | None = None, step: int | None = None
    ) -> Iterator[Update]:
        """A piece of an answer. Where one was lost, the rest comes with the answer.

        Args:
            offset: characters of this kind before it; None where none is ever lost.
            step: that which it belongs to; None where no piece comes after its answer.
        """
        if step is not None and step <= self._answered_steps.get(run_id, 0):
            return
        if kind == "restart":
            self._told.pop(run_id, None)
        if kind not in ("content", "reasoning"):
            return
        told = self._told.setdefault(run_id, {})
        known = told.get(kind, "")
        offset = len(known) if offset is None else offset
        fresh = text[len(known) - offset :] if offset <= len(known) else ""
        if fresh:
            told[kind] = known + fresh
            yield _said(kind, fresh)

    def expect(self, run_id: str | None) -> str:
        """The id of a call that the user is asked about before it begins."""
        self._asked[run_id] = call_id = secrets.token_hex(8)
        return call_id

    def proposed(self, call_id: str, call: ToolCall, detail: str) -> ToolCallUpdate:
        """What the user is asked about."""
        content = [acp.tool_content(acp.text_block(detail))]
        kind = _TOOL_KINDS.get(call.name, "other")
        return ToolCallUpdate(
            tool_call_id=call_id,
            title=self._title(call),
            kind=kind,
            status="pending",
            content=content,
        )

    def _answered(self, run_id: str | None, said: StepMessage) -> Iterator[Update]:
        told = self._told.pop(run_id, {})
        if said.aborted is not None:
            return
        self._answered_steps[run_id] = said.step
        message = said.message
        for kind, whole in (("reasoning", message.reasoning_content or ""), ("content", message.content)):
            known = told.get(kind, "")
            rest = whole[len(known) :] if whole.startswith(known) else whole
            if rest.strip():
                yield _said(kind, rest)

    def _begun(self, run_id: str | None, intent: ToolIntent) -> Update:
        call_id, call = self._asked.pop(run_id, None) or secrets.token_hex(8), intent.call
        self._calls[run_id, intent.intent_id] = call_id, call
        kind = _TOOL_KINDS.get(call.name, "other")
        return acp.start_tool_call(
            call_id, self._title(call), kind=kind, status="in_progress", raw_input=call.arguments
        )

    def _completed(self, run_id: str | None, done: ToolCompleted) -> Iterator[Update]:
        call_id, call = self._calls.pop((run_id, done.intent_id or ""), (self._asked.pop(run_id, None), None))
        if call_id is not None:
            status: Literal["failed", "completed"] = "failed" if done.observation.error else "completed"
            content = [acp.tool_content(acp.text_block(done.observation.text))]
            yield acp.update_tool_call(call_id, status=status, content=content)
        if done.finished and call is not None and (summary := summary_of(call)):
            yield acp.update_agent_message_text(summary)


def _said(kind: str, text: str) -> Update:
    return acp.update_agent_message_text(text) if kind == "content" else acp.update_agent_thought_text(text)


def over(stop_reason: StopReason | None, detail: str) -> str:
    """Why a turn ended, in the protocol's words.

    Raises:
        RequestError: it has no word for that.
    """
    if stop_reason not in _OVER:
        raise acp.RequestError(-32603, detail or str(stop_reason))
    return _OVER[stop_reason]


def words(block: Any, root: str = "") -> str:
    """A part of what the user said, as text.

    Args:
        root: the folder whose files are named from there on; empty: files are named by their whole path.

    Raises:
        RequestError: it is no text.
    """
    match block.type:
        case "text":
            return str(block.text)
        case "resource_link":
            return f"@{_named(block.uri, root)}"
        case "resource" if hasattr(block.resource, "text"):
            return f"{_named(block.resource.uri, root)}:\n{block.resource.text}"
        case _:
            raise acp.RequestError.invalid_params({"type": block.type})


def _named(uri: str, root: str) -> str:
    path = uri.removeprefix("file://")
    return path.removeprefix(f"{root.rstrip('/')}/") if root else path
