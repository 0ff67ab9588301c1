"""One turn: what the user said, and what the agent did about it, as a task of the conversation's store."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.cli.chat.workplace import Workplace
from agent.events import ApprovalDecided, ApprovalRequested, MessageAdded, RunStopped, StepMessage
from agent.history import as_text, observation_message, view
from agent.inbox import Inbox
from agent.log import Entry
from agent.loop import run_loop
from agent.model import Delta, Model
from agent.orchestrator.log import StoreLog
from agent.profiles.base import Profile
from agent.remembering import Remembering
from agent.steps.ends import Wait
from agent.steps.settings import LoopSettings
from agent.steps.user import Approve
from agent.store.base import Claim, ProjectStore, RunResult, Store
from agent.trajectory import steps
from agent.types import Event, Message, Observation, Said, Status, StopReason, TaskRequest, WaitingOn
from sandbox.errors import SandboxError, SandboxLost

LEASE_TTL_S = 6.0
"""A conversation that was killed can be taken up again after so long."""

_MAX_SANDBOXES_LOST = 2

_INTERRUPTED = "[error] the user interrupted this call"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a turn ended."""

    stop_reason: StopReason
    detail: str = ""
    """One sentence for people, where it did not end by itself."""


@dataclass(frozen=True, slots=True)
class Question:
    """The agent wants to know something."""

    text: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Means:
    """What a turn works with."""

    profile: Profile
    model: Model
    workplace: Workplace
    approve: Approve
    earlier: Sequence[Message]
    """What was said in the turns before, as the model reads it."""
    patch: Callable[[str], Awaitable[str]]
    """What a tree changes against the turn's beginning."""
    settings: LoopSettings


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears of a turn, and who is asked."""

    on_event: Callable[[Event], None]
    """Hears of every event once it is stored."""
    on_delta: Callable[[int, Delta], None]
    consent: Callable[[ApprovalRequested], Awaitable[ApprovalDecided]]
    answer: Callable[[Question], Awaitable[str]]


class Turn:
    """Runs a claimed turn to its end; goes on with one that was begun before."""

    def __init__(self, store: Store, project: ProjectStore, claim: Claim, means: Means, ears: Ears) -> None:
        self._store = store
        self._project = project
        self._claim = claim
        self._means = means
        self._ears = ears
        self._log = _TurnLog(store, claim, ears.on_event)
        self._inbox = Inbox()

    def interrupt(self) -> None:
        """End the turn now; what was done so far stays."""
        self._inbox.cancelled.set()

    async def tell(self, text: str, delivery: Literal["steer", "interrupt"] = "steer") -> None:
        """Say something while the agent works: it reads it before its next answer."""
        message = MessageAdded(message_id=secrets.token_hex(8), text=text, delivery=delivery)
        await self._told("message.added", message.model_dump(mode="json"))

    @property
    def unheard(self) -> tuple[str, ...]:
        """What the user said that the turn was over for."""
        heard = [str(event.body.get("message_id")) for event in self._log.events]
        return tuple(message.text for message in self._inbox.messages(heard))

    async def run(self) -> Ended:
        """
        Raises:
            LeaseLost: the conversation is open elsewhere.
        """
        self._inbox.put(await self._store.user_events(self._claim.task.id))
        self._inbox.interrupted.clear()
        keeping = asyncio.ensure_future(self._keep())
        try:
            ended = await self._work()
        except asyncio.CancelledError:
            await self._store.release(self._claim.run_id, self._claim.generation)
            raise
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
        status = _STATUS.get(ended.stop_reason, Status.FAILED)
        result = RunResult(status=status, stop_reason=ended.stop_reason, error=ended.detail or None)
        await self._store.finish(self._claim.run_id, self._claim.generation, result)
        return ended

    async def _work(self) -> Ended:
        num_lost = 0
        while True:
            try:
                found = await self._attempt()
            except SandboxLost as error:
                num_lost += 1
                await self._log.append("sandbox.lost", {"detail": str(error)})
                await self._means.workplace.leave()
                if num_lost > _MAX_SANDBOXES_LOST:
                    return await self._stop(StopReason.SANDBOX_LOST, str(error))
            except SandboxError as error:
                return await self._stop(StopReason.SANDBOX_LOST, str(error))
            else:
                if isinstance(found, Ended):
                    return found
                await self._wait(found)
                if self._inbox.cancelled.is_set():
                    return await self._stop(StopReason.CANCELLED, "interrupted in the place of an answer")

    async def _attempt(self) -> Ended | Wait:
        means = self._means
        try:
            found = await run_loop(
                self._claim.task.request,
                means.profile,
                Remembering(means.model, means.earlier),
                means.workplace,
                self._log,
                base_tree="",  # A turn that changes nothing is as good as any.
                snapshot=means.workplace.keep,
                patch=means.patch,
                inbox=self._inbox,
                approve=means.approve,
                on_delta=self._ears.on_delta,
                settings=means.settings,
                name=f"{self._claim.run_id}-",  # The next turn has the same sandbox.
            )
        except _TurnOver:
            return await self._stop(StopReason.FINISHED, "")
        if isinstance(found, Wait):
            return found
        stopped = self._log.stopped
        assert stopped is not None, self._log.events[-1]
        return Ended(found, "" if found is StopReason.FINISHED else stopped.detail)

    async def _wait(self, wait: Wait) -> None:
        """Ask the user what the loop wants to know. The lease stays ours, however long that takes."""
        match wait.waiting_on:
            case WaitingOn.APPROVAL:
                bodies = [event.body for event in self._log.events if event.type == "approval.requested"]
                asking = self._ears.consent(ApprovalRequested.model_validate(bodies[-1]))
                if decided := await self._unless_interrupted(asking):
                    await self._told("approval.decided", decided.model_dump(mode="json"))
            case waiting_on:
                assert waiting_on is WaitingOn.QUESTION, (
                    waiting_on
                )  # A turn ends at its limits, and where the model is away.
                asked = [event.body for event in self._log.events if event.type == "question.asked"][-1]
                question = Question(str(asked["text"]), tuple(asked.get("options", ())))
                if answer := await self._unless_interrupted(self._ears.answer(question)):
                    await self.tell(answer)

    async def _unless_interrupted(self, asking: Awaitable[Any]) -> Any:
        """The user's answer; None where the turn is to end instead."""
        answering = asyncio.ensure_future(asking)
        ending = asyncio.ensure_future(self._inbox.cancelled.wait())
        try:
            await asyncio.wait({answering, ending}, return_when=asyncio.FIRST_COMPLETED)
            return answering.result() if answering.done() else None
        finally:
            answering.cancel()
            ending.cancel()
            await asyncio.wait({answering, ending})

    async def _told(self, kind: str, body: dict[str, Any]) -> None:
        event = await self._project.tell(self._claim.task.id, kind, body)
        self._inbox.put([event])
        self._ears.on_event(event)

    async def _stop(self, reason: StopReason, detail: str) -> Ended:
        await self._log.append("run.stopped", RunStopped(stop_reason=reason, detail=detail).model_dump(mode="json"))
        return Ended(reason, detail)

    async def _keep(self) -> None:
        """Renew the lease; ends only by :class:`LeaseLost`, which the next write meets too."""
        while True:
            await asyncio.sleep(LEASE_TTL_S / 3)
            await self._store.renew(self._claim.run_id, self._claim.generation, LEASE_TTL_S)


