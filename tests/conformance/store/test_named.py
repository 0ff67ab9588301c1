"""What a project has by name, in every store."""

import pytest
from sqlalchemy import update

from agent.errors import StoreTooNew
from agent.identity import DEFAULT_PROJECT
from agent.store.base import Project
from agent.store.retention import Retention
from agent.store.skills import ProjectSkills, SkillSettings
from agent.store.sql import SqlStore
from agent.store.tables import skills
from tests.conformance.store.conftest import Clock

pytestmark = pytest.mark.anyio

OURS = SkillSettings(description="how we release", text="Ask Ada.\n\nThen tag. ünï ☃")
THEIRS = SkillSettings(description="how they release", text="Do not.")


async def test_a_name_is_taken_once_in_each_project(store: SqlStore) -> None:
    await store.make_project(Project(project_id="team"))
    skills = ProjectSkills(store.database)

    made = await skills.create(DEFAULT_PROJECT, "release", OURS, updated_by="ada")
    assert made is not None
    assert await skills.create(DEFAULT_PROJECT, "release", THEIRS, updated_by="bob") is None
    assert await skills.create("team", "release", THEIRS, updated_by="bob") is not None

    assert await skills.get(DEFAULT_PROJECT, "release") == made
    assert (made.text, made.updated_by) == (OURS.text, "ada")
    assert await skills.get(DEFAULT_PROJECT, "deploy") is None
    assert await skills.count("team") == 1


async def test_all_of_a_project_come_by_name(store: SqlStore) -> None:
    skills = ProjectSkills(store.database)
    for name in ("b", "a", "c"):
        await skills.create(DEFAULT_PROJECT, name, OURS, updated_by="ada")

    assert [skill.name for skill in await skills.all(DEFAULT_PROJECT)] == ["a", "b", "c"]
    assert await skills.all("team") == ()


async def test_what_is_replaced_says_who_did_it_and_when(store: SqlStore, clock: Clock) -> None:
    skills = ProjectSkills(store.database)
    assert await skills.replace(DEFAULT_PROJECT, "release", OURS, updated_by="ada") is None
    await skills.create(DEFAULT_PROJECT, "release", OURS, updated_by="ada")
    clock.advance(60)

    replaced = await skills.replace(DEFAULT_PROJECT, "release", THEIRS, updated_by="bob")

    assert replaced is not None
    assert await skills.get(DEFAULT_PROJECT, "release") == replaced
    assert (replaced.text, replaced.updated_by, replaced.updated_at) == (THEIRS.text, "bob", clock())


async def test_what_a_newer_release_wrote_is_said_to_be_its(store: SqlStore) -> None:
    kept = ProjectSkills(store.database)
    await kept.create(DEFAULT_PROJECT, "release", OURS, updated_by="ada")
    async with store.database.writing() as transaction:
        newer = OURS.model_dump() | {"of_tomorrow": 1}
        await transaction.db.execute(update(skills).values(settings=newer))

    with pytest.raises(StoreTooNew, match="'release' of skills has of_tomorrow"):
        await kept.all(DEFAULT_PROJECT)


async def test_what_is_deleted_is_gone_and_a_purge_takes_the_rest(store: SqlStore) -> None:
    await store.make_project(Project(project_id="team"))
    skills = ProjectSkills(store.database)
    for name in ("release", "deploy"):
        await skills.create("team", name, OURS, updated_by="ada")

    assert [await skills.delete("team", "release"), await skills.delete("team", "release")] == [True, False]
    await Retention(store.database, None).purge("team")

    assert await skills.all("team") == ()
