"""Skills of a project, by REST."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from agent.api.app import create_app
from agent.store.base import Store
from agent.store.skills import MAX_SKILLS

pytestmark = pytest.mark.anyio

SKILL = {"name": "release", "description": "how we release", "text": "Ask Ada."}


@pytest.fixture
async def http(store: Store) -> AsyncIterator[httpx.AsyncClient]:
    async def resolve(path: Path, commit: str) -> str:
        return "c" * 40

    transport = httpx.ASGITransport(create_app(store, resolve))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_a_skill_is_made_read_changed_and_forgotten(http: httpx.AsyncClient) -> None:
    made = await http.post("/v1/skills", json=SKILL)
    assert (made.status_code, made.headers["location"]) == (201, "/v1/skills/release")
    assert (await http.get("/v1/skills/release")).json() == made.json()
    assert SKILL.items() <= made.json().items()

    changed = await http.put("/v1/skills/release", json={"description": "when a version is due", "text": "Ask Bob."})
    assert (changed.status_code, changed.json()["text"]) == (200, "Ask Bob.")
    assert (await http.get("/v1/skills")).json() == {"skills": [changed.json()]}

    assert (await http.delete("/v1/skills/release")).status_code == 204
    for gone in (await http.get("/v1/skills/release"), await http.delete("/v1/skills/release")):
        assert (gone.status_code, gone.json()["code"]) == (404, "unknown_skill")


async def test_the_same_name_again_is_refused(http: httpx.AsyncClient) -> None:
    await http.post("/v1/skills", json=SKILL)
    again = await http.post("/v1/skills", json=SKILL)

    assert (again.status_code, again.json()["code"]) == (409, "skill_exists")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Release"),
        ("name", "../release"),
        ("name", ""),
        ("description", " "),
        ("description", "d" * 1025),
        ("text", ""),
        ("text", "t" * 65_537),
        ("text", "nothing\0"),
    ],
)
async def test_what_no_prompt_or_path_could_hold_is_refused_by_name(
    http: httpx.AsyncClient, field: str, value: str
) -> None:
    refused = await http.post("/v1/skills", json=SKILL | {field: value})

    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, f"#/{field}")


async def test_a_project_has_so_many_skills_and_no_more(http: httpx.AsyncClient) -> None:
    for number in range(MAX_SKILLS):
        assert (await http.post("/v1/skills", json=SKILL | {"name": f"s{number}"})).status_code == 201

    more = await http.post("/v1/skills", json=SKILL)

    assert (more.status_code, more.json()["code"]) == (409, "too_many_skills")
