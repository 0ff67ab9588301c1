"""``mimo approvals``: calls of a service's tasks that wait for a person's word."""

from agent.api.schemas import ApprovalList, ApprovalView, Decision
from agent.cli.client import Client
from agent.cli.output import Format
from agent.cli.terminal import Terminal, one_line, printable

_PATH = "/v1/approvals"


async def list_approvals(client: Client, terminal: Terminal, output: Format) -> None:
    """What waits, the oldest task first."""
    waiting = await client.ask(ApprovalList, "GET", _PATH)
    if output is Format.JSON:
        terminal.result(waiting.model_dump_json(indent=2))
        return
    for approval in waiting.approvals:
        parts = "; ".join(one_line(part, 100) for part in approval.parts)
        terminal.result(f"{approval.id}  {approval.tool}  {parts}\n")
    if not waiting.approvals:
        terminal.note("Nothing waits.")


async def show_approval(client: Client, approval_id: str, terminal: Terminal, output: Format) -> None:
    """One call, whole."""
    approval = await client.ask(ApprovalView, "GET", f"{_PATH}/{approval_id}")
    if output is Format.JSON:
        terminal.result(approval.model_dump_json(indent=2))
        return
    terminal.result(f"{approval.tool} {printable(approval.arguments)}\n")
    if approval.edited_args is not None:
        terminal.note(f"allowed with {printable(approval.edited_args)}")
    terminal.note(f"task {approval.task_id}, step {approval.step}: {approval.decision or 'waits for a decision'}")


async def decide(client: Client, approval_id: str, decision: Decision, terminal: Terminal) -> None:
    """Allow a call or deny it; the first decision counts."""
    approval = await client.ask(ApprovalView, "POST", f"{_PATH}/{approval_id}", decision)
    terminal.note(f"{approval.id}: {approval.decision}")