_STATUS = {StopReason.FINISHED: Status.SUCCEEDED, StopReason.CANCELLED: Status.CANCELLED}


def said_about(request: TaskRequest, events: Sequence[Event]) -> list[Said]:
    """What was said in a turn, as later turns show it to the model. Calls that were cut off have an answer too:
    chat templates and endpoints demand one for each."""
    messages = view("", request.problem_statement, events)[1:]
    answered = {message.get("tool_call_id") for message in messages}
    done = steps(events)
    if done and done[-1].message is not None:
        for call in done[-1].message.tool_calls[len(done[-1].results) :]:
            if call.id not in answered or len(done[-1].results) == 0:
                messages.append(observation_message(Observation(call_id=call.id, text=_INTERRUPTED)))
    answered_by = {"model": request.model.name, "thinking": request.model.thinking}
    return [
        Said.model_validate(
            message | {"content": as_text(message["content"])} | (answered_by if message["role"] == "assistant" else {})
        )
        for message in messages
    ]


class _TurnOver(Exception):
    """The agent answered."""


class _TurnLog(StoreLog):
    async def extend(self, entries: Sequence[Entry]) -> Sequence[Event]:
        events = await super().extend(entries)
        newest = events[-1]
        if newest.type == "step.message" and _is_answer(StepMessage.model_validate(newest.body)):
            raise _TurnOver
        return events


def _is_answer(said: StepMessage) -> bool:
    """It is for the user: text without a call, and whole."""
    message = said.message
    return (
        said.aborted is None
        and not message.tool_calls
        and message.finish_reason != "length"
        and bool(message.content.strip())
    )
