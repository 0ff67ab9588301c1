"""Skills of projects: instructions that the agent of a task reads when it needs them."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.store.database import Database
from agent.store.named import Named
from agent.store.tables import skills
from agent.tools.skill import SkillDescription

MAX_SKILLS = 100
"""Of a project: each takes a line of every prompt."""

_Text = Annotated[str, StringConstraints(min_length=1, max_length=65_536, pattern=r"^[^\x00]*$")]


class SkillSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    description: SkillDescription = Field(
        description="When it is of use; all that the model sees until it asks for more."
    )
    text: _Text = Field(description="The instructions, such as Markdown.")


class ProjectSkill(SkillSettings):
    """A skill of a project."""

    name: str
    updated_by: str
    updated_at: datetime


class ProjectSkills(Named[SkillSettings, ProjectSkill]):
    def __init__(self, database: Database) -> None:
        super().__init__(database, skills, SkillSettings, ProjectSkill)
