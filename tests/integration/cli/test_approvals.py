"""``mimo approvals`` against a running service whose task asks before it edits."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from agent.testing import ScriptedEndpoint

from .conftest import REPAIR, Ended, Mimo, start

Approvals = Callable[..., Ended]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    with ScriptedEndpoint(REPAIR).running() as model:
        process = start("serve", "--port", 0, "--model-url", model, home=tmp_path / "service")
        assert process.stderr is not None
        try:
            yield next(word for line in process.stderr if "ready" in line for word in line.split() if "http://" in word)
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def approvals(mimo: Mimo, service: str) -> Approvals:
    return lambda name, *arguments: mimo("approvals", name, *arguments, "--server", service)


def submitted(service: str, checkout: Path) -> str:
    task = {"repository": str(checkout), "problem_statement": "add() subtracts", "approvals": "ask"}
    answer = httpx.post(f"{service}/v1/tasks", json=task, trust_env=False)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def waiting(approvals: Approvals) -> str:
    """The id of the one call that waits."""
    for _ in range(600):
        found = json.loads(approvals("list", "--output", "json").out)["approvals"]
        if found:
            return str(found[0]["id"])
        time.sleep(0.2)
    raise AssertionError("nothing ever waits")


def test_a_call_is_listed_shown_and_allowed(approvals: Approvals, service: str, checkout: Path) -> None:
    assert "Nothing waits" in approvals("list").err
    submitted(service, checkout)
    approval = waiting(approvals)
    assert approval in approvals("list").out
    assert "a + b" in approvals("show", approval).out
    assert approvals("decide", approval, "--allow").code == 0
    assert json.loads(approvals("show", approval, "-o", "json").out)["decision"] == "allow"


def test_a_call_is_allowed_with_other_arguments(approvals: Approvals, service: str, checkout: Path) -> None:
    submitted(service, checkout)
    approval = waiting(approvals)
    edited = '{"path": "calc.py", "old_str": "a - b", "new_str": "b + a"}'
    unusable = approvals("decide", approval, "--allow", "--edited-args", "{}")
    assert (unusable.code, "str_replace" in unusable.err) == (2, True)
    assert approvals("decide", approval, "--allow", "--edited-args", edited).code == 0
    assert "b + a" in approvals("show", approval).err


def test_a_call_that_was_decided_cannot_be_decided_otherwise(
    approvals: Approvals, service: str, checkout: Path
) -> None:
    submitted(service, checkout)
    approval = waiting(approvals)
    assert approvals("decide", approval, "--deny", "--reason", "keep the minus").code == 0
    late = approvals("decide", approval, "--allow")
    assert late.code == 2
    assert "decided before: deny" in late.err
    assert approvals("decide", approval, "--deny", "--for-task").code == 2
