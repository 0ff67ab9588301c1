"""Repositories on git hosts, and what a task gets that names one."""

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from agent.api.auth import needs
from agent.api.body import described, read_body, rejected
from agent.api.context import Context, Services, Shared
from agent.api.problems import FieldError, Problem
from agent.errors import RepositoryError
from agent.integrations.remote import PATHS_VARIABLE, RemoteUrl
from agent.store.repos import Repo, RepoName, RepoSettings
from agent.types import TaskRequest
from sandbox.hosts import is_host_name

router = APIRouter(prefix="/v1/repos", tags=["repos"])

_ADMIN = [needs("projects:admin")]


class NewRepo(RepoSettings):
    name: RepoName


class RepoList(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    repos: tuple[Repo, ...]


BODIES = (NewRepo, RepoSettings)


@router.post(
    "", dependencies=_ADMIN, status_code=HTTPStatus.CREATED, response_model=Repo, openapi_extra=described(NewRepo)
)
async def create_repo(request: Request, response: Response, shared: Shared) -> Repo:
    """Add a repository of a git host. The host is asked at once, so that a wrong address or credential is said now."""
    new = await read_body(request, NewRepo)
    settings = await _tried(shared, RepoSettings.model_validate(new.model_dump(exclude={"name"})))
    project, subject = shared.principal.project_id, shared.principal.subject
    repo = await shared.remotes.repos.create(project, new.name, settings, updated_by=subject)
    if repo is None:
        raise Problem(
            HTTPStatus.CONFLICT,
            "repo_exists",
            f"The project has a repository {new.name} already.",
            remedy=f"Choose another name, or change it: PUT /v1/repos/{new.name}.",
        )
    response.headers["Location"] = f"/v1/repos/{repo.name}"
    return repo


@router.get("", dependencies=[needs("tasks:read")])
async def list_repos(shared: Shared) -> RepoList:
    """Those of the project, by name."""
    return RepoList(repos=await shared.remotes.repos.all(shared.principal.project_id))


@router.get("/{name}", dependencies=[needs("tasks:read")])
async def show_repo(name: str, shared: Shared) -> Repo:
    repo = await shared.remotes.repos.get(shared.principal.project_id, name)
    if repo is None:
        raise _unknown(name)
    return repo


@router.put("/{name}", dependencies=_ADMIN, response_model=Repo, openapi_extra=described(RepoSettings))
async def replace_repo(name: str, request: Request, shared: Shared) -> Repo:
    """Say all of a repository anew. Tasks that were submitted before keep what they got then."""
    await show_repo(name, shared)
    settings = await _tried(shared, await read_body(request, RepoSettings))
    project, subject = shared.principal.project_id, shared.principal.subject
    repo = await shared.remotes.repos.replace(project, name, settings, updated_by=subject)
    if repo is None:
        raise _unknown(name)
    return repo


@router.delete("/{name}", dependencies=_ADMIN, status_code=HTTPStatus.NO_CONTENT)
async def delete_repo(name: str, shared: Shared) -> None:
    """Forget a repository. Tasks of it that wait cannot begin any more."""
    await show_repo(name, shared)
    await shared.remotes.repos.delete(shared.principal.project_id, name)


async def resolve_repository(shared: Context, task: TaskRequest, at: str = "") -> TaskRequest:
    """As :func:`resolved`, for a caller.

    Args:
        at: JSON pointer to the task in the body.

    Raises:
        Problem: the repository or the commit cannot be used.
    """
    try:
        any_path = shared.principal.may("service:admin")
        return await resolved(shared, shared.principal.project_id, task, any_path=any_path)
    except RepositoryError as error:
        raise unusable(error, at) from error


def unusable(error: RepositoryError, at: str) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_repository",
        str(error),
        remedy="Correct what detail names and submit again.",
        errors=[FieldError(pointer=f"#{at}/repository", detail=str(error))],
    )


async def resolved(services: Services, project_id: str, task: TaskRequest, *, any_path: bool) -> TaskRequest:
    """The task with the full id of the commit it starts from, and what its repository adds to it.

    Args:
        any_path: whether it may name any path of the service's machine, as operators' tasks may.

    Raises:
        RepositoryError: the repository or the commit cannot be used.
    """
    return filled(task, await origin(services, project_id, task, any_path=any_path))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a task starts."""

    commit: str
    """Its full id."""
    repo: Repo | None
    """None for a path of the service's machine."""


async def origin(services: Services, project_id: str, task: TaskRequest, *, any_path: bool) -> Origin:
    """That of all tasks with this repository and base commit. Arguments and errors are those of :func:`resolved`."""
    if task.repository.startswith("/") and "\0" not in task.repository:
        if not any_path and not services.remotes.reach.has(Path(task.repository)):
            raise RepositoryError(
                "only operators may take any path of the service's machine. Name a repository of the project, or "
                f"ask the operator to list a folder of it in {PATHS_VARIABLE}"
            )
        return Origin(await services.resolve_commit(Path(task.repository), task.base_commit), None)
    repo = await services.remotes.get(project_id, task.repository)
    remote = await services.remotes.remote(project_id, repo)
    wanted = repo.default_branch or "HEAD" if task.base_commit == "HEAD" else task.base_commit
    return Origin(await remote.resolve(wanted), repo)


def filled(task: TaskRequest, start: Origin) -> TaskRequest:
    """What the task leaves open is as its repository says."""
    repo = start.repo
    if repo is None:
        return task.model_copy(update={"base_commit": start.commit})
    host = RemoteUrl.parse(repo.url).host.lower()
    # Sandboxes are let out by name alone.
    denied = (host,) if task.benchmark and is_host_name(host) and host not in task.deny_hosts else ()
    image = TaskRequest.model_fields["image"].default
    return task.model_copy(
        update={
            "base_commit": start.commit,
            "checks": task.checks or repo.checks,
            "image": repo.image if repo.image and task.image == image else task.image,
            "setup": task.setup or repo.setup,
            "allow_hosts": repo.allow_hosts if task.allow_hosts is None else task.allow_hosts,
            "deny_hosts": (*task.deny_hosts, *denied),
        }
    )


async def _tried(shared: Context, settings: RepoSettings) -> RepoSettings:
    """The settings, with the branch that the host says where they name none.

    Raises:
        Problem: the host does not let us in, or they do not fit together.
    """
    try:
        ssh = RemoteUrl.parse(settings.url).scheme == "ssh"
    except RepositoryError as error:
        raise rejected("/url", str(error), "Correct the address.") from error
    if ssh and not settings.host_key:
        raise rejected("/host_key", "An ssh host is known by its key", "Give what `ssh-keyscan -t ed25519 HOST` shows.")
    probe = Repo(**settings.model_dump(), name="probe", updated_by="", updated_at=datetime.now(UTC))
    try:
        remote = await shared.remotes.remote(shared.principal.project_id, probe)
        branch = settings.default_branch or await remote.default_branch()
        await remote.resolve(branch)
    except RepositoryError as error:
        raise rejected("/url", str(error), "Correct what detail names.", code="invalid_repository") from error
    return settings.model_copy(update={"url": str(remote.url), "default_branch": branch})


def _unknown(name: str) -> Problem:
    return Problem(
        HTTPStatus.NOT_FOUND,
        "unknown_repo",
        f"The project has no repository {name[:100]!r}.",
        remedy="GET /v1/repos lists its repositories.",
    )
