"""What the routes share: the collaborators ``create_app`` was given."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from agent.api.auth import Authenticator, Caller
from agent.api.issuers import Issuer
from agent.api.metrics import ApiMetrics
from agent.api.rates import Rates, too_many
from agent.api.streams import Streams
from agent.api.suites import Suites
from agent.api.watching import Watching
from agent.config import Prices
from agent.identity import Principal
from agent.integrations.remotes import Remotes
from agent.store.accounts import Accounts
from agent.store.base import ProjectStore, Store
from agent.store.evals import Evals
from agent.store.idempotency import Idempotency
from agent.store.mcp_servers import ProjectMcpServers
from agent.store.schedules import Schedules
from agent.store.secrets import SecretBox
from agent.store.skills import ProjectSkills
from agent.store.webhooks import Webhooks
from agent.telemetry import Telemetry

ResolveCommit = Callable[[Path, str], Awaitable[str]]
"""Checks that a repository and a commit in it can be used; returns the commit's full id.

Raises ``RepositoryError``, whose message says what to do.
"""


@dataclass(frozen=True, slots=True)
class Services:
    """What the application was built with."""

    store: Store
    resolve_commit: ResolveCommit
    heartbeat_s: float
    """Longest silence of an event stream, s."""
    watching: Watching
    authenticator: Authenticator
    login: Issuer | None
    """Through whom people sign in from a terminal; None: not at all."""
    secret_box: SecretBox | None
    """Seals the secrets of projects; None: the service has no key for that."""
    idempotency: Idempotency
    accounts: Accounts
    webhooks: Webhooks
    schedules: Schedules
    evals: Evals
    suites: Suites
    skills: ProjectSkills
    mcp_servers: ProjectMcpServers
    remotes: Remotes
    rates: Rates | None
    """How many requests a caller may make; None: any number."""
    streams: Streams
    model_name: str
    """What tasks get that name no model."""
    takes_images: bool
    """The model takes images."""
    prices: Prices | None
    metrics: ApiMetrics
    telemetry: Telemetry | None
    """Makes spans of submissions; None makes none."""
    answer_wait_s: float
    """Longest wait for a whole answer to a chat program, s."""


@dataclass(frozen=True, slots=True)
class Context(Services):
    """The same, as the caller of one request has it."""

    principal: Principal
    tasks: ProjectStore
    """Those of the caller's project, as far as it may see them; there is no other way to tasks."""


def services(request: Request) -> Services:
    """For routes that anybody may call."""
    return services_of(request.app)


def services_of(app: FastAPI) -> Services:
    """What ``create_app`` was given."""
    found = app.state.services
    assert isinstance(found, Services), found
    return found


def context_of(request: Request, principal: Caller, built: Annotated[Services, Depends(services)]) -> Context:
    """
    Raises:
        Problem: 429, the caller asks too often.
    """
    if built.rates:
        standing = request.scope["state"]["standing"] = built.rates.take(principal.subject)
        if standing.retry_after_s is not None:
            raise too_many(standing)
    return of_caller(built, principal)


def of_caller(built: Services, principal: Principal) -> Context:
    """What the principal has of it."""
    tasks = built.store.of(principal.project_id, reasoning=principal.may("reasoning:read"))
    same = {field.name: getattr(built, field.name) for field in fields(Services)}
    return Context(**same, principal=principal, tasks=tasks)


Shared = Annotated[Context, Depends(context_of)]
