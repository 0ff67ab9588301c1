"""``mimo schedule`` against a running service."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.testing import ScriptedEndpoint

from .conftest import REPAIR, Ended, Mimo, start

Schedule = Callable[..., Ended]


@pytest.fixture
def schedule(mimo: Mimo, tmp_path: Path) -> Iterator[Schedule]:
    with ScriptedEndpoint(REPAIR).running() as model:
        process = start("serve", "--port", 0, "--model-url", model, home=tmp_path / "service")
        assert process.stderr is not None
        try:
            ready = (line for line in process.stderr if "ready" in line)
            url = next(word for line in ready for word in line.split() if "http://" in word)
            yield lambda name, *arguments: mimo("schedule", name, *arguments, "--server", url)
        finally:
            process.terminate()
            process.communicate(timeout=60)


def test_a_schedule_is_made_paused_resumed_run_and_deleted(schedule: Schedule, checkout: Path) -> None:
    assert "No schedules" in schedule("list").err
    made = schedule(
        "create", "nightly", "30 2 1 1 *", "update the dependencies", "--repo", checkout, "--overlap", "queue"
    )
    assert (made.code, "next on" in made.err) == (0, True)
    name = made.out.strip()
    shown = json.loads(schedule("show", name).out)
    assert (shown["overlap"], shown["task"]["repository"], shown["enabled"]) == ("queue", str(checkout), True)
    assert "paused" in schedule("pause", name).err
    assert "paused" in schedule("list").out
    assert "next on" in schedule("resume", name).err
    task_id = schedule("run", name).out.strip()
    listed = json.loads(schedule("list", "-o", "json").out)["schedules"]
    assert [(each["id"], each["last_task_id"]) for each in listed] == [(name, task_id)]
    assert schedule("delete", name).code == 0
    assert "has no schedule" in schedule("show", name).err


def test_times_that_cannot_be_are_named(schedule: Schedule, checkout: Path) -> None:
    refused = schedule("create", "daily", "every day", "x", "--repo", checkout)
    assert refused.code != 0
    assert "cron" in refused.err
