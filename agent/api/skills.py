"""Skills of the project: what its agents read when a kind of work comes up."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from agent.api.auth import needs
from agent.api.body import described, read_body
from agent.api.context import Context, Shared
from agent.api.named import Shelf
from agent.store.skills import MAX_SKILLS, ProjectSkill, SkillSettings
from agent.tools.skill import SkillName

router = APIRouter(prefix="/v1/skills", tags=["skills"])

_ADMIN = [needs("projects:admin")]


class NewSkill(SkillSettings):
    name: SkillName


class SkillList(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    skills: tuple[ProjectSkill, ...]


BODIES = (NewSkill, SkillSettings)
SKILLS = Shelf("skill", "/v1/skills", MAX_SKILLS, lambda shared: shared.skills)


@router.post(
    "",
    dependencies=_ADMIN,
    status_code=HTTPStatus.CREATED,
    response_model=ProjectSkill,
    openapi_extra=described(NewSkill),
)
async def create_skill(request: Request, response: Response, shared: Shared) -> ProjectSkill:
    """Teach the agents of the profile `assistant` something. Runs that begin from now on are offered it."""
    skill = await create(shared, await read_body(request, NewSkill))
    response.headers["Location"] = f"/v1/skills/{skill.name}"
    return skill


@router.get("", dependencies=[needs("tasks:read")])
async def list_skills(shared: Shared) -> SkillList:
    """Those of the project, by name."""
    return SkillList(skills=await shared.skills.all(shared.principal.project_id))


@router.get("/{name}", dependencies=[needs("tasks:read")])
async def show_skill(name: str, shared: Shared) -> ProjectSkill:
    return await SKILLS.find(shared, name)


@router.put("/{name}", dependencies=_ADMIN, response_model=ProjectSkill, openapi_extra=described(SkillSettings))
async def replace_skill(name: str, request: Request, shared: Shared) -> ProjectSkill:
    """Say all of a skill anew. Runs that were offered it before read the new text."""
    await SKILLS.find(shared, name)
    return await SKILLS.replace(shared, name, await read_body(request, SkillSettings))


@router.delete("/{name}", dependencies=_ADMIN, status_code=HTTPStatus.NO_CONTENT)
async def delete_skill(name: str, shared: Shared) -> None:
    """Forget a skill."""
    await SKILLS.delete(shared, name)


async def create(shared: Context, new: NewSkill) -> ProjectSkill:
    """
    Raises:
        Problem: 409, there is one of this name already, or too many.
    """
    return await SKILLS.create(shared, new.name, SkillSettings.model_validate(new.model_dump(exclude={"name"})))
