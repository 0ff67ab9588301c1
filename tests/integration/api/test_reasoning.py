"""Who may read a task sees what the model thought only with the scope for it, whatever way it asks."""

import json
from pathlib import Path

import httpx
import pytest

from agent.api.app import create_app
from agent.events import StepMessage
from agent.identity import ROLES
from agent.store.base import RunResult, Store
from agent.store.open import open_store
from agent.types import AssistantMessage, Status, TaskRequest, TokenRecord, Usage

pytestmark = pytest.mark.anyio

THOUGHT = "canary of thought"
PATHS = ("", "/events", "/trajectory?format=native", "/trajectory?format=openai", "/trajectory?format=training")


async def _task(store: Store) -> str:
    task = await store.of("default").submit(TaskRequest(repository="/repo", problem_statement="add() subtracts"))
    claim = await store.claim("worker", 60)
    assert claim is not None
    assert store.artifacts is not None
    message = AssistantMessage(content="said aloud", reasoning_content=THOUGHT)
    answer = StepMessage(step=1, message=message, usage=Usage(), duration_s=0.0, temperature=0.0, thinking=True)
    for kind, body in (("step.started", {"step": 1}), ("step.message", answer.model_dump(mode="json"))):
        await store.append(claim.run_id, claim.generation, kind, body)
    tokens = TokenRecord(token_ids=(65536, 65537), logprobs=(-0.5, -0.25))
    await store.artifacts.put(claim, "1/tokens/1-0.json", tokens.model_dump_json().encode())
    await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))
    return task.id


async def test_thoughts_are_shown_by_role(tmp_path: Path) -> None:
    async def resolve(path: Path, commit: str) -> str:
        return commit

    async with open_store(f"sqlite:///{tmp_path}/mimo.db", artifacts=f"file://{tmp_path}/kept") as store:
        task_id = await _task(store)
        transport = httpx.ASGITransport(create_app(store, resolve, api_key="the operator's own"))
        seen: dict[str, list[bool]] = {}
        async with httpx.AsyncClient(transport=transport, base_url="http://mimo.example") as http:
            for role in ("viewer", "member"):
                _, key = await store.identities.create_key(
                    "default", role, ROLES[role], created_by="a test", expires_at=None
                )
                headers = {"Authorization": f"Bearer {key}"}
                url = f"/v1/tasks/{task_id}"
                answers = [await http.get(url + path, headers=headers) for path in PATHS]
                answers.append(await http.get(f"{url}/events", headers=headers | {"Accept": "text/event-stream"}))
                answers.append(await http.get(f"/tasks/{task_id}", headers=headers))
                assert {answer.status_code for answer in answers} == {200}
                assert "said aloud" in answers[1].text
                seen[role] = [THOUGHT in answer.text for answer in answers]
                training = json.loads(answers[4].text)["runs"][0]["samples"][0]["token_ids"]
                tokens = await http.get(f"{url}/artifacts/1/tokens/1-0.json", headers=headers)
                seen[role] += [training == [65536, 65537], tokens.status_code == 200]

    assert seen["viewer"] == [False] * 9
    assert seen["member"][1:6] == [True] * 5
    assert seen["member"][7:] == [True] * 2
