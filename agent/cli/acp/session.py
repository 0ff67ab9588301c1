"""A conversation that an editor shows: what happens in it becomes updates, and its questions become the editor's."""

import asyncio
import secrets
from functools import partial
from typing import Any

import acp
from acp.interfaces import Client
from acp.schema import PermissionOption, PermissionOptionKind, ToolCallUpdate

from agent.cli.chat.consent import Choice, form
from agent.cli.chat.conversation import Audience, Consent, Conversation
from agent.cli.chat.lines import named
from agent.cli.chat.turn import Question
from agent.integrations.acp import Telling, over
from agent.model import Delta
from agent.permissions.policy import Asked, Mode
from agent.types import Event, StopReason, ToolCall

_TITLE_CHARS = 100


class Session(Audience):
    """Tells an editor of one conversation. Updates reach it in the order in which things happened."""

    def __init__(self, session_id: str, client: Client) -> None:
        self._id = session_id
        self._client = client
        self._updates: asyncio.Queue[Any] = asyncio.Queue()
        self._sending = asyncio.ensure_future(self._send())
        self._telling = Telling(partial(named, room=_TITLE_CHARS))
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
        return over(ended.stop_reason, ended.detail)

    # An audience.

    def event(self, event: Event) -> None:
        # One run at a time, which its drafts do not name.
        for update in self._telling.event(event.model_copy(update={"run_id": None})):
            self._put(update)

    def delta(self, step: int, delta: Delta) -> None:
        for update in self._telling.delta(None, delta.kind, delta.text):
            self._put(update)

    def conflict(self, paths: tuple[str, ...]) -> None:
        text = f"Changed by you and by the agent, kept as you have it: {', '.join(paths)}\n"
        self._put(acp.update_agent_message_text(text))

    async def consent(self, call: ToolCall, asked: Asked) -> Consent:
        asking = form(call, asked, _TITLE_CHARS)
        about = self._telling.proposed(
            self._telling.expect(None), call, "\n".join(line.plain for line in asking.detail)
        )
        options = [
            PermissionOption(option_id=choice.name, name=text, kind=_KINDS[choice])
            for choice, text in asking.options
            if choice in _KINDS
        ]
        chosen = await self._ask(about, options)
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
