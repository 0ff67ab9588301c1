"""What GitHub tells the service: issues, and what is said of the service's pull requests, become tasks.

A delivery is believed by its signature alone, so whoever knows a project's secret can do here what a hook can: submit
tasks of the project's repositories, and talk to those of its issues and pull requests.
"""

import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from agent.api.body import described, read_body
from agent.api.context import Context, Services, context_of, services
from agent.api.once import once
from agent.api.problems import Problem
from agent.api.projects import InPath
from agent.api.pull_requests import BRANCH
from agent.api.repos import resolve_repository
from agent.errors import IdempotencyConflict, RepositoryError, UnknownTask
from agent.events import MessageAdded
from agent.identity import Principal
from agent.integrations.github_hooks import Asked, GitHubDelivery, HookRepository, asked, cut, is_signed
from agent.integrations.github_objections import Objection, objected
from agent.integrations.pull_requests import PullRequests
from agent.integrations.remote import place_of
from agent.store.base import TaskRecord
from agent.store.idempotency import Keyed
from agent.store.ids import new_id
from agent.store.repos import Repo
from agent.types import TaskRequest

router = APIRouter(prefix="/v1/hooks", tags=["hooks"])

SECRET = "GITHUB_WEBHOOK_SECRET"
"""The project's secret that GitHub signs with."""

LABEL = "github"
"""Of tasks: what they work on, as ``OWNER/NAME#NUMBER``."""


class HookAnswer(BaseModel):
    """What came of a delivery; GitHub shows it in its list of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    message_id: str | None = Field(description="Of what was said to a task that was there; null where nothing was.")


BODIES = (GitHubDelivery,)


@router.post(
    "/github/{project_id}",
    status_code=HTTPStatus.ACCEPTED,
    response_model=HookAnswer,
    responses={204: {"description": "Nothing that is listened to."}},
    openapi_extra=described(GitHubDelivery),
)
async def hear_github(
    project_id: InPath,
    request: Request,
    built: Annotated[Services, Depends(services)],
    x_github_event: Annotated[str, Header(description="What happened, such as issues.")] = "",
    x_hub_signature_256: Annotated[str, Header(description="HMAC-SHA256 of the body, in hex after sha256=.")] = "",
) -> Response:
    """A delivery of a webhook of GitHub, signed with the project's secret GITHUB_WEBHOOK_SECRET. The same body again
    gives the first answer, whatever its delivery id."""
    body = await request.body()
    await _check_signature(built, project_id, body, x_hub_signature_256)
    delivery = await read_body(request, GitHubDelivery)
    if delivery.repository is None:
        return _nothing()
    repo = await _repository(built, project_id, delivery.repository)
    heard = asked(x_github_event, delivery, repo.mention) or objected(x_github_event, delivery, repo.mention)
    if heard is None:
        return _nothing()
    shared = context_of(request, _sender(project_id, heard.by), built)
    work = await _work(shared, repo, f"{delivery.repository.full_name}#{heard.number}", heard)
    if work is None:
        return _nothing()
    request.scope["state"]["principal"] = shared.principal  # For the audit log.

    async def do(keyed: Keyed[tuple[str, HookAnswer]] | None) -> tuple[str, HookAnswer]:
        answer = await _act(shared, work, keyed and keyed.of(lambda answer: (answer.task_id, answer)))
        return answer.task_id, answer

    # No caller's key can be this one, which has a space in it.
    key = f"github {hashlib.sha256(body).hexdigest()}"
    return await once(shared, request, key, do, location=lambda answer: f"/v1/tasks/{answer.task_id}")


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be done."""

    message: str | None
    """For a task that works on it already; None: that one needs to hear nothing."""
    request: TaskRequest
    """For a new one; its label says what it works on."""


async def _check_signature(built: Services, project_id: str, body: bytes, signature: str) -> None:
    """
    Raises:
        Problem: 403; the same whether there is no such project, no secret, or it is another one.
    """
    secret = secrets.token_hex(32)
    if await built.store.identities.is_open(project_id):
        with suppress(RepositoryError):  # It has none: then nothing is signed with it.
            secret = await built.remotes.secret(project_id, SECRET)
    if not is_signed(secret, body, signature):
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "wrong_signature",
            "The delivery is not signed with the secret of a project of this id.",
            remedy=f"Give the webhook at GitHub the value of the project's secret {SECRET}.",
        )


