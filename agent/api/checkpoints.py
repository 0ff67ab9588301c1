"""The steps of a task to which its runs can go back, or from which another task can go on."""

from collections.abc import Sequence

from fastapi import APIRouter

from agent.api.auth import needs
from agent.api.context import Shared
from agent.api.log import whole_log
from agent.api.schemas import Checkpoint, CheckpointList, Kept
from agent.api.web.entry import called
from agent.api.web.text import first_line
from agent.trajectory import Step, standing, steps
from agent.types import Event

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get("/{task_id}/checkpoints", dependencies=[needs("tasks:read")])
async def list_checkpoints(task_id: str, shared: Shared) -> CheckpointList:
    """The complete steps of every attempt, in order, without those that were taken back. ``rewind`` takes ``step``, and
    0 for the beginning; ``fork`` takes ``seq``."""
    task = await shared.tasks.get(task_id)
    log = [event async for event in whole_log(shared.tasks, task_id)]
    runs = ([event for event in log if event.run_id == run.run_id] for run in task.runs)
    return CheckpointList(checkpoints=tuple(checkpoint for run in runs for checkpoint in _checkpoints(run)))


def _checkpoints(log: Sequence[Event]) -> list[Checkpoint]:
    """Of one run."""
    stands = standing(log)
    ends = {int(event.body["step"]): event for event in stands if event.type == "step.completed"}
    files: Kept = "base"
    found: list[Checkpoint] = []
    for step in steps(stands):
        for result in step.results:
            if result.tree is not None:
                files = "all" if result.checkpoint is not None else "tracked"
        if end := ends.get(step.number):
            assert end.run_id is not None, end
            found.append(
                Checkpoint(
                    run_id=end.run_id, step=step.number, seq=end.seq, at=end.at, did=_in_a_line(step), files=files
                )
            )
    return found


def _in_a_line(step: Step) -> str:
    """The calls; or what the agent said, where it made none."""
    calls = (called(call) for call in step.message.tool_calls) if step.message else ()
    words = "; ".join(f"{call.name} {call.title}".strip() for call in calls)
    return first_line(words or (step.message.content if step.message else ""))
