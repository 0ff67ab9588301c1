"""``mimo schedule``."""

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import (
    LOCAL_SERVICE,
    Checks,
    Commit,
    FormatAs,
    MaxCost,
    MaxSteps,
    MaxTokens,
    NoColor,
    Problem,
    Server,
    Timeout,
)
from agent.cli.output import Format, Overlap
from agent.cli.session import with_client

app = typer.Typer(help="Tasks that are submitted again and again.", no_args_is_help=True, rich_markup_mode=None)

ScheduleId = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Id of the schedule.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call it.")],
    cron: Annotated[
        str,
        typer.Argument(metavar="CRON", help="Minute, hour, day, month, day of the week, such as '30 6 * * MON-FRI'."),
    ],
    problem: Problem = None,
    time_zone: Annotated[str | None, typer.Option(metavar="ZONE", help="Such as Europe/Berlin. Default: UTC.")] = None,
    overlap: Annotated[
        Overlap, typer.Option(help="While the task before works: skip the time, wait, replace that task, or have both.")
    ] = Overlap.SKIP,
    paused: Annotated[bool, typer.Option("--paused", help="Do not begin yet.")] = False,
    repo: Annotated[
        Path, typer.Option("--repo", metavar="NAME|PATH", help="A repository of the project, or a git checkout here.")
    ] = Path(),
    commit: Commit = "HEAD",
    check: Checks = None,
    max_steps: MaxSteps = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    timeout: Timeout = None,
    server: Server = LOCAL_SERVICE,
    no_color: NoColor = False,
) -> None:
    """Have a task submitted at the times of a cron expression; prints the schedule's id."""
    from agent.cli import arguments, schedule
    from agent.cli.terminal import open_terminal

    limits = arguments.limits(max_steps=max_steps, max_tokens=max_tokens, max_cost=max_cost, timeout_s=timeout)
    given: dict[str, object] = {
        "name": name,
        "cron": cron,
        "time_zone": time_zone,
        "overlap": overlap.value,
        "enabled": not paused,
        "task": {
            "repository": str(arguments.repository(repo)),
            "base_commit": commit,
            "problem_statement": arguments.read_problem(problem),
            "checks": [{"command": command} for command in check or ()],
            "limits": limits.model_dump(),
        },
    }
    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: schedule.create(client, terminal, given))


@app.command("list")
def list_all(server: Server = LOCAL_SERVICE, output: FormatAs = Format.TEXT, no_color: NoColor = False) -> None:
    """List the project's schedules: when each runs next, and what came of the last time."""
    from agent.cli import schedule
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: schedule.list_schedules(client, terminal, output))


@app.command("show")
def show(schedule_id: ScheduleId, server: Server = LOCAL_SERVICE) -> None:
    """Print all of a schedule as JSON."""
    from agent.cli import schedule
    from agent.cli.terminal import open_terminal

    terminal = open_terminal()
    with_client(server, lambda client: schedule.show(client, schedule_id, terminal))


@app.command("pause")
def pause(schedule_id: ScheduleId, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Submit nothing until it is resumed."""
    _switch(schedule_id, server, enabled=False, no_color=no_color)


@app.command("resume")
def resume(schedule_id: ScheduleId, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Go on at the next time; times that passed meanwhile are not made up for."""
    _switch(schedule_id, server, enabled=True, no_color=no_color)


@app.command("run")
def run(schedule_id: ScheduleId, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Submit its task now, whatever its times are; prints the task's id."""
    from agent.cli import schedule
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: schedule.run(client, schedule_id, terminal))


@app.command("delete")
def delete(schedule_id: ScheduleId, server: Server = LOCAL_SERVICE, no_color: NoColor = False) -> None:
    """Forget a schedule; its tasks stay."""
    from agent.cli import schedule
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: schedule.delete(client, schedule_id, terminal))


def _switch(schedule_id: str, server: str, *, enabled: bool, no_color: bool) -> None:
    from agent.cli import schedule
    from agent.cli.terminal import open_terminal

    terminal = open_terminal(no_color=no_color)
    with_client(server, lambda client: schedule.switch(client, schedule_id, terminal, enabled=enabled))
