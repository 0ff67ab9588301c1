"""Pull requests out of patches."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.api.auth import needs
from agent.api.body import described, read_body
from agent.api.context import Context, Shared
from agent.api.problems import Problem
from agent.errors import RepositoryError
from agent.integrations.forge import NewPullRequest, PullRequest
from agent.integrations.pull_requests import PullRequests
from agent.store.base import TaskRecord

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

BRANCH = "mimo/"
"""Begins the name of a patch's branch; the id of its task ends it."""

_TITLE_CHARS = 72


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PullRequestWanted(_Shape):
    """What is left out, or null, is made of the task."""

    title: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,250}$")] | None = None
    body: Annotated[str, StringConstraints(max_length=50_000, pattern=r"^[^\x00]*$")] | None = None
    base: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f]{1,200}$")] | None = Field(
        None, description="The branch that it shall be merged into; null is the repository's default branch."
    )
    draft: bool = False
    onto: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")] | None = Field(
        None,
        description="Id of the task whose pull request gets this patch as one more commit, with title and body as its "
        "message; the task has to begin at that branch as it is now. Null opens a pull request.",
    )


class PullRequestView(_Shape):
    number: int
    url: str = Field(description="Where people read it.")
    branch: str = Field(description="Made on the repository's host for the patch.")
    created: bool = Field(description="False where the branch had one already, which stays as it is.")


BODIES = (PullRequestWanted,)


@router.post(
    "/{task_id}/pull_request",
    dependencies=[needs("tasks:write")],
    status_code=HTTPStatus.CREATED,
    response_model=PullRequestView,
    responses={200: {"model": PullRequestView, "description": "It was there already."}},
    openapi_extra=described(PullRequestWanted),
)
async def open_pull_request(task_id: str, request: Request, response: Response, shared: Shared) -> PullRequestView:
    """Push the patch of an ended task as a branch, and open a pull request for it; or add it to another task's. Asked
    again, it is the same one."""
    wanted = await read_body(request, PullRequestWanted)
    record = await shared.tasks.get(task_id)
    _check(record)
    branch = f"{BRANCH}{wanted.onto or record.id}"
    new = NewPullRequest(
        title=wanted.title or _title(record),
        body=_told(record) if wanted.body is None else wanted.body,
        branch=branch,
        base=wanted.base or "",
        draft=wanted.draft,
    )
    if wanted.onto is not None:
        await _check_onto(shared, record, wanted.onto)
    try:
        found, created = await _open(shared, record, new, onto=wanted.onto is not None)
    except RepositoryError as error:
        raise _refused("pull_request_refused", str(error), "Correct what detail names and ask again.") from error
    response.status_code = HTTPStatus.CREATED if created else HTTPStatus.OK
    response.headers["Location"] = found.url
    return PullRequestView(number=found.number, url=found.url, branch=branch, created=created)


async def _open(shared: Context, record: TaskRecord, new: NewPullRequest, *, onto: bool) -> tuple[PullRequest, bool]:
    project, request = shared.principal.project_id, record.request
    repo = await shared.remotes.get(project, request.repository)
    at = record.finished_at or record.updated_at
    patches = (request.changes, record.patch)
    pulls = PullRequests(shared.remotes)
    if onto:
        return await pulls.extend(project, repo, request.base_commit, patches, new, at), False
    return await pulls.open(project, repo, request.base_commit, patches, new, at)


def _check(record: TaskRecord) -> None:
    """
    Raises:
        Problem: the task has nothing that could be pulled.
    """
    if not record.status.terminal:
        remedy = "Wait for the event task.finished (GET /v1/tasks/{id}/events), then ask again."
        raise _refused("task_not_ended", f"Task {record.id} is {record.status}.", remedy)
    if not record.patch:
        raise _refused("no_patch", f"Task {record.id} changed nothing.", "Ask for it of a task with a patch.")
    if record.request.repository.startswith("/"):
        remedy = "Add the repository with POST /v1/repos, and submit tasks that name it."
        raise _refused("no_remote", f"Task {record.id} is of a path on the service's machine.", remedy)


async def _check_onto(shared: Context, record: TaskRecord, onto: str) -> None:
    """
    Raises:
        UnknownTask: the project has no such task.
        Problem: it is of another repository.
    """
    if (await shared.tasks.get(onto)).request.repository != record.request.repository:
        remedy = "Name a task of the same repository."
        raise _refused("pull_request_refused", f"Task {onto} is of another repository than {record.id}.", remedy)


def _refused(code: str, detail: str, remedy: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, code, detail, remedy=remedy)


def _title(record: TaskRecord) -> str:
    text = record.title or record.request.problem_statement
    first = " ".join(next(line for line in text.splitlines() if line.strip()).split())
    return first if len(first) <= _TITLE_CHARS else f"{first[: _TITLE_CHARS - 1]}…"


def _told(record: TaskRecord) -> str:
    """The problem, and what the checks said of the patch."""
    verdict = record.verdict
    kind = verdict.kind if verdict else "unchecked"
    lines = [record.request.problem_statement.strip(), "", f"Task {record.id}: {kind}."]
    for evidence in verdict.evidence if verdict else ():
        lines.append(f"- `{evidence.command}`: {'passed' if evidence.passed else 'failed'}")
    return "\n".join(lines)
