"""A conversation with an editor: its first prompt becomes a task, later ones are told to it."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar, cast

import acp
from acp.interfaces import Client
from acp.schema import PermissionOption, ToolCallUpdate

from agent.api.acp.route import Terms
from agent.api.completions.telling import closing
from agent.api.context import Context
from agent.api.following import follow, sequel
from agent.api.inward import Refused
from agent.api.log import whole_log
from agent.api.web.entry import Permission, called
from agent.api.web.state import State, read_state
from agent.api.web.text import first_line
from agent.client import operations
from agent.client.operations import Operations
from agent.errors import AgentError
from agent.events import ApprovalRequested, MessageAdded, QuestionAsked
from agent.integrations.acp import Telling, Update, over
from agent.store.base import TaskRecord
from agent.store.drafts import DraftPiece
from agent.types import Approvals, Event, ToolCall, WaitingOn

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

SESSION_LABEL = "acp_session"
"""Tasks of one session have its id under this."""
CWD_LABEL = "acp_cwd"
"""The editor's folder."""

_TITLE_CHARS = 100
_LOOK_S = 30.0
"""Longest single wait for a word from elsewhere; longer silence is waited for again."""

_OPTIONS = (
    PermissionOption(option_id="once", name="Allow once", kind="allow_once"),
    PermissionOption(option_id="task", name="Allow for the rest of the task", kind="allow_always"),
    PermissionOption(option_id="deny", name="Deny", kind="reject_once"),
)
_DECISIONS: dict[str, operations.Decision] = {
    "once": {"decision": "allow", "scope": "once"},
    "task": {"decision": "allow", "scope": "task"},
    "deny": {"decision": "deny"},
}


@dataclass(frozen=True, slots=True)
class Work:
    """What all sessions of a connection share."""

    shared: Context
    """For reading; whoever may no longer write is refused by ``api``."""
    api: Operations
    address: str
    """The service's."""
    terms: Terms


