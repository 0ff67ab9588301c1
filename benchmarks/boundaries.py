"""A kill at every boundary of a run: does it still end as if nothing had happened?

    python -m benchmarks.boundaries

A boundary is a point at which a run meets something outside its worker: a transaction that writes (before Postgres has
its commit, before the worker knows of it), a request to the model (before the server has it, before the answer's first
byte, in its middle, after its end), a request to a sandbox (before it is made, while the command runs, before the
worker has the answer). They are not listed: one undisturbed run is watched, and each point that it passed is one. Then
the same run is done again and again, and at each point something is hit: the worker (SIGKILL), its sandbox (SIGKILL of
the first process), the connections to the database, or those to the model. It needs a Postgres server's programs.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agent.types import Check, Status, TaskRequest
from benchmarks.lane import VICTIMS, Lane, Trial, Victim
from tests.postgres import PostgresServer, postgres_server


def faults(trial: Trial, undisturbed: Trial) -> Iterator[str]:
    """What should not be, in words."""
    task, log, as_told = trial.task, trial.log, undisturbed.task
    if task.status is not Status.SUCCEEDED or task.verdict is None or as_told.verdict is None:
        yield f"it is {task.status} ({task.stop_reason}, {task.verdict}): {task.error}"
        return
    if task.patch != as_told.patch:
        yield f"another patch: {task.patch}"
    if task.verdict.kind is not as_told.verdict.kind:
        yield f"another verdict: {task.verdict.kind}"
    if [event.seq for event in log] != list(range(1, len(log) + 1)):
        yield f"the log has holes: {[event.seq for event in log]}"
    intents = [event.body["intent_id"] for event in log if event.type == "tool.intent"]
    ended = [event.body["intent_id"] for event in log if event.type == "tool.completed"]
    if intents != ended or len(set(intents)) != len(intents):
        yield f"calls without an end, or twice: {intents}, {ended}"
    if trial.story != undisturbed.story:
        yield f"another story: {trial.story}"


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    undisturbed: Trial
    trials: list[Trial] = field(default_factory=list)
    left: dict[Victim, set[str]] = field(default_factory=dict)
    """Points that no run came to again."""

    def of(self, victim: Victim) -> list[Trial]:
        return [trial for trial in self.trials if trial.victim == victim]

    def struck(self, victim: Victim) -> list[str]:
        return [point for trial in self.of(victim) for point in trial.course.struck]

    def wrong(self, victim: Victim) -> list[str]:
        """What should not be, in words."""
        found = [
            f"{trial.course.struck}: {fault}" for trial in self.of(victim) for fault in faults(trial, self.undisturbed)
        ]
        return found + [f"no run came to {point} again" for point in sorted(self.left[victim])]


Choose = Callable[[Victim, str], bool]


def everywhere(victim: Victim, point: str) -> bool:
    """Each thing at each point."""
    return True


def at_home(victim: Victim, point: str) -> bool:
    """Each thing where it is asked, and the worker at its writes and while a command runs."""
    return ("database:" in point or "runs" in point) if victim == "worker" else f": {victim}:" in point


async def measure(server: PostgresServer, choose: Choose, *, at_once: int) -> Outcome:
    """An undisturbed run, then as many as are needed to hit everything at all the points that are chosen."""
    async with AsyncExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mimo-"))) for _ in range(at_once + 1)]
        request = _request(folders.pop())
        lanes = [await stack.enter_async_context(Lane.open(server, folder, request)) for folder in folders]
        outcome = Outcome(await lanes[0].run())
        passed = outcome.undisturbed.course.passed
        outcome.left = {victim: {point for point in passed if choose(victim, point)} for victim in VICTIMS}
        await asyncio.gather(*(_strike(lane, outcome) for lane in lanes))
    return outcome


async def _strike(lane: Lane, outcome: Outcome) -> None:
    """One run after the other, while they come to points that are left."""
    for victim, left in outcome.left.items():
        while left:
            trial = await lane.run(victim, left)
            outcome.trials.append(trial)
            if not trial.course.struck and not trial.course.empty:
                break


def _request(folder: Path) -> TaskRequest:
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n", "utf-8")
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@localhost commit -q -m begin"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    check = Check(command="grep -q 'a + b' calc.py")
    return TaskRequest(repository=str(folder), problem_statement="add subtracts", profile="assistant", checks=(check,))


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill at every boundary of a run.")
    parser.add_argument("--all", action="store_true", help="Hit everything everywhere, not each where it is asked.")
    parser.add_argument("--at-once", type=int, default=4, help="Runs at any moment.")
    arguments = parser.parse_args()
    with postgres_server() as server:
        choose = everywhere if arguments.all else at_home
        outcome = asyncio.run(measure(server, choose, at_once=arguments.at_once))
    print(f"{len(outcome.undisturbed.course.passed)} boundaries")
    for victim in VICTIMS:
        its = outcome.of(victim)
        print(
            f"{victim}: hit at {len(outcome.struck(victim))} in {len(its)} runs; nothing to hit at "
            f"{sum(len(trial.course.empty) for trial in its)}; {sum(len(trial.told) for trial in its)} steps more, as "
            f"the model was told that something was lost; {len(outcome.wrong(victim))} wrong"
        )
    wrong = [line for victim in VICTIMS for line in outcome.wrong(victim)]
    for line in wrong:
        print(line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
