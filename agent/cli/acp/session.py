"""A conversation that an editor shows: what happens in it becomes updates, and its questions become the editor's."""

import asyncio
import secrets
from typing import Any

import acp
from acp.interfaces import Client
from acp.schema import PermissionOption, PermissionOptionKind, ToolCallUpdate, ToolKind

from agent.cli.chat.consent import Choice, Form, form
from agent.cli.chat.conversation import Audience, Consent, Conversation
from agent.cli.chat.lines import named
from agent.cli.chat.turn import Ended, Question
from agent.events import MessageTaken, StepMessage, ToolCompleted, ToolIntent
from agent.model import Delta
from agent.permissions.policy import Asked, Mode
from agent.tools.finish import summary_of
from agent.types import Event, StopReason, ToolCall

_TITLE_CHARS = 100
_OVER = {
    StopReason.FINISHED: "end_turn",
    StopReason.CANCELLED: "cancelled",
    StopReason.STEP_LIMIT: "max_turn_requests",
    StopReason.TOKEN_BUDGET: "max_tokens",
}


class Session(Audience):
    """Tells an editor of one conversation. Updates reach it in the order in which things happened."""

    def __init__(self, session_id: str, client: Client) -> None:
        self._id = session_id
        self._client = client
        self._updates: asyncio.Queue[Any] = asyncio.Queue()
        self._sending = asyncio.ensure_future(self._send())
        self._calls: dict[str, ToolCall] = {}
        self._asked: str | None = None
        """Under this id the editor knows the call that the user was asked about."""
        self._streamed = False
        self.conversation: Conversation | None = None

    async def close(self) -> None:
        self._sending.cancel()
        await asyncio.wait({self._sending})

    async def replay(self) -> None:
        """Show what was said before."""
        conversation = self._opened
        for turn in conversation.state.turns:
            self._put(acp.update_user_message(acp.text_block(turn.text)))
            for event in await conversation.events(turn):
                self.event(event)
        await self._updates.join()

    async def prompt(self, text: str) -> str:
        """One turn; why it ended, in the protocol's words.

        Raises:
            RequestError: it ended in a way that the protocol has no word for.
        """
        conversation = self._opened
        if conversation.unfinished:
            await conversation.drop_unfinished()
        said: str | None = text
        while said is not None:
            ended = await conversation.say(said)
            said = conversation.unqueue() if ended.stop_reason is StopReason.FINISHED else None
        await self._updates.join()
        return _over(ended)

    # An audience.

    def event(self, event: Event) -> None:
        match event.type:
            case "step.message":
                self._answered(StepMessage.model_validate(event.body))
            case "message.taken":
                self._put(acp.update_user_message(acp.text_block(MessageTaken.model_validate(event.body).text)))
            case "tool.intent":
                self._begun(ToolIntent.model_validate(event.body))
            case "tool.completed":
                self._completed(ToolCompleted.model_validate(event.body))

    def delta(self, step: int, delta: Delta) -> None:
        if delta.kind == "content":
            self._streamed = True
            self._put(acp.update_agent_message_text(delta.text))
        elif delta.kind == "reasoning":
            self._put(acp.update_agent_thought_text(delta.text))

    def conflict(self, paths: tuple[str, ...]) -> None:
        text = f"Changed by you and by the agent, kept as you have it: {', '.join(paths)}\n"
        self._put(acp.update_agent_message_text(text))

    async def consent(self, call: ToolCall, asked: Asked) -> Consent:
        asking = form(call, asked, _TITLE_CHARS)
        self._asked = secrets.token_hex(8)
        options = [
            PermissionOption(option_id=choice.name, name=text, kind=_KINDS[choice])
            for choice, text in asking.options
            if choice in _KINDS
        ]
        chosen = await self._ask(self._described(call, asking), options)
        match chosen:
            case None:
                self._opened.interrupt()
                return Consent(False, reason="the user interrupted")
            case Choice.YES.name:
                return Consent(True)
            case Choice.ALWAYS.name:
                return Consent(True, always=asked.grants or ())
            case Choice.ALL_EDITS.name:
                self._opened.choose(Mode.ACCEPT_EDITS)
                self._put(acp.update_current_mode(Mode.ACCEPT_EDITS))
                return Consent(True)
            case _:
                return Consent(False)

    async def answer(self, question: Question) -> str:
        if not question.options:
            return "the editor cannot pass on an answer now: end your answer with the question"
        options = [
            PermissionOption(option_id=str(number), name=option, kind="allow_once")
            for number, option in enumerate(question.options)
        ]
        chosen = await self._ask(ToolCallUpdate(tool_call_id=secrets.token_hex(8), title=question.text), options)
        return "the user gave no answer" if chosen is None else question.options[int(chosen)]

    # What is told.

    @property
    def _opened(self) -> Conversation:
        assert self.conversation is not None, "the conversation is opened with this session as its audience"
        return self.conversation

    def _answered(self, said: StepMessage) -> None:
        message = said.message
        if not self._streamed and said.aborted is None and message.content.strip():
            self._put(acp.update_agent_message_text(message.content))
        self._streamed = False

    def _begun(self, intent: ToolIntent) -> None:
        call_id = self._asked or secrets.token_hex(8)
        self._asked = None
        self._calls[intent.intent_id] = call = intent.call.model_copy(update={"id": call_id})
        title, kind = named(call, _TITLE_CHARS), _TOOL_KINDS.get(call.name, "other")
        self._put(acp.start_tool_call(call_id, title, kind=kind, status="in_progress", raw_input=call.arguments))

    def _completed(self, done: ToolCompleted) -> None:
        call = self._calls.pop(done.intent_id or "", None)
        call_id = call.id if call else self._asked
        self._asked = None
        if call_id is not None:
            status = "failed" if done.observation.error else "completed"
            content = [acp.tool_content(acp.text_block(done.observation.text))]
            self._put(acp.update_tool_call(call_id, status=status, content=content))  # type: ignore[arg-type]
        if done.finished and call is not None and (summary := summary_of(call)):
            self._put(acp.update_agent_message_text(summary))

    def _described(self, call: ToolCall, asking: Form) -> ToolCallUpdate:
        assert self._asked is not None
        text = acp.tool_content(acp.text_block("\n".join(asking.detail)))
        kind = _TOOL_KINDS.get(call.name, "other")
        title = named(call, _TITLE_CHARS)
        return ToolCallUpdate(tool_call_id=self._asked, title=title, kind=kind, status="pending", content=[text])

    async def _ask(self, about: ToolCallUpdate, options: list[PermissionOption]) -> str | None:
        await self._updates.join()
        answer = await self._client.request_permission(session_id=self._id, tool_call=about, options=options)
        return answer.outcome.option_id if answer.outcome.outcome == "selected" else None

    def _put(self, update: Any) -> None:
        self._updates.put_nowait(update)

    async def _send(self) -> None:
        while True:
            update = await self._updates.get()
            try:
                await self._client.session_update(session_id=self._id, update=update)
            finally:
                self._updates.task_done()


_KINDS: dict[Choice, PermissionOptionKind] = {
    Choice.YES: "allow_once",
    Choice.ALWAYS: "allow_always",
    Choice.ALL_EDITS: "allow_always",
    Choice.NO: "reject_once",
}
"""The protocol has no place for words with a refusal."""

_TOOL_KINDS: dict[str, ToolKind] = {
    **dict.fromkeys(("bash", "job"), "execute"),
    **dict.fromkeys(("str_replace", "write"), "edit"),
    **dict.fromkeys(("grep", "glob"), "search"),
    **dict.fromkeys(("read", "skill", "mcp_list", "mcp_read"), "read"),
    "todo": "think",
}


def _over(ended: Ended) -> str:
    if ended.stop_reason not in _OVER:
        raise acp.RequestError(-32603, ended.detail or str(ended.stop_reason))
    return _OVER[ended.stop_reason]