class Session:
    """Tells an editor of its task, in the order of the task's log."""

    def __init__(self, session_id: str, cwd: str, work: Work, client: Client) -> None:
        self.id = session_id
        self.cwd = cwd
        self.repository = ""
        """That of a session which is still to begin."""
        self.approvals: Approvals = work.terms.approvals
        self.ignored: tuple[str, ...] = ()
        """Servers of tools that the editor named."""
        self.busy = False
        """A turn is under way."""
        self._work = work
        self._client = client
        self._task_id: str | None = None
        self._after = 0
        """Sequence number of the newest event that was told."""
        self._mine: set[str] = set()
        """Ids of messages that the editor shows already."""
        self._telling = Telling(_title)
        self._proposed: dict[str, tuple[str, ToolCall]] = {}
        """Calls that were asked for, by approval: their ids at the editor."""
        self._cancelled = False
        self._watching: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        return self._task_id is not None

    async def close(self) -> None:
        """Say no more. The task goes on."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._watching = None

    async def load(self, task: TaskRecord) -> None:
        """Say what was said, then what happens."""
        self._task_id, self.approvals = task.id, task.request.approvals
        await self._say(acp.update_user_message_text(task.request.problem_statement))
        async for event in whole_log(self._work.shared.tasks, task.id):
            await self._tell(event)
        self._watching = asyncio.ensure_future(self._watch())

    async def prompt(self, text: str, images: Sequence[operations.Image] = ()) -> str:
        """One turn; why it ended, in the protocol's words.

        Raises:
            RequestError: it ended in a way that the protocol has no word for.
            Refused: the API did not take it.
        """
        self.busy, self._cancelled = True, False
        try:
            await self.close()
            if self.ignored:
                names, self.ignored = ", ".join(self.ignored), ()
                await self._note(f"Servers of your editor are not used here ({names}); a project names its own.\n\n")
            await self._begin(text, list(images))
            if self._cancelled:
                await self.cancel()
            return await self._turn()
        finally:
            self.busy = False

    async def cancel(self) -> None:
        """End the turn, and with it the task. The next prompt goes on with what there is."""
        self._cancelled = True
        if self._task_id is not None:
            with suppress(_TooLate):
                await self._unless_over(self._work.api.cancel(self._task_id))

    async def _begin(self, text: str, images: list[operations.Image]) -> None:
        api, terms = self._work.api, self._work.terms
        if self._task_id is None:
            submitted = await api.submit(
                {
                    "repository": self.repository,
                    "base_commit": terms.base_commit,
                    "problem_statement": text,
                    "images": images,
                    "profile": terms.profile,
                    "approvals": self.approvals,
                    "labels": {SESSION_LABEL: self.id, CWD_LABEL: self.cwd},
                }
            )
            self._task_id = submitted["id"]
            return
        task = await self._work.shared.tasks.get(self._task_id)
        if not task.status.terminal:
            with suppress(_TooLate):
                said = await self._unless_over(api.say(task.id, {"text": text, "images": images}))
                self._mine.add(said["id"])
                return
            task = await self._work.shared.tasks.get(self._task_id)
        await self._go_on(task, text, images)

    async def _go_on(self, task: TaskRecord, text: str, images: list[operations.Image]) -> None:
        """In a new task, with the files and the conversation of one that is over."""
        shared, api = self._work.shared, self._work.api
        then = await sequel(shared, task)
        point: operations.ForkPoint = {
            "at_event": then.at_event,
            "message": text,
            "images": images,
            "limits": cast(operations.Limits, then.limits.model_dump(mode="json")),
        }
        forked = await api.fork(task.id, point)
        if forked["labels"].get(SESSION_LABEL) != self.id:
            labels = {**forked["labels"], SESSION_LABEL: self.id, CWD_LABEL: self.cwd}
            await api.change_task(forked["id"], {"labels": labels})
        self._task_id, self._after = forked["id"], 0
        words = await shared.store.user_events(forked["id"])
        said = next(word for word in words if word.type == "message.added")
        self._mine.add(MessageAdded.model_validate(said.body).message_id)
        self._after = said.seq  # Before it stands what is copied.

    async def _watch(self) -> None:
        """Go on telling of a task that nobody prompted in this connection."""
        try:
            await self._follow()
        except ConnectionError:
            pass  # The editor is gone.
        except (AgentError, Refused, acp.RequestError):
            _logger.exception("action=acp_watch_failed session=%s", self.id)

    async def _turn(self) -> str:
        state = await self._follow()
        task = state.task
        await self._note("\n\n" + closing(state, f"{self._work.address}/tasks/{task.id}"))
        if not task.status.terminal:
            return "end_turn"
        return over(task.stop_reason, task.error or str(task.status))

    async def _follow(self) -> State:
        """Until the task is over, or needs more of its user than this can ask for."""
        assert self._task_id is not None
        shared = self._work.shared
        while True:
            async with aclosing(follow(shared, self._task_id, self._after)) as told:
                async for thing in told:
                    if thing is not None:
                        await self._tell(thing)
            state = await read_state(shared, await shared.tasks.get(self._task_id))
            waiting_on = state.task.waiting_on
            if waiting_on is WaitingOn.APPROVAL and state.permissions:
                await self._or_elsewhere(self._decide(state.permissions[0]))
            elif waiting_on is WaitingOn.QUESTION and state.question and state.question.options:
                await self._or_elsewhere(self._answer(state.question))
            elif state.task.last_seq <= self._after:
                return state

    # What the user is asked.

    async def _decide(self, permission: Permission) -> None:
        call_id, call = self._proposed[permission.approval_id]
        shown = permission.call
        changes = (*(f"- {line}" for line in shown.removed), *(f"+ {line}" for line in shown.added))
        detail = "\n".join((*permission.parts, *changes))
        chosen = await self._choose(self._telling.proposed(call_id, call, detail), list(_OPTIONS))
        if chosen is None:
            await self.cancel()
        else:
            approval_id = f"{self._task_id}.{permission.approval_id}"
            with suppress(_TooLate):
                await self._unless_over(self._work.api.decide(approval_id, _DECISIONS[chosen]))

    async def _answer(self, question: QuestionAsked) -> None:
        options = [
            PermissionOption(option_id=str(number), name=option, kind="allow_once")
            for number, option in enumerate(question.options)
        ]
        about = ToolCallUpdate(tool_call_id=secrets.token_hex(8), title=question.text)
        chosen = await self._choose(about, options)
        if chosen is None:
            await self.cancel()
        elif self._task_id is not None:
            with suppress(_TooLate):
                text = question.options[int(chosen)]
                await self._unless_over(self._work.api.say(self._task_id, {"text": text}))

    async def _choose(self, about: ToolCallUpdate, options: list[PermissionOption]) -> str | None:
        """Which option the user took; None where the turn is cancelled."""
        answer = await self._client.request_permission(session_id=self.id, tool_call=about, options=options)
        return answer.outcome.option_id if answer.outcome.outcome == "selected" else None

    async def _or_elsewhere(self, asking: Coroutine[None, None, None]) -> None:
        """Wait for an answer, or until another one let the task go on."""
        waits = asyncio.ensure_future(asking), asyncio.ensure_future(self._moved())
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)

    async def _moved(self) -> None:
        assert self._task_id is not None
        tasks, after = self._work.shared.tasks, self._after
        while True:
            events = await tasks.wait_for_events(self._task_id, after=after, timeout_s=_LOOK_S)
            if any(event.run_id is not None for event in events):
                return
            after = events[-1].seq if events else after

    async def _unless_over(self, request: Awaitable[_T]) -> _T:
        """
        Raises:
            _TooLate: the task ended, or somebody else said it, before.
        """
        try:
            return await request
        except Refused as refused:
            if refused.code in ("task_already_ended", "already_decided"):
                raise _TooLate from refused
            raise

    # What is told.

    async def _tell(self, thing: Event | DraftPiece) -> None:
        if isinstance(thing, DraftPiece):
            updates = self._telling.delta(thing.run_id, thing.kind, thing.text, offset=thing.offset, step=thing.step)
        else:
            self._after = thing.seq
            if thing.type == "approval.requested":
                request = ApprovalRequested.model_validate(thing.body)
                self._proposed[request.approval_id] = self._telling.expect(thing.run_id), request.call
            if thing.type == "message.taken" and thing.body["message_id"] in self._mine:
                return
            updates = self._telling.event(thing)
        for update in updates:
            await self._say(update)

    async def _note(self, text: str) -> None:
        if text.strip():
            await self._say(acp.update_agent_message_text(text))

    async def _say(self, update: Update) -> None:
        await self._client.session_update(session_id=self.id, update=update)


class _TooLate(Exception):
    """What was said came after the end."""


def _title(call: ToolCall) -> str:
    shown = called(call)
    return first_line(f"{shown.name} {shown.title}".strip(), _TITLE_CHARS)
