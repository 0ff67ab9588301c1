"""Projects, their API keys and secrets, what was done in them, and who one is."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from agent.api.access import (
    CreatedKey,
    KeyList,
    LoginOffer,
    Me,
    NewKey,
    NewProject,
    NewSecret,
    ProjectList,
    ProjectView,
    Quotas,
    SecretList,
)
from agent.api.auth import Caller, lacks, needs
from agent.api.body import described, read_body, rejected
from agent.api.context import Context, Services, Shared, services
from agent.api.problems import Problem
from agent.errors import ProjectExists, UnknownProject
from agent.identity import DEFAULT_PROJECT, ApiKey, AuditPage, Principal, SecretNote
from agent.store.base import Project

router = APIRouter(prefix="/v1", tags=["projects"])

InPath = Annotated[str, Path(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
SECRET_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
SecretName = Annotated[str, Path(pattern=SECRET_NAME, description="Fit for a variable's name.")]


BODIES = (NewProject, Quotas, NewKey, NewSecret)
"""What routes here read by themselves, for the description."""


@router.get("/login")
async def login(built: Annotated[Services, Depends(services)]) -> LoginOffer:
    """Where `mimo login` sends people. Nobody needs a key for this."""
    issuer = built.login
    if issuer is None or issuer.login is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "no_login",
            "Nobody signs in to this service through an identity provider.",
            remedy="Ask its operator for an API key, and give it to `mimo login --with-key`.",
        )
    return LoginOffer(issuer=issuer.url, client_id=issuer.login.client_id, scopes=issuer.login.scopes)


@router.get("/me")
async def me(principal: Caller) -> Me:
    """Who you are here."""
    return Me(
        subject=principal.subject,
        kind=principal.kind,
        project=principal.project_id,
        scopes=tuple(sorted(principal.scopes)),
    )


@router.get("/audit", dependencies=[needs("projects:admin")])
async def audit(
    shared: Shared,
    cursor: Annotated[str | None, Query(description="next_cursor of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditPage:
    """Who changed what in your project, newest first."""
    return await shared.store.identities.audit(shared.principal.project_id, cursor=cursor, limit=limit)


@router.get("/projects")
async def list_projects(shared: Shared) -> ProjectList:
    """Those you may see: your own, or for operators all."""
    if shared.principal.may("service:admin"):
        return ProjectList(projects=tuple(map(_view, await shared.store.projects())))
    return ProjectList(projects=(_view(await shared.store.project(shared.principal.project_id)),))


@router.post(
    "/projects",
    status_code=HTTPStatus.CREATED,
    dependencies=[needs("service:admin")],
    response_model=ProjectView,
    openapi_extra=described(NewProject),
)
async def create_project(request: Request, response: Response, shared: Shared) -> ProjectView:
    """Make a project."""
    wanted = await read_body(request, NewProject)
    _check_prices(shared, wanted)
    made = Project(project_id=wanted.id, **wanted.model_dump(exclude={"id"}))
    try:
        await shared.store.make_project(made)
    except ProjectExists as error:
        raise Problem(
            HTTPStatus.CONFLICT,
            "project_exists",
            f"There is a project {wanted.id!r} already.",
            remedy="Choose another id; that of a closed project is not given again before it is purged.",
        ) from error
    response.headers["Location"] = f"/v1/projects/{made.project_id}"
    return _view(made)


@router.get("/projects/{project_id}")
async def show_project(project_id: InPath, shared: Shared) -> ProjectView:
    """A project and its part of the workers."""
    return _view(await _seen(shared, project_id))


@router.patch(
    "/projects/{project_id}",
    dependencies=[needs("service:admin")],
    response_model=ProjectView,
    openapi_extra=described(Quotas),
)
async def change_project(project_id: InPath, request: Request, shared: Shared) -> ProjectView:
    """Set a project's part of the workers."""
    await _seen(shared, project_id)
    wanted = await read_body(request, Quotas)
    _check_prices(shared, wanted)
    return _view(await shared.store.change_project(project_id, wanted.model_dump(exclude_unset=True)))


@router.delete("/projects/{project_id}", status_code=HTTPStatus.NO_CONTENT, dependencies=[needs("service:admin")])
async def close_project(project_id: InPath, shared: Shared) -> None:
    """Let nobody act in a project any more. What it has is kept until the operator purges it."""
    await _seen(shared, project_id)
    if project_id == DEFAULT_PROJECT:
        raise Problem(
            HTTPStatus.CONFLICT,
            "default_project",
            "The default project cannot be closed.",
            remedy="Close another one, or revoke the keys of this one.",
        )
    await shared.store.identities.close_project(project_id)


@router.get("/projects/{project_id}/api_keys")
async def list_keys(project_id: InPath, shared: Shared) -> KeyList:
    """The keys of a project, newest first, those that were revoked too."""
    await _administered(shared, project_id)
    return KeyList(api_keys=await shared.store.identities.keys(project_id))


