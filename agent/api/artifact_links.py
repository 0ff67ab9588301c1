"""Addresses under which anybody can fetch one artifact for a while, such as a page or a chat that has no key."""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from agent.api.artifacts import ANSWERS, Wanted, check_readable, send_artifact
from agent.api.auth import needs
from agent.api.body import described, read_body
from agent.api.context import Services, Shared, services
from agent.api.problems import Problem
from agent.errors import SettingsError, UnknownArtifact
from agent.store.secrets import SecretBox

router = APIRouter(prefix="/v1", tags=["artifacts"])

_PLACE = ("", "artifact_link")
"""Of no project: whose the artifact is stands in the link."""


class LinkWanted(BaseModel):
    """Which artifact, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    valid_s: int = Field(3600, ge=1, le=7 * 86_400, description="The link ends so long after it was made, s.")


class ArtifactLink(BaseModel):
    """Whoever has the address may read the artifact, until it ends."""

    url: str = Field(description="Path at this service.")
    until: AwareDatetime


class Sealed(BaseModel):
    """What stands in a link; only the service can make or read it."""

    project_id: str
    task_id: str
    name: str
    until: AwareDatetime

    def token(self, box: SecretBox) -> str:
        return box.seal(*_PLACE, self.model_dump_json()).decode("ascii")


@router.post(
    "/tasks/{task_id}/artifact_links",
    dependencies=[needs("tasks:write")],
    status_code=HTTPStatus.CREATED,
    openapi_extra=described(LinkWanted),
)
async def make_artifact_link(task_id: str, request: Request, shared: Shared) -> ArtifactLink:
    """An address of an artifact that needs no key, for a while. It cannot be taken back."""
    wanted = await read_body(request, LinkWanted)
    await check_readable(shared, task_id, wanted.name)
    if shared.store.artifacts is None:
        raise UnknownArtifact(f"task {task_id} has no artifact {wanted.name[:200]!r}")
    await shared.store.artifacts.get(shared.principal.project_id, task_id, wanted.name)
    if shared.secret_box is None:
        raise Problem(
            HTTPStatus.CONFLICT,
            "no_secrets_key",
            "This service makes no links: it was given no key to sign them with.",
            remedy="Ask its operator to set MIMO_SECRETS_KEY.",
        )
    until = datetime.now(UTC) + timedelta(seconds=wanted.valid_s)
    sealed = Sealed(project_id=shared.principal.project_id, task_id=task_id, name=wanted.name, until=until)
    return ArtifactLink(url=f"/v1/artifact_links/{sealed.token(shared.secret_box)}", until=until)


@router.get("/artifact_links/{token}", response_class=Response, responses=ANSWERS)
async def read_artifact_link(
    token: str, built: Annotated[Services, Depends(services)], wanted: Annotated[Wanted, Depends()]
) -> Response:
    """The bytes of an artifact, for who has a link to it."""
    link = _opened(built.secret_box, token)
    if link is None or link.until < datetime.now(UTC):
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown_link",
            "This link is none, or its time is over.",
            remedy="Ask for a new one: POST /v1/tasks/{id}/artifact_links.",
        )
    return await send_artifact(built.store.artifacts, link.project_id, link.task_id, link.name, wanted)


def _opened(box: SecretBox | None, token: str) -> Sealed | None:
    """What the link says; None where this service did not make it."""
    if box is None:
        return None
    try:
        return Sealed.model_validate_json(box.open(*_PLACE, token.encode()))
    except SettingsError:
        return None
