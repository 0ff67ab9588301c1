"""``skill``: instructions for a kind of work, read when it comes up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.tools.base import ToolContext, ToolResult, fit

SkillName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
SkillDescription = Annotated[str, StringConstraints(min_length=1, max_length=1024, strip_whitespace=True)]

OUTSIDE = "/tmp/skills"  # noqa: S108 - in the sandbox
"""Folder of those that are not part of the work tree."""


@dataclass(frozen=True, slots=True)
class Skill:
    """Something the agent can learn when it needs it."""

    name: str
    description: str
    """When it is of use; all the model sees until it asks for more."""
    text: str
    place: str
    """Folder of its files, as commands see it."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files that have to be put there, by their path in it; empty where they are there."""


class SkillArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    skill: Annotated[str, StringConstraints(min_length=1)] = Field(description="Name of the skill.")


class UseSkill:
    """Shows a skill whole, and puts its files where commands find them."""

    name = "skill"
    description = "Read the instructions of a skill."
    arguments = SkillArguments

    def __init__(self, skills: Sequence[Skill]) -> None:
        self._skills = {skill.name: skill for skill in skills}

    async def run(self, arguments: SkillArguments, context: ToolContext) -> ToolResult:
        skill = self._skills.get(arguments.skill)
        if skill is None:
            return ToolResult(f"[error] no skill {arguments.skill!r}; there are {', '.join(self._skills)}", error=True)
        for path, data in skill.files.items():
            await context.sandbox.write(f"{skill.place}/{path}", data)
        text, dropped = fit(f"{skill.text}\n[files of this skill: {skill.place}]")
        return ToolResult(text, truncated_bytes=dropped)


def offer(skills: Sequence[Skill]) -> str:
    """What the system prompt says of skills."""
    lines = "\n".join(f"- {skill.name}: {skill.description}" for skill in skills)
    return f"Before work that one of these skills is about, read it with the tool skill:\n{lines}"
