"""What a log says: the state of a run and of a task, by pure functions over events."""

from collections.abc import Iterable

from agent.events import RunStopped
from agent.store.base import RunRecord, select
from agent.types import Event, Status, StopReason, Usage, Verdict, WaitingOn

_FURTHEST_FIRST = (
    Status.RUNNING,
    Status.FINALIZING,
    Status.PROVISIONING,
    Status.WAITING,
    Status.PAUSED,
    Status.QUEUED,
)

_MAY_COST = frozenset(("note.written", "tool.completed", "reproduction.written", "attempts.judged"))
"""Events that hold what a model call beside the agent's own cost, where there was one."""

_CHANGING = frozenset(
    (
        "run.claimed",
        "run.provisioned",
        "run.resumed",
        "step.message",
        "run.stopped",
        "verdict.reached",
        "run.parked",
        "run.requeued",
        "run.finished",
    )
)


def advance(run: RunRecord, event: Event) -> RunRecord:
    """The run after one more of its events; events that change nothing of the record pass through."""
    body = event.body
    match event.type:
        case "run.claimed":
            # A run whose agent had stopped is only missing its verdict.
            status = Status.FINALIZING if run.stop_reason else Status.PROVISIONING
            started_at = run.started_at or event.at
            return run.model_copy(
                update={
                    "status": status,
                    "waiting_on": None,
                    "generation": event.generation,
                    "started_at": started_at,
                }
            )
        case "run.provisioned" | "run.resumed":
            return run.model_copy(update={"status": Status.RUNNING})
        case "step.message":
            usage = run.usage + Usage.model_validate(body["usage"])
            return run.model_copy(update={"steps": max(run.steps, body["step"]), "usage": usage})
        case kind if kind in _MAY_COST and body.get("usage"):
            return run.model_copy(update={"usage": run.usage + Usage.model_validate(body["usage"])})
        case "run.stopped":
            stopped = RunStopped.model_validate(body)
            return run.model_copy(update={"status": Status.FINALIZING, "stop_reason": stopped.stop_reason})
        case "verdict.reached":
            return run.model_copy(update={"verdict": Verdict.model_validate(body["verdict"])})
        case "run.parked":
            waiting_on = WaitingOn(body["waiting_on"]) if body["waiting_on"] else None
            return run.model_copy(update={"status": Status(body["status"]), "waiting_on": waiting_on})
        case "run.requeued":
            return run.model_copy(update={"status": Status.QUEUED, "waiting_on": None})
        case "run.finished":
            stop_reason_text = body["stop_reason"]
            return run.model_copy(
                update={
                    "status": Status(body["status"]),
                    "stop_reason": None if stop_reason_text is None else StopReason(stop_reason_text),
                    "error": body["error"],
                    "waiting_on": None,
                    "finished_at": event.at,
                }
            )
        case _:
            return run


def changes(event: Event) -> bool:
    """Whether :func:`advance` may make another record of a run: most events of one only grow its log."""
    if event.type in _MAY_COST:
        return bool(event.body.get("usage"))
    return event.type in _CHANGING


def replay(run: RunRecord, log: Iterable[Event]) -> RunRecord:
    """The run after all events of a log that are its own."""
    for event in log:
        if event.run_id == run.run_id:
            run = advance(run, event)
    return run


def task_status(runs: tuple[RunRecord, ...]) -> Status:
    """Terminal when all runs are: that of the selected one. Else how far the furthest living run is."""
    living = {run.status for run in runs if not run.status.terminal}
    if not living:
        return select(runs).status
    return next(status for status in _FURTHEST_FIRST if status in living)
