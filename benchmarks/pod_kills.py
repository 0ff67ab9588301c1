"""Random pods of an installed release are killed under load: do all tasks end, none of them twice, and how soon?

    python -m benchmarks.pod_kills --tasks 20

A test cluster gets the chart's small profile over its own Postgres, with two pods of the API, two workers and two
routers. Tasks are submitted by REST, so many at a time, while every few seconds one pod is deleted without grace: of
the API, a worker, a router, the model server, the database, or a sandbox, each kind as often as the others. A task is
in order when its log has no hole, one end, and no call that ended twice or never; what it proved is counted beside.
Recovery is the time from a kill until each task that was unfinished then has completed a step or ended. In the end the
release is uninstalled, which must leave no pod. It needs what the cluster needs: the superuser, and the Debian packages
that `python -m deploy.cluster packages` names.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agent.api.schemas import EventView, TaskView
from agent.cli.client import Client
from agent.types import StopReason, TaskRequest
from deploy.chart.__main__ import ROOT
from deploy.cluster.cluster import start
from deploy.cluster.errors import ClusterError
from deploy.images.services import build_services
from evals.runner import Sampling, request_of
from evals.suite import eval_task, nano_heldout
from tests.helm.release import Release, answers, ended, submitted

_IMAGES = ("agent", "model-server", "postgres", "router", "sandboxd", "task")
_GIVEN = (
    "--set=database.mode=embedded,data.accessMode=ReadWriteMany,api.replicas=2,orchestrator.replicas=2",
    "--set=router.enabled=true,router.replicas=2",
    # What waits for room would be measured too: the bound of the small profile is ten pods.
    "--set=sandbox.bounds.pods=40,sandbox.bounds.cpus=16",
)
_KINDS = ("api", "orchestrator", "router", "model-server", "postgres", "sandbox")


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    hits: list[datetime] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    num_claims: int = 0
    num_sandboxes_lost: int = 0
    num_waits: int = 0
    """For a model that was away."""
    num_given_up: int = 0
    """Runs that lost more sandboxes than are replaced, which ends them by design."""
    wrong: list[str] = field(default_factory=list)
    """What should not be, in words; empty where all is well."""
    whole_s: float = 0.0


@contextmanager
def installed() -> Iterator[Release]:
    """A cluster of its own with the release, gone at the end."""
    archives = build_services(ROOT / "build" / "images", _IMAGES)
    with tempfile.TemporaryDirectory(prefix="mimo-kills-") as folder:
        cluster = start(Path(folder, "state"), name="kills", with_us=True)
        try:
            for archive in archives.values():
                cluster.load(archive)
            release = Release(cluster, "kills", "kills", _GIVEN)
            release.install("--create-namespace")
            yield release
        finally:
            cluster.stop()


async def measure(release: Release, *, num_tasks: int, at_once: int, pause_s: float) -> Outcome:
    outcome = Outcome()
    exercise = eval_task(next(iter(nano_heldout("heldout_names", 1))))
    with tempfile.TemporaryDirectory() as folder:
        request = request_of(exercise, await release.put(exercise, Path(folder)), Sampling(), None)
    begun = time.monotonic()
    async with release.client() as client:
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(_kill_at_random(release, outcome, pause_s))
            turn = asyncio.Semaphore(at_once)
            done = await asyncio.gather(*(_one(client, request, turn) for _ in range(num_tasks)))
            killing.cancel()
        outcome.whole_s = time.monotonic() - begun
        await answers(client)
        logs = [(await client.events(task.id)).events for task in done]
    for task, log in zip(done, logs, strict=True):
        _judge(task, log, outcome)
    outcome.recoveries_s = [s for hit in outcome.hits if (s := _recovery_s(hit, logs)) is not None]
    return outcome


async def _one(client: Client, request: TaskRequest, turn: asyncio.Semaphore) -> TaskView:
    async with turn:
        task = await submitted(client, request)
        return await ended(client, task.id)


async def _kill_at_random(release: Release, outcome: Outcome, pause_s: float) -> None:
    while True:
        kinds = list(_KINDS)
        random.shuffle(kinds)
        for kind in kinds:
            await asyncio.sleep(random.uniform(0, 2 * pause_s))
            if await asyncio.to_thread(_kill, release, kind):
                outcome.kills[kind] += 1
                outcome.hits.append(datetime.now(UTC))


def _kill(release: Release, kind: str) -> bool:
    """False where there is nothing to kill now."""
    is_sandbox = kind == "sandbox"
    pods = release.sandbox_pods() if is_sandbox else release.pods(kind)
    if not pods:
        return False
    try:
        if kind == "postgres":
            # Two must never be over one volume, so the next one waits until the node says that this one is gone.
            release.kubectl("delete", "pod", "--grace-period=1", "--wait=false", *pods)
        else:
            release.kill(random.choice(pods), namespace=release.sandboxes if is_sandbox else None)
    except ClusterError as error:
        if "not found" not in str(error):
            raise
        return False
    return True


def _uninstall(release: Release, outcome: Outcome) -> None:
    release.helm("uninstall", "--wait", "--timeout=280s")
    try:
        release.cluster.kubectl("wait", "--for=delete", "--timeout=120s", f"namespace/{release.sandboxes}")
        release.kubectl("wait", "--for=delete", "--timeout=120s", "pods", "--all")
    except ClusterError as error:
        outcome.wrong.append(f"after the uninstallation: {error}")


def _judge(task: TaskView, log: Sequence[EventView], outcome: Outcome) -> None:
    count: Callable[[str], int] = lambda kind: sum(event.type == kind for event in log)  # noqa: E731
    outcome.num_claims += count("run.claimed")
    outcome.num_sandboxes_lost += count("sandbox.lost")
    outcome.num_waits += count("run.parked")
    outcome.num_given_up += task.stop_reason is StopReason.SANDBOX_LOST
    outcome.verdicts[task.verdict.kind.value if task.verdict else "none"] += 1
    if [event.seq for event in log] != list(range(1, len(log) + 1)):
        outcome.wrong.append(f"{task.id} misses events")
    if count("task.finished") != 1:
        outcome.wrong.append(f"{task.id} ended {count('task.finished')} times")
    begun = [event.body["intent_id"] for event in log if event.type == "tool.intent"]
    over = Counter(event.body["intent_id"] for event in log if event.type == "tool.completed")
    if len(set(begun)) != len(begun) or any(times > 1 for times in over.values()):
        outcome.wrong.append(f"{task.id} has calls twice")
    if task.stop_reason is StopReason.FINISHED and set(begun) - set(over):
        outcome.wrong.append(f"{task.id} has calls without an end")
    if task.error and task.stop_reason in (None, StopReason.FINISHED, StopReason.MODEL_ERROR):  # not the agent's doing
        outcome.wrong.append(f"{task.id} is {task.status} ({task.stop_reason}): {task.error}")


def _recovery_s(hit: datetime, logs: Sequence[Sequence[EventView]]) -> float | None:
    """Until the last task that was unfinished goes on; None where none was."""
    goes_on = ("step.completed", "task.finished")
    unfinished = [log for log in logs if log[0].at < hit < log[-1].at]
    steps = (next(event.at for event in log if event.at > hit and event.type in goes_on) for log in unfinished)
    return max(((at - hit).total_seconds() for at in steps), default=None)


def _print(outcome: Outcome, num_tasks: int) -> None:
    table = Table(title=f"{outcome.kills.total()} pods killed, {num_tasks} tasks", show_header=False)
    rows = {
        **{f"kills: {kind}": outcome.kills[kind] for kind in _KINDS},
        **{f"tasks: {verdict}": times for verdict, times in sorted(outcome.verdicts.items())},
        "all together": f"{outcome.whole_s:.0f} s",
        "claims": outcome.num_claims,
        "sandboxes seen lost": outcome.num_sandboxes_lost,
        "waits for the model": outcome.num_waits,
        "runs that lost too many sandboxes": outcome.num_given_up,
        "recovery p50": _after(0.5, outcome.recoveries_s),
        "recovery p90": _after(0.9, outcome.recoveries_s),
        "recovery, longest": _after(1.0, outcome.recoveries_s),
        "wrong (call twice, hole in the log, end)": len(outcome.wrong),
    }
    for name, number in rows.items():
        table.add_row(name, str(number))
    Console().print(table)
    for line in outcome.wrong:
        print(line)


def _after(share: float, recoveries_s: Sequence[float]) -> str:
    """When so many of them were over."""
    return f"{sorted(recoveries_s)[ceil(share * len(recoveries_s)) - 1]:.1f} s" if recoveries_s else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill random pods of a release while it works.")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=4, help="Unfinished tasks at any moment.")
    parser.add_argument("--pause", type=float, default=5.0, help="Mean time between two kills, s.")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="Of the order and the pauses.")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    random.seed(arguments.seed)
    with installed() as release:
        measuring = measure(release, num_tasks=arguments.tasks, at_once=arguments.at_once, pause_s=arguments.pause)
        outcome = asyncio.run(measuring)
        _uninstall(release, outcome)
    _print(outcome, arguments.tasks)
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
