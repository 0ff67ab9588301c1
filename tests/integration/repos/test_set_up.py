"""A script of the repository makes its work tree ready, once."""

from pathlib import Path

import pytest

from .conftest import Hosted, Service

pytestmark = pytest.mark.anyio

SCRIPT = (
    "echo counted >> .counter; mkdir -p deps; echo 'y = 3' > deps/three.py; "
    "echo broken > calc.py; rm -f README; echo ready"
)
NEEDS_IT = {"command": "PYTHONPATH=deps python -c 'import calc, three; assert calc.add(1, 2) == three.y'"}


async def test_the_agent_and_the_checks_find_what_the_script_left_and_the_commit_as_it_is(
    service: Service, hosted: Hosted
) -> None:
    hosted.commit(".gitignore", "deps/\n.counter\n")
    hosted.commit("README", "read me\n")
    await service.add(hosted, setup={"script": SCRIPT}, checks=[NEEDS_IT])
    task = await service.done()

    assert task["verdict"]["kind"] == "verified", task
    assert [line for line in task["patch"].splitlines() if line.startswith("diff")] == [
        "diff --git a/calc.py b/calc.py"
    ]
    events = (await service.http.get(f"/v1/tasks/{task['id']}/events?limit=1000")).json()["events"]
    assert [event["body"]["output"] for event in events if event["type"] == "setup.completed"] == ["ready\n"]


async def test_a_second_task_of_the_same_commit_takes_what_was_kept(service: Service, hosted: Hosted) -> None:
    await service.add(hosted, setup={"script": SCRIPT})
    first, second = await service.done(), await service.done()

    for task, num in ((first, 1), (second, 0)):
        events = (await service.http.get(f"/v1/tasks/{task['id']}/events?limit=1000")).json()["events"]
        assert [event["type"] for event in events].count("setup.completed") == num
    assert "+counted" in second["patch"]
    assert second["patch"].count("+counted") == 1


async def test_what_was_not_written_to_its_end_is_made_again(service: Service, hosted: Hosted, tmp_path: Path) -> None:
    await service.add(hosted, setup={"script": SCRIPT})
    await service.done()
    (kept,) = (tmp_path / "data" / "setups").glob("*/*/checkpoint")
    kept.write_text("")

    task = await service.done()

    assert task["status"] == "succeeded"
    assert kept.read_text()


async def test_a_script_that_fails_ends_the_task_with_what_it_wrote(service: Service, hosted: Hosted) -> None:
    await service.add(hosted, setup={"script": "echo no such package >&2; exit 3"})
    task = await service.done()

    assert task["status"] == "failed"
    assert "the set-up failed: [exit code: 3]\nno such package" in task["error"]
    assert service.model.requests == []
