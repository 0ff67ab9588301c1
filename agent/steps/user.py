"""The user of a run: what they say, what they are asked, and what they allow."""

from collections.abc import Callable, Sequence

from agent.events import ApprovalDecided, ApprovalRequested, MessageTaken, QuestionAsked
from agent.inbox import Inbox
from agent.permissions.policy import Allowed, Asked, Decision, Denied
from agent.steps.ends import Parked
from agent.steps.record import Record
from agent.tools.ask_user import AskUserArguments
from agent.tools.base import ToolResult
from agent.trajectory import Step
from agent.types import ToolCall, WaitingOn

Approve = Callable[[ToolCall], Decision]
"""Whether a call may be made: now, never, or only if the user says so."""


class User:
    """As one run knows them."""

    def __init__(self, record: Record, inbox: Inbox, approve: Approve) -> None:
        self._record = record
        self._inbox = inbox
        self._approve = approve

    def hear(self, done: Sequence[Step]) -> bool:
        """Put what they said before the next answer; False where that was nothing."""
        self._inbox.interrupted.clear()
        messages = self.pending(done, finished=len(done) > 1 and done[-2].finished)
        for message in messages:
            self._record.add("message.taken", message)
        return bool(messages)

    def pending(self, done: Sequence[Step], *, finished: bool, after: int = 0) -> list[MessageTaken]:
        """Their messages whose turn it is; those that are queued only after ``finish``."""
        taken = {heard.message_id for step in done for heard in step.heard}
        taken |= {result.message_id for step in done for result in step.results if result.message_id}
        messages = self._inbox.messages(taken, after=after)
        return [
            MessageTaken(step=done[-1].number, message_id=message.message_id, text=message.text, images=message.images)
            for message in messages
            if finished or message.delivery != "queue"
        ]

    def to_be_asked(self, step: Step, call: ToolCall, intent_id: str) -> bool:
        """Whether they are about to be asked about a call, for the first time."""
        asked = any(request.approval_id == self._approval_id(intent_id) for request in step.requests)
        return not asked and isinstance(self._approve(call), Asked)

    def allowed(self, step: Step, call: ToolCall, intent_id: str) -> ToolCall | ToolResult:
        """The call as it may be made, which they may have changed; or why it is not made.

        Raises:
            Parked: they have yet to decide.
        """
        match self._approve(call):
            case Allowed():
                return call
            case Denied(reason):
                return _denied(call, reason)
            case Asked(parts):
                decision = self._decision(step, call, intent_id, tuple(part.text for part in parts))
        if decision.decision == "deny":
            said = f"the user does not allow it: {decision.reason or 'no reason was given'}"
            return ToolResult(f"[error] {call.name}: {said}", error=True, denied="user")
        if decision.edited_args is None:
            return call
        edited = call.model_copy(update={"arguments": decision.edited_args})
        # Their word allows what would be asked for, never what the policy forbids.
        allowed = self._approve(edited)
        return _denied(edited, allowed.reason) if isinstance(allowed, Denied) else edited

    async def ask(self, done: Sequence[Step], question: AskUserArguments, intent_id: str) -> ToolResult:
        """Their next message is the answer.

        Raises:
            Parked: there is none yet.
        """
        step = done[-1]
        if all(asked.question_id != intent_id for asked in step.questions):
            options = tuple(question.options)
            asked = QuestionAsked(step=step.number, question_id=intent_id, text=question.question, options=options)
            self._record.add("question.asked", asked)
            await self._record.write()
        answers = self.pending(done, finished=True, after=self._asked_at(intent_id))
        if not answers:
            raise Parked(WaitingOn.QUESTION, question_id=intent_id, text=question.question)
        answer = answers[0]
        return ToolResult(answer.text, message_id=answer.message_id, images=answer.images)

    def _decision(self, step: Step, call: ToolCall, intent_id: str, parts: tuple[str, ...]) -> ApprovalDecided:
        """What they decided about a call; asks and waits where that is not known."""
        approval_id = self._approval_id(intent_id)
        if decided := self._inbox.decisions().get(approval_id):
            return decided
        if all(request.approval_id != approval_id for request in step.requests):
            request = ApprovalRequested(step=step.number, approval_id=approval_id, call=call, parts=parts)
            self._record.add("approval.requested", request)
        raise Parked(WaitingOn.APPROVAL, approval_id=approval_id)

    def _approval_id(self, intent_id: str) -> str:
        return f"{self._record.run_id}-{intent_id}"

    def _asked_at(self, question_id: str) -> int:
        asked = (event for event in self._record.events if event.type == "question.asked")
        return next(event.seq for event in asked if event.body["question_id"] == question_id)


def _denied(call: ToolCall, reason: str) -> ToolResult:
    return ToolResult(f"[error] {call.name}: not allowed: {reason}", error=True, denied="policy")
