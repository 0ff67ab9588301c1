"""The description that is checked in is the API's, and a change that breaks clients is called so."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from deploy.openapi import FILE, breaking, describe

pytestmark = pytest.mark.anyio

DESCRIPTION: dict[str, Any] = json.loads(FILE.read_text("utf-8"))


async def test_description_that_is_checked_in_is_the_apis() -> None:
    now = await describe()

    assert breaking(DESCRIPTION, now) == []
    assert now == DESCRIPTION, "run 'python -m deploy.openapi', and look at the difference"


def _task(description: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = description["components"]["schemas"]["NewTask"]
    return found


def _forget_cancel(description: dict[str, Any]) -> None:
    del description["paths"]["/v1/tasks/{task_id}/cancel"]


def _require_attempts(description: dict[str, Any]) -> None:
    _task(description)["required"].append("attempts")


def _forget_profile(description: dict[str, Any]) -> None:
    _task(description)["properties"]["profile"]["enum"].remove("mini")


def _count_in_words(description: dict[str, Any]) -> None:
    description["components"]["schemas"]["Limits"]["properties"]["max_steps"]["type"] = "string"


def _forget_verdict(description: dict[str, Any]) -> None:
    del description["components"]["schemas"]["TaskSummary"]["properties"]["verdict"]


def _require_limit(description: dict[str, Any]) -> None:
    parameters = description["paths"]["/v1/tasks"]["get"]["parameters"]
    next(each for each in parameters if each["name"] == "limit")["required"] = True


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_forget_cancel, "POST /v1/tasks/{task_id}/cancel is gone"),
        (_require_attempts, "POST /v1/tasks: body: attempts is required"),
        (_forget_profile, "POST /v1/tasks: body.profile: 'mini' is refused"),
        (_count_in_words, "POST /v1/tasks: body.limits.max_steps: integer became string"),
        (_forget_verdict, "GET /v1/tasks: answer 200.tasks[]: verdict is gone"),
        (_require_limit, "GET /v1/tasks: parameter limit is required"),
    ],
)
def test_change_that_breaks_clients_is_named(change: Callable[[dict[str, Any]], None], sentence: str) -> None:
    changed = copy.deepcopy(DESCRIPTION)
    change(changed)

    assert sentence in breaking(DESCRIPTION, changed)


def test_new_things_break_nothing() -> None:
    changed = copy.deepcopy(DESCRIPTION)
    changed["paths"]["/v2/tasks"] = {"get": {"responses": {}}}
    _task(changed)["properties"]["colour"] = {"type": "string"}
    changed["components"]["schemas"]["TaskView"]["properties"]["colour"] = {"type": "string"}

    assert breaking(DESCRIPTION, changed) == []
