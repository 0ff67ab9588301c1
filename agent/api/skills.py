"""Skills of the project: what its agents read when a kind of work comes up."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from agent.api.auth import needs
from agent.api.body import described, read_body
from agent.api.context import Context, Shared
from agent.api.problems import Problem
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
    return await find(shared, name)


@router.put("/{name}", dependencies=_ADMIN, response_model=ProjectSkill, openapi_extra=described(SkillSettings))
async def replace_skill(name: str, request: Request, shared: Shared) -> ProjectSkill:
    """Say all of a skill anew. Runs that were offered it before read the new text."""
    await find(shared, name)
    return await replace(shared, name, await read_body(request, SkillSettings))


@router.delete("/{name}", dependencies=_ADMIN, status_code=HTTPStatus.NO_CONTENT)
async def delete_skill(name: str, shared: Shared) -> None:
    """Forget a skill."""
    await find(shared, name)
    await shared.skills.delete(shared.principal.project_id, name)


async def create(shared: Context, new: NewSkill) -> ProjectSkill:
    """
    Raises:
        Problem: 409, there is one of this name already, or too many.
    """
    project, subject = shared.principal.project_id, shared.principal.subject
    if await shared.skills.count(project) >= MAX_SKILLS:
        raise Problem(
            HTTPStatus.CONFLICT,
            "too_many_skills",
            f"The project has {MAX_SKILLS} skills, and may have no more: each takes a line of every prompt.",
            remedy="Delete one, or put several into one.",
        )
    settings = SkillSettings.model_validate(new.model_dump(exclude={"name"}))
    skill = await shared.skills.create(project, new.name, settings, updated_by=subject)
    if skill is None:
        raise Problem(
            HTTPStatus.CONFLICT,
            "skill_exists",
            f"The project has a skill {new.name} already.",
            remedy=f"Choose another name, or change it: PUT /v1/skills/{new.name}.",
        )
    return skill


async def replace(shared: Context, name: str, settings: SkillSettings) -> ProjectSkill:
    """
    Raises:
        Problem: 404.
    """
    project, subject = shared.principal.project_id, shared.principal.subject
    skill = await shared.skills.replace(project, name, settings, updated_by=subject)
    if skill is None:
        raise _unknown(name)
    return skill


async def find(shared: Context, name: str) -> ProjectSkill:
    """
    Raises:
        Problem: 404.
    """
    skill = await shared.skills.get(shared.principal.project_id, name) if name.isprintable() else None
    if skill is None:
        raise _unknown(name)
    return skill


def _unknown(name: str) -> Problem:
    return Problem(
        HTTPStatus.NOT_FOUND,
        "unknown_skill",
        f"The project has no skill {name[:100]!r}.",
        remedy="GET /v1/skills lists its skills.",
    )
