"""What a project gives its agents besides their profile: skills, and tools of other programs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.events import OfferedSkill, RunEquipped
from agent.orchestrator.log import StoreLog
from agent.profiles.base import Profile
from agent.profiles.equipped import equipment, equipped_as
from agent.store.skills import ProjectSkills
from agent.tools.mcp import Remembered
from agent.tools.skill import OUTSIDE, Skill

_GONE = "This skill was deleted while the run went on."


class Equipment:
    """Of all projects. Agents of the profile ``assistant`` get it; the tools of the others are fixed."""

    def __init__(self, skills: ProjectSkills) -> None:
        self._skills = skills

    @asynccontextmanager
    async def given(self, project_id: str, agent: Profile, log: StoreLog) -> AsyncIterator[Profile]:
        """The agent of a run with what its project had when the run began."""
        given = await self._said(project_id, log) if agent.name == "assistant" else None
        if given is None:
            yield agent
            return
        yield equipped_as(agent, given, await self._read(project_id, given), Remembered((), "there are none"))

    async def _said(self, project_id: str, log: StoreLog) -> RunEquipped | None:
        """As the log says; a run that has not begun is told now."""
        if said := equipment(log.events):
            return said
        if any(event.type == "step.started" for event in log.events):
            return None
        skills = tuple(
            OfferedSkill(name=skill.name, description=" ".join(skill.description.split()))
            for skill in await self._skills.all(project_id)
        )
        if not skills:
            return None
        given = RunEquipped(skills=skills)
        await log.append("run.equipped", given.model_dump(mode="json"))
        return given

    async def _read(self, project_id: str, given: RunEquipped) -> list[Skill]:
        """With their texts of now, which are also a file of the sandbox: a long one is shown in part."""
        texts = {skill.name: skill.text for skill in await self._skills.all(project_id)}
        return [
            Skill(
                skill.name,
                skill.description,
                texts.get(skill.name, _GONE),
                f"{OUTSIDE}/{skill.name}",
                {"SKILL.md": texts.get(skill.name, _GONE).encode()},
            )
            for skill in given.skills
        ]
