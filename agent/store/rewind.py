"""Takes steps of a run back, while no worker has it."""

from collections.abc import Sequence
from typing import Any

from agent.budget import spent
from agent.errors import CannotRewind
from agent.events import MessageAdded, Restore, RunRewound
from agent.inbox import Inbox
from agent.store.base import RunRecord, TaskRecord
from agent.store.database import Transaction
from agent.store.derive import advance
from agent.store.ids import new_id
from agent.store.journal import write_event
from agent.store.rows import read_events, save_run
from agent.store.tables import events
from agent.trajectory import Step, Trajectory, belongs_after, last_snapshot, standing
from agent.types import Event, Snapshot, Status

_PUT_BACK = "The files in /workspace were put back to how they were {when}. What was changed later is gone."


def run_to_rewind(task: TaskRecord, run_id: str | None) -> RunRecord:
    """The run of this id, or the only one that has not ended.

    Raises:
        CannotRewind: there is none of these that waits; the message says what to do.
    """
    living = [run for run in task.runs if not run.status.terminal]
    named = [run for run in living if run_id in (None, run.run_id)]
    if not living:
        raise CannotRewind(f"task {task.id} has ended; fork it at the event where it should go on")
    if len(named) != 1:
        raise CannotRewind("name the run_id of one attempt that has not ended")
    if not named[0].status.parked:
        raise CannotRewind(f"run {named[0].run_id} is {named[0].status}; pause the task, and wait until it is paused")
    return named[0]


async def rewind(transaction: Transaction, run: RunRecord, task_id: str, to_step: int, restore: Restore) -> None:
    """Events that say what stands from now on. A run whose conversation is taken back is paused then.

    Raises:
        CannotRewind: the run has no such step.
    """
    log = standing(await read_events(transaction.db, events.c.run_id == run.run_id))
    steps = Trajectory(log)
    kept, gone = _split(steps.steps, to_step)
    files = _files(log, kept) if restore != "conversation" else last_snapshot(log)
    # What only the files lost is counted where it stands.
    taken_back = () if restore == "files" else [event for event in log if belongs_after(event, to_step)]
    rewound = RunRewound(
        to_step=to_step,
        restore=restore,
        tree=files.tree if files else None,
        checkpoint=files.checkpoint if files else None,
        last_step=steps.next_number - 1,
        usage=spent((event.type, event.body) for event in taken_back),
    )
    say = _Words(transaction, task_id, run)
    await say.of_run("run.rewound", rewound.model_dump(mode="json"))
    if restore == "files":
        when = f"after step {to_step}" if to_step else "at the beginning"
        told = MessageAdded(message_id=new_id("msg"), text=_PUT_BACK.format(when=when))
        await say.of_user("message.added", told.model_dump(mode="json"))
        return
    for message_id in (heard.message_id for step in gone for heard in step.heard):
        await say.of_user("message.removed", {"message_id": message_id})
    if not Inbox(await read_events(transaction.db, events.c.task_id == task_id)).paused:
        await say.of_user("task.paused", {})
    if run.status is not Status.PAUSED:
        # It is no longer tried again by itself.
        await say.of_run("run.parked", {"status": Status.PAUSED, "waiting_on": None}, lease_until=None)


def _split(steps: Sequence[Step], to_step: int) -> tuple[list[Step], list[Step]]:
    complete = [0, *(step.number for step in steps if step.completed)]
    if to_step not in complete:
        raise CannotRewind(f"the run has no complete step {to_step}; it has {', '.join(map(str, complete[-20:]))}")
    return [step for step in steps if step.number <= to_step], [step for step in steps if step.number > to_step]


def _files(log: Sequence[Event], kept: Sequence[Step]) -> Snapshot | None:
    """As they were after the last of these steps; None for those of the base."""
    numbers = {step.number for step in kept}
    return last_snapshot([event for event in log if event.body.get("step") in numbers])


class _Words:
    """What is written to the log, and what that makes of the run."""

    def __init__(self, transaction: Transaction, task_id: str, run: RunRecord) -> None:
        self._transaction = transaction
        self._task_id = task_id
        self._run = run

    async def of_user(self, kind: str, body: dict[str, Any]) -> None:
        await write_event(self._transaction, self._task_id, kind, body)

    async def of_run(self, kind: str, body: dict[str, Any], **columns: Any) -> None:
        run = self._run
        event = await write_event(
            self._transaction, self._task_id, kind, body, run_id=run.run_id, generation=run.generation
        )
        self._run = advance(run, event)
        await save_run(self._transaction.db, self._run, **columns)
