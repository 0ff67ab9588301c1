"""The result of a task in plain words."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from agent.api.schemas import AttemptView, QueuePlace, TaskList, TaskSummary, TaskView
from agent.cli.terminal import Terminal, age, one_line, printable
from agent.mining import Mining
from agent.types import Evidence, Status, StopReason, VerdictKind, WaitingOn


def report(terminal: Terminal, task: TaskView) -> None:
    """Verdict, evidence, why the agent stopped, and what it cost; all on standard error."""
    terminal.note("")
    terminal.note(_verdict(task))
    for evidence in task.verdict.evidence if task.verdict else ():
        terminal.note(_evidence(evidence))
        if not evidence.passed:
            terminal.note(Text(_tail(evidence.output), "dim"))
    if task.stop_reason is not StopReason.FINISHED or task.error:
        terminal.note(Text.assemble(("Stopped: ", "bold"), _stopped(task)))
    terminal.note(Text(cost(task), "dim"))


def cost(task: TaskSummary) -> str:
    """Steps, tokens and time in one line."""
    usage = task.usage
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    parts = [
        f"{task.steps} step{'' if task.steps == 1 else 's'}",
        f"{usage.prompt_tokens:,} tokens read{cached}, {usage.completion_tokens:,} written",
        *([f"{task.duration_s:.1f} s"] if task.duration_s is not None else []),
    ]
    return " · ".join(parts)


def table(terminal: Terminal, page: TaskList) -> None:
    """Tasks as a table, one line each."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    # Ids are there to be copied: the problem gives way first.
    for heading, width in (("task", 37), ("status", 9), ("verdict", 8), ("age", 4), ("problem", None)):
        rows.add_column(heading, no_wrap=True, overflow="ellipsis", min_width=width)
    now = datetime.now(UTC)
    for task in page.tasks:
        rows.add_row(
            task.id,
            Text(task.status, _STATUS_STYLES.get(task.status, "yellow")),
            Text(task.verdict.kind if task.verdict else "", _VERDICTS[task.verdict.kind][1] if task.verdict else ""),
            age((now - task.created_at).total_seconds()),
            one_line(task.problem_statement, 60),
        )
    terminal.out.print(rows, width=None if terminal.out.is_terminal else FILE_WIDTH)


class AttemptSize(AttemptView):
    """An attempt with the size of its patch, which is known once it ended."""

    num_files: int | None
    added: int | None
    """Lines."""
    removed: int | None


