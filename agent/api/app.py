"""Builds the API over a store."""

from pathlib import Path

from fastapi import FastAPI

from agent.api import (
    approvals,
    artifact_links,
    artifacts,
    checkpoints,
    evals,
    events,
    hooks,
    mcp_servers,
    messages,
    probes,
    projects,
    pull_requests,
    repos,
    runs,
    schedules,
    service,
    skills,
    tasks,
    trajectories,
    webhooks,
)
from agent.api.acp import route as acp
from agent.api.auth import Authenticator
from agent.api.completions import route as completions
from agent.api.completions.shapes import ChatChunk, ChatRequest
from agent.api.context import ResolveCommit, Services
from agent.api.gate import Gate
from agent.api.issuers import IdentitySettings
from agent.api.mcp import route as mcp
from agent.api.metrics import ApiMetrics, CountAnswers
from agent.api.openapi import ERRORS, describe, operation_id
from agent.api.problems import install
from agent.api.rates import RateHeaders, Rates
from agent.api.schemas import Decision, ForkPoint, MessageText, NewTask, RewindPoint, TaskChange
from agent.api.streams import PER_CALLER, PER_PROJECT, Streams
from agent.api.suites import Suites
from agent.api.tokens import Tokens
from agent.api.watching import Watching
from agent.api.web import app as web
from agent.config import ModelSettings
from agent.integrations.remote import Reach
from agent.integrations.remotes import Remotes
from agent.store.accounts import Accounts
from agent.store.base import Store
from agent.store.evals import Evals
from agent.store.idempotency import Idempotency
from agent.store.mcp_servers import ProjectMcpServers
from agent.store.repos import Repos
from agent.store.schedules import Schedules
from agent.store.secrets import SecretBox
from agent.store.skills import ProjectSkills
from agent.store.webhooks import Webhooks
from agent.telemetry import Telemetry
from agent.types import TaskRequest

_ROUTERS = tuple(
    module.router
    for module in (
        tasks,
        runs,
        checkpoints,
        messages,
        events,
        trajectories,
        artifacts,
        artifact_links,
        approvals,
        service,
        evals,
        schedules,
        webhooks,
        repos,
        skills,
        mcp_servers,
        pull_requests,
        hooks,
        projects,
        completions,
        mcp,
        acp,
        probes,
    )
)
_BODIES = (
    *(TaskRequest, NewTask, TaskChange, ForkPoint, RewindPoint, MessageText, Decision, artifact_links.LinkWanted),
    *(ChatRequest, ChatChunk),
    *(
        *projects.BODIES,
        *webhooks.BODIES,
        *repos.BODIES,
        *skills.BODIES,
        *mcp_servers.BODIES,
        *schedules.BODIES,
        *evals.BODIES,
        *pull_requests.BODIES,
        *hooks.BODIES,
    ),
)
"""What routes read by themselves, strictly."""


def create_app(
    store: Store,
    resolve_commit: ResolveCommit,
    *,
    api_key: str | None = None,
    identity: IdentitySettings = IdentitySettings(),  # noqa: B008 - frozen
    secret_box: SecretBox | None = None,
    hosts: frozenset[str] | None = None,
    heartbeat_s: float = 15.0,
    num_kept: int = 256,
    requests_per_minute: int | None = None,
    streams_per_caller: int = PER_CALLER,
    streams_per_project: int = PER_PROJECT,
    model: ModelSettings = ModelSettings(),  # noqa: B008 - frozen
    reach: Reach = Reach(),  # noqa: B008 - frozen
    suites: Path | None = None,
    telemetry: Telemetry | None = None,
    answer_wait_s: float = 300.0,
) -> FastAPI:
    """The application. The caller keeps the store and closes it.

    Args:
        api_key: the operator's key. Without it and without issuers, a caller who shows nothing is the operator.
        identity: whose tokens are believed.
        secret_box: seals the secrets of projects; None where the service has no key for that.
        hosts: names this service answers to; None accepts any, as behind a proxy.
        heartbeat_s: longest silence of an event stream, s.
        num_kept: so many events of a watched log are kept for slow readers; one who falls further behind is dropped.
        requests_per_minute: of one subject, at this process; None: any number.
        streams_per_caller: of one subject, at once at this process: event streams, editors, answers to chat programs.
        streams_per_project: the same of one project.
        model: its name and prices are shown; it is not asked anything here.
        reach: the git hosts that may be called.
        suites: a folder with suites of tasks for evaluations; None has none.
        telemetry: makes spans of submissions.
        answer_wait_s: longest wait for a whole answer to a chat program, s. Clients give up after 600 s, and ask again.
    """
    app = FastAPI(
        title="mimo-coder",
        summary="Tasks in, tested patches out.",
        version="1",
        docs_url=None,  # Their pages load scripts from elsewhere.
        redoc_url=None,
        responses=ERRORS,
        generate_unique_id_function=operation_id,
        redirect_slashes=False,
    )
    metrics = ApiMetrics()
    local = api_key is None and not identity.issuers
    authenticator = Authenticator(store.identities, Tokens(identity), bootstrap_key=api_key, local=local)
    app.state.services = Services(
        store,
        resolve_commit,
        heartbeat_s,
        Watching(num_kept),
        authenticator,
        identity.login,
        secret_box,
        Idempotency(store.database),
        Accounts(store.database),
        Webhooks(store.database, secret_box),
        Schedules(store.database),
        Evals(store.database),
        Suites(suites),
        ProjectSkills(store.database),
        ProjectMcpServers(store.database),
        Remotes(Repos(store.database), store.identities, secret_box, reach),
        Rates(requests_per_minute) if requests_per_minute else None,
        Streams(streams_per_caller, streams_per_project),
        model.name,
        model.images,
        model.prices,
        metrics,
        telemetry,
        answer_wait_s,
    )
    install(app, [route for router in _ROUTERS for route in router.routes])
    app.add_middleware(Gate, authenticator=authenticator, identities=store.identities, hosts=hosts)
    app.add_middleware(RateHeaders)
    app.add_middleware(CountAnswers, metrics=metrics)
    for router in _ROUTERS:
        app.include_router(router)
    web.install(app)
    describe(app, _BODIES)
    return app
