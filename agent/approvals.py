"""Decides on tool calls by what the task allows and by what the user granted while it ran."""

from agent.events import ApprovalRequested
from agent.inbox import Inbox
from agent.log import Log
from agent.permissions.policy import Allowed, Asked, Decision, Grant, Mode, decide
from agent.steps.user import Approve
from agent.types import TaskRequest, ToolCall


def approver(task: TaskRequest, inbox: Inbox, log: Log) -> Approve:
    """The policy of one run."""

    def approve(call: ToolCall) -> Decision:
        if task.approvals == "none":
            return Allowed()
        mode = Mode(task.approvals)
        return decide(call, mode, _grants(inbox, log, mode))

    return approve


def _grants(inbox: Inbox, log: Log, mode: Mode) -> list[Grant]:
    """What was allowed for the rest of the task: each part of the call by itself, never the line as a whole."""
    decisions = inbox.decisions()
    granted: list[Grant] = []
    for event in log.events:
        if event.type != "approval.requested":
            continue
        request = ApprovalRequested.model_validate(event.body)
        decided = decisions.get(request.approval_id)
        if decided and decided.decision == "allow" and decided.scope == "task":
            asked = decide(request.call, mode)
            granted.extend((asked.grants or ()) if isinstance(asked, Asked) else ())
    return granted