async def _repository(built: Services, project_id: str, told: HookRepository) -> Repo:
    """The project's, by its address.

    Raises:
        Problem: 404, the project has none there.
    """
    places = {place_of(told.clone_url), place_of(told.ssh_url)} - {None}
    for repo in await built.remotes.repos.all(project_id):
        if place_of(repo.url) in places:
            return repo
    raise Problem(
        HTTPStatus.NOT_FOUND,
        "unknown_repository",
        "The project has no repository of this address.",
        remedy="Add it with POST /v1/repos, or take the webhook away from that repository.",
    )


def _sender(project_id: str, login: str) -> Principal:
    """No issuer has a slash in its name, so nobody else can be called so."""
    return Principal(project_id, f"github/{login}", "workload", frozenset({"tasks:read", "tasks:write"}))


async def _work(shared: Context, repo: Repo, about: str, heard: Asked | Objection) -> _Work | None:
    """None where a pull request is none of ours.

    Raises:
        Problem: 409, the host does not tell what is needed.
    """
    labels = {LABEL: about}
    if isinstance(heard, Asked):
        return _Work(heard.message, TaskRequest(repository=repo.name, problem_statement=heard.problem, labels=labels))
    try:
        return await _follow_up(shared, repo, heard, labels)
    except RepositoryError as error:
        remedy = "Correct what detail names, and have GitHub deliver it again."
        raise Problem(HTTPStatus.CONFLICT, "forge_refused", str(error), remedy=remedy) from error


async def _follow_up(shared: Context, repo: Repo, said: Objection, labels: dict[str, str]) -> _Work | None:
    """As the task before was asked for, from where it came to."""
    if said.branch is not None and not said.branch.startswith(BRANCH):
        return None  # Without asking the host, for which there may be no credential.
    github = await PullRequests(shared.remotes).on_github(shared.principal.project_id, repo)
    branch = said.branch or await github.branch(said.number)
    before = await _task_of(shared, repo, branch or "")
    if branch is None or before is None:
        return None
    parts = [said.text]
    parts += await github.remarks(said.number, said.review) if said.review is not None else []
    parts += await github.failed_checks(said.suite) if said.suite is not None else []
    message = cut("\n\n".join(parts))
    told = f"Out of this came pull request {labels[LABEL]}; the files are as it has them. {message}"
    problem = f"{cut(before.request.problem_statement)}\n\n{told}"
    fresh = {"base_commit": branch, "changes": "", "conversation": (), "labels": labels, "problem_statement": problem}
    return _Work(message, before.request.model_copy(update=fresh))


async def _task_of(shared: Context, repo: Repo, branch: str) -> TaskRecord | None:
    """Whose patch the branch was made for; None where that is none of the repository."""
    if not branch.startswith(BRANCH):
        return None
    try:
        task = await shared.tasks.get(branch.removeprefix(BRANCH))
    except UnknownTask:
        return None
    return task if task.request.repository == repo.name else None


async def _act(shared: Context, work: _Work, keyed: Keyed[HookAnswer] | None, *, hurried: bool = False) -> HookAnswer:
    """Tell the task that works on it, or submit one.

    Args:
        hurried: another delivery of the same moment was faster, so there should be a task to tell.
    """
    request = work.request
    found = await shared.tasks.list_tasks(repository=request.repository, labels=dict(request.labels), limit=1)
    last = found.tasks[0] if found.tasks else None
    if last is not None and not last.status.terminal:
        return await _tell(shared, last.id, work.message, keyed)
    resolved = await resolve_repository(shared, request)
    key = None if hurried else f"github {request.labels[LABEL]} {last.id if last else 'first'}"
    try:
        task = await shared.tasks.submit(
            resolved,
            created_by=shared.principal.subject,
            idempotency_key=key,
            keyed=keyed and keyed.of(lambda task: _answer(task.id)),
        )
    except IdempotencyConflict:
        return await _act(shared, work, keyed, hurried=True)
    return _answer(task.id)


def _answer(task_id: str, message_id: str | None = None) -> HookAnswer:
    return HookAnswer(task_id=task_id, message_id=message_id)


async def _tell(shared: Context, task_id: str, text: str | None, keyed: Keyed[HookAnswer] | None) -> HookAnswer:
    """
    Raises:
        TaskOver: it ended meanwhile; delivered again, this makes a new one.
    """
    if text is None:
        return _answer(task_id)
    message = MessageAdded(message_id=new_id("msg"), text=text)
    answer = _answer(task_id, message.message_id)
    body = message.model_dump(mode="json")
    await shared.tasks.tell(task_id, "message.added", body, keyed=keyed and keyed.of(lambda event: answer))
    return answer


def _nothing() -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT)