@router.post(
    "/projects/{project_id}/api_keys",
    status_code=HTTPStatus.CREATED,
    response_model=CreatedKey,
    openapi_extra=described(NewKey),
)
async def create_key(project_id: InPath, request: Request, response: Response, shared: Shared) -> CreatedKey:
    """Make a key. Nobody can be shown it again; what is kept is a hash."""
    principal = await _administered(shared, project_id)
    wanted = await read_body(request, NewKey)
    for scope in sorted(wanted.scopes - principal.scopes):
        raise lacks(scope)
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        remedy = "Give a time to come, or leave it out for a key that does not expire."
        raise rejected("/expires_at", "Lies in the past", remedy)
    key, secret = await shared.store.identities.create_key(
        project_id, wanted.name, wanted.scopes, created_by=principal.subject, expires_at=wanted.expires_at
    )
    response.headers["Location"] = f"/v1/projects/{project_id}/api_keys/{key.id}"
    response.headers["Cache-Control"] = "no-store"
    return CreatedKey(key=key, secret=secret)


@router.delete("/projects/{project_id}/api_keys/{key_id}")
async def revoke_key(project_id: InPath, key_id: str, shared: Shared) -> ApiKey:
    """End a key at once. Revoking it again changes nothing."""
    await _administered(shared, project_id)
    key = await shared.store.identities.revoke_key(project_id, key_id)
    if key is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown_key",
            "The project has no key of this id.",
            remedy=f"GET /v1/projects/{project_id}/api_keys lists its keys.",
        )
    return key


@router.get("/projects/{project_id}/secrets")
async def list_secrets(project_id: InPath, shared: Shared) -> SecretList:
    """The names of a project's secrets. No answer ever holds their values."""
    await _administered(shared, project_id)
    return SecretList(secrets=await shared.store.identities.secrets(project_id))


@router.put("/projects/{project_id}/secrets/{name}", response_model=SecretNote, openapi_extra=described(NewSecret))
async def put_secret(project_id: InPath, name: SecretName, request: Request, shared: Shared) -> SecretNote:
    """Set or replace a secret."""
    await _administered(shared, project_id)
    return await seal_secret(shared, project_id, name, await read_body(request, NewSecret))


@router.delete("/projects/{project_id}/secrets/{name}", status_code=HTTPStatus.NO_CONTENT)
async def delete_secret(project_id: InPath, name: SecretName, shared: Shared) -> None:
    """Forget a secret."""
    await _administered(shared, project_id)
    if not await shared.store.identities.delete_secret(project_id, name):
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown_secret",
            "The project has no secret of this name.",
            remedy=f"GET /v1/projects/{project_id}/secrets lists those it has.",
        )


async def seal_secret(shared: Context, project_id: str, name: str, secret: NewSecret) -> SecretNote:
    """
    Raises:
        Problem: 409, the service has no key to seal it with.
    """
    if shared.secret_box is None:
        raise Problem(
            HTTPStatus.CONFLICT,
            "no_secrets_key",
            "This service keeps no secrets: it was given no key to seal them with.",
            remedy="Ask its operator to set MIMO_SECRETS_KEY.",
        )
    sealed = shared.secret_box.seal(project_id, name, secret.value)
    subject = shared.principal.subject
    return await shared.store.identities.put_secret(project_id, name, sealed, updated_by=subject)


def _check_prices(shared: Context, wanted: Quotas) -> None:
    """
    Raises:
        Problem: 422, there is a limit of money and nothing has a price.
    """
    limits = ("daily_cost", "daily_cost_per_user", "monthly_cost", "monthly_cost_per_user")
    for name in limits if shared.prices is None else ():
        if getattr(wanted, name) is not None:
            raise rejected(
                f"/{name}", "The service knows no prices", "Ask its operator to set MIMO_MODEL_PRICES, or limit tokens."
            )


async def _seen(shared: Context, project_id: str) -> Project:
    """The project, if the caller may know of it. To others it is as if there were none.

    Raises:
        Problem: 404.
    """
    if project_id == shared.principal.project_id or shared.principal.may("service:admin"):
        try:
            return await shared.store.project(project_id)
        except UnknownProject:
            pass
    raise Problem(
        HTTPStatus.NOT_FOUND,
        "unknown_project",
        "You see no project of this id.",
        remedy="GET /v1/projects lists those you see.",
    )


async def _administered(shared: Context, project_id: str) -> Principal:
    """The caller, if it may look after the project.

    Raises:
        Problem: 404 where it may not know of the project, 403 where it may but lacks the scope.
    """
    await _seen(shared, project_id)
    if not shared.principal.may("projects:admin") and not shared.principal.may("service:admin"):
        raise lacks("projects:admin")
    return shared.principal


def _view(project: Project) -> ProjectView:
    return ProjectView(id=project.project_id, **project.model_dump(exclude={"project_id"}))
