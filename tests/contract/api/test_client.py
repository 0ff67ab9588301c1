"""The client that is written from the description, against a service."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agent.client.operations import Operations
from deploy.client import FILE, write
from deploy.openapi import FILE as DESCRIPTION

from .conftest import PATCH, Running

pytestmark = pytest.mark.anyio


def test_client_is_what_the_description_gives() -> None:
    assert FILE.read_text("utf-8") == write(json.loads(DESCRIPTION.read_text("utf-8"))), "run make client"


@pytest.fixture
async def api(service: Running) -> AsyncIterator[Operations]:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:

        async def send(method: str, path: str, query: dict[str, Any], headers: dict[str, str], body: Any) -> bytes:
            answer = await http.request(method, path, params=query, headers=headers, json=body)
            answer.raise_for_status()
            return answer.content

        yield Operations(send)


async def test_operations_are_called_as_functions(api: Operations, service: Running) -> None:
    over, waiting, _ = service.ids["task_id"]
    listed = await api.list_tasks(limit=2, label=[], q="a")
    changed = await api.change_task(waiting, {"labels": {"team": "web"}}, if_match="*")
    found = await api.list_tasks(label=["team=web"])

    assert [task["id"] for task in listed["tasks"]] == [over]
    assert changed["labels"] == {"team": "web"}
    assert [task["id"] for task in found["tasks"]] == [waiting]
    assert await api.read_artifact(over, "1/patch.diff", range_="bytes=0-9") == PATCH.encode()[:10]
    assert (await api.show_diff(over))["files"][0]["path"] == "a.py"
    with pytest.raises(httpx.HTTPStatusError):
        await api.read_run(over, "run/../of none")
