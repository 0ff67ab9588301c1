"""``mimo schedule``: tasks that a project has submitted again and again."""

from datetime import datetime

from pydantic import ValidationError

from agent.api.schedules import NewSchedule, ScheduleChange, ScheduleList
from agent.api.schemas import TaskView
from agent.cli.arguments import invalid
from agent.cli.client import Client
from agent.cli.output import Format
from agent.cli.terminal import Terminal, one_line
from agent.store.schedules import Schedule

_PATH = "/v1/schedules"


async def create(client: Client, terminal: Terminal, given: dict[str, object]) -> None:
    """Make one; ``given`` are fields of ``NewSchedule``, None where the user says nothing. Prints its id."""
    try:
        new = NewSchedule.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise invalid(error) from error
    schedule = await client.ask(Schedule, "POST", _PATH, new)
    terminal.note(f"{schedule.name}: {_next(schedule)}.")
    terminal.result(schedule.id)


async def list_schedules(client: Client, terminal: Terminal, output: Format) -> None:
    """When each is next, and what came of the last time; oldest first."""
    found = await client.ask(ScheduleList, "GET", _PATH)
    if output is Format.JSON:
        terminal.result(found.model_dump_json(indent=2))
        return
    for schedule in found.schedules:
        times = f"{schedule.cron} {schedule.time_zone}"
        terminal.result(f"{schedule.id}  {one_line(schedule.name, 40)}  {times}  {_next(schedule)}{_last(schedule)}\n")
    if not found.schedules:
        terminal.note('No schedules; make one with mimo schedule create NAME "30 6 * * MON-FRI" "...".')


async def show(client: Client, schedule_id: str, terminal: Terminal) -> None:
    terminal.result((await client.ask(Schedule, "GET", f"{_PATH}/{schedule_id}")).model_dump_json(indent=2))


async def switch(client: Client, schedule_id: str, terminal: Terminal, *, enabled: bool) -> None:
    """Pause it, or let it go on; times that passed meanwhile are not made up for."""
    schedule = await client.ask(Schedule, "PATCH", f"{_PATH}/{schedule_id}", ScheduleChange(enabled=enabled))
    terminal.note(f"{schedule.name}: {_next(schedule)}.")


async def run(client: Client, schedule_id: str, terminal: Terminal) -> None:
    """Submit its task now; prints the task's id."""
    task = await client.ask(TaskView, "POST", f"{_PATH}/{schedule_id}/run")
    terminal.result(task.id)


async def delete(client: Client, schedule_id: str, terminal: Terminal) -> None:
    await client.ask(None, "DELETE", f"{_PATH}/{schedule_id}")
    terminal.note(f"Deleted {schedule_id}; its tasks stay.")


def _next(schedule: Schedule) -> str:
    return f"next on {_moment(schedule.next_run_at)}" if schedule.next_run_at else "paused"


def _last(schedule: Schedule) -> str:
    if schedule.last_run_at is None:
        return ""
    came = f"refused: {one_line(schedule.last_error, 100)}" if schedule.last_error else schedule.last_task_id
    return f"; last on {_moment(schedule.last_run_at)}: {came}"


def _moment(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M %Z")