def attempts(terminal: Terminal, lines: Sequence[AttemptSize]) -> None:
    """Attempts as a table, one line each."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("attempt", "status", "verdict", "files", "lines", "steps", "chosen"):
        rows.add_column(heading, no_wrap=True)
    for line in lines:
        verdict = line.verdict.kind if line.verdict else None
        rows.add_row(
            str(line.attempt),
            Text(line.status, _STATUS_STYLES.get(line.status, "yellow")),
            Text(verdict or "", _VERDICTS[verdict][1] if verdict else ""),
            "" if line.num_files is None else str(line.num_files),
            "" if line.num_files is None else f"+{line.added} -{line.removed}",
            str(line.steps),
            "yes" if line.selected else "",
        )
    terminal.out.print(rows, width=None if terminal.out.is_terminal else FILE_WIDTH)


def details(terminal: Terminal, task: TaskView) -> None:
    """One task as lines on standard output."""
    lines: list[tuple[str, str | Text]] = [
        ("task", task.id),
        ("status", Text(task.status, _STATUS_STYLES.get(task.status, "yellow"))),
        ("problem", one_line(task.problem_statement, 200)),
        ("repository", f"{printable(task.repository)} at {task.base_commit[:12]}"),
        ("verdict", _verdict(task)),
    ]
    if task.queue is not None:
        lines.append(("queue", _place(task.queue)))
    if task.waiting_on is not None:
        lines.append(("waits for", _WAITING[task.waiting_on].format(task.id)))
    if task.status.terminal and (task.stop_reason is not StopReason.FINISHED or task.error):
        lines.append(("stopped", _stopped(task)))
    lines.append(("cost", cost(task)))
    if task.mining is not None:
        lines.append(("mining", _mining(task.mining)))
    for label, value in lines:
        terminal.out.print(Text.assemble((f"{label:<12}", "bold"), value), soft_wrap=True, highlight=False)
    for evidence in task.verdict.evidence if task.verdict else ():
        terminal.out.print(_evidence(evidence), soft_wrap=True, highlight=False)
    if len(task.attempts) > 1:
        for attempt in task.attempts:
            verdict = attempt.verdict.kind if attempt.verdict else "no verdict"
            mark = "→" if attempt.selected else " "
            line = f"  {mark} attempt {attempt.attempt}: {attempt.status}, {verdict}, {attempt.steps} steps"
            terminal.out.print(line, highlight=False)


_WAITING = {
    WaitingOn.QUESTION: "an answer to its question: mimo task message {} TEXT",
    WaitingOn.APPROVAL: "a word about a call: mimo approvals list",
    WaitingOn.BUDGET: "a higher limit",
    WaitingOn.QUOTA: "the project's quota: mimo task resume {} tries at once",
    WaitingOn.CAPACITY: "the model or a sandbox: mimo task resume {} tries at once",
}

_VERDICTS = {
    VerdictKind.VERIFIED: ("Verified: every check passes with the patch, in a fresh sandbox.", "bold green"),
    VerdictKind.PARTLY_VERIFIED: (
        "Partly verified: some checks pass with the patch; none that passed before fails now.",
        "bold yellow",
    ),
    VerdictKind.UNVERIFIED: ("Unverified: no check passes with the patch.", "bold yellow"),
    VerdictKind.NO_CHANGE: ("No change: the files are as they were.", "bold red"),
    VerdictKind.REGRESSED: ("Regressed: a check that passed before the patch fails with it.", "bold red"),
}

_STATUS_STYLES = {Status.SUCCEEDED: "green", Status.FAILED: "red", Status.CANCELLED: "red", Status.QUEUED: "dim"}

_REMEDIES = {
    StopReason.STEP_LIMIT: "raise --max-steps to let it go on longer",
    StopReason.WALL_CLOCK: "raise --timeout to let it go on longer",
    StopReason.ERROR_LIMIT: "look at its last commands: mimo task logs",
    StopReason.MODEL_ERROR: "check --model-url and that the server runs",
}

_TAIL_LINES = 15
FILE_WIDTH = 160
"""Columns of what goes into a file or a pipe."""


def _verdict(task: TaskSummary) -> Text:
    if task.verdict is None:
        return Text("No verdict: the run ended before the checks." if task.status.terminal else "None yet.", "bold red")
    if task.verdict.kind is VerdictKind.UNVERIFIED and not task.verdict.evidence:
        return Text("Unverified: no check was given, so nothing proves the patch.", "bold yellow")
    return Text(*_VERDICTS[task.verdict.kind])


def _stopped(task: TaskSummary) -> str:
    why = printable(task.error or "") or (task.stop_reason or "the run failed").replace("_", " ")
    remedy = _REMEDIES.get(task.stop_reason) if task.stop_reason else None
    return f"{why}; {remedy}" if remedy else why


def _mining(mining: Mining) -> str:
    """What a benchmark's task looked at; a remark, and no verdict."""
    if not mining.remarks:
        return "nothing looked for the answer outside of the files"
    calls = len({(remark.step, remark.call) for remark in mining.remarks})
    places = ", ".join(dict.fromkeys(remark.place for remark in mining.remarks))
    first = mining.remarks[0]
    what = f"{calls} call{'s' if calls > 1 else ''} looked where the answer may stand ({places})"
    return f"{what}; first in step {first.step}: {one_line(first.call, 72)}"


def _place(queue: QueuePlace) -> str:
    return queue.reason if queue.position is None else f"{queue.position}; {queue.reason}"


def _evidence(evidence: Evidence) -> Text:
    mark, style = ("✓", "green") if evidence.passed else ("✗", "red")
    ended = "ended by force" if evidence.exit_code is None else f"exit {evidence.exit_code}"
    before = {True: ", passed before the patch", False: ", failed before the patch too", None: ""}
    known = "" if evidence.passed else before[evidence.passed_before]
    what = one_line(evidence.command, 72)
    return Text.assemble("  ", (mark, style), f" {what}  ", (f"{ended}, {evidence.duration_s:.1f} s{known}", "dim"))


def _tail(output: str) -> str:
    lines = [line for line in printable(output).splitlines() if line.strip()][-_TAIL_LINES:]
    return "\n".join(f"      {line}" for line in lines)
