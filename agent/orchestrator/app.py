"""Builds a worker out of its settings."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

from agent.integrations.addresses import Network
from agent.integrations.remote import Reach
from agent.integrations.remotes import RemoteCache, Remotes
from agent.model import open_model
from agent.orchestrator.contract import ContractWatch
from agent.orchestrator.equipment import Equipment
from agent.orchestrator.leftovers import Leftovers
from agent.orchestrator.metrics import WorkerMetrics
from agent.orchestrator.monitor import Fitness, monitored
from agent.orchestrator.runner import OnDelta, Runner
from agent.orchestrator.settings import WorkerSettings
from agent.orchestrator.trial import TrialWatch
from agent.orchestrator.worker import Worker
from agent.store.base import Store
from agent.store.mcp_servers import ProjectMcpServers
from agent.store.open import open_store
from agent.store.repos import Repos
from agent.store.retention import Retention
from agent.store.secrets import SecretBox
from agent.store.skills import ProjectSkills
from agent.telemetry import Telemetry
from sandbox.backends import open_backend
from sandbox.registry import open_registry
from sandbox.toolbox.calls import OnTrace
from sandbox.toolbox.open import open_on_ray, open_toolbox
from sandbox.toolbox.toolbox import Toolbox
from sandbox.types import Backend


@asynccontextmanager
async def open_worker(
    settings: WorkerSettings,
    *,
    store: Store | None = None,
    backend: Backend | None = None,
    uncommitted: bool = False,
    on_delta: OnDelta | None = None,
    telemetry: Telemetry | None = None,
    secret_box: SecretBox | None = None,
    reach: Reach = Reach(),  # noqa: B008 - frozen
    mcp_networks: tuple[Network, ...] = (),
) -> AsyncIterator[Worker]:
    """A worker with a model, a toolbox over a sandbox backend and a store of its own, all closed at the end.

    Args:
        store: the caller's, which stays open, instead of the one the settings name.
        backend: used, and closed, instead of the one the settings name.
        uncommitted: tasks start from their checkout as it is, not from the commit alone.
        on_delta: hears the model while it writes.
        telemetry: makes spans of what runs do.
        secret_box: opens the secrets of projects, and seals reasoning.
        reach: the git hosts that may be called.
        mcp_networks: projects' servers of tools may be there, although they are not public.

    Raises:
        StoreError: the store cannot be opened.
        SandboxUnavailable: there is no such backend.
    """
    metrics = WorkerMetrics()
    async with AsyncExitStack() as stack:
        if store is None:
            store = await stack.enter_async_context(
                open_store(settings.store, artifacts=settings.artifacts, box=secret_box, prices=settings.model.prices)
            )
        model = await stack.enter_async_context(open_model(settings.model))
        toolbox = await stack.enter_async_context(_toolbox(settings, backend, metrics.traced))
        metrics.watch(toolbox.keepers)
        remotes = Remotes(Repos(store.database), store.identities, secret_box, reach)
        repositories = settings.data / "repositories"
        runner = Runner(
            store,
            toolbox,
            model,
            repositories,
            RemoteCache(remotes, repositories / "remotes"),
            resources=settings.resources,
            allow_hosts=settings.sandbox.egress.allow_hosts,
            uncommitted=uncommitted,
            on_delta=on_delta,
            on_event=metrics.wrote,
            endpoint=settings.model,
            context_tokens=model.context_tokens,
            waits_for_model=settings.waits_for_model,
            model_of=model.of_run,
            telemetry=telemetry,
            equipment=Equipment(
                ProjectSkills(store.database), ProjectMcpServers(store.database), remotes.secret, mcp_networks
            ),
        )
        contract = ContractWatch(model, settings.probe_every_s) if settings.probe_every_s is not None else None
        trial = TrialWatch(toolbox) if settings.tries_sandboxes else None
        for watch in (contract, trial):
            if watch is not None:
                await stack.enter_async_context(_running(watch.run()))

        def fitness() -> Fitness:
            return Fitness(contract is None or contract.kept, trial.problem if trial is not None else None)

        def may_claim() -> bool:
            return (contract is None or contract.kept) and (trial is None or trial.may_claim)

        if settings.monitor is not None:
            await stack.enter_async_context(monitored(settings.monitor, metrics, store, fitness))
        yield Worker(
            store,
            runner,
            worker_id=settings.worker_id,
            concurrency=settings.concurrency,
            lease_ttl_s=settings.lease_ttl_s,
            tidy_every_s=settings.tidy_every_s,
            deliveries_kept_for=timedelta(days=settings.deliveries_kept_days),
            may_claim=may_claim,
            metrics=metrics,
            leftovers=Leftovers(repositories, Retention(store.database)),
        )


@asynccontextmanager
async def _toolbox(settings: WorkerSettings, backend: Backend | None, on_trace: OnTrace) -> AsyncIterator[Toolbox]:
    """Over the backend that was given or that the settings name; its executors in this process, or in a Ray cluster."""
    sandbox = settings.sandbox
    async with AsyncExitStack() as stack:
        if sandbox.ray is not None and backend is None:
            shared = open_on_ray(settings.backend, sandbox, sandbox.ray, settings.registry, on_trace)
            yield await stack.enter_async_context(shared)
            return
        backend = backend or open_backend(settings.backend, sandbox)
        registry = await stack.enter_async_context(open_registry(settings.registry)) if settings.registry else None
        opening = open_toolbox(backend, sandbox.toolbox, sandbox.pool, registry, on_trace)
        yield await stack.enter_async_context(opening)


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Beside what is done meanwhile, until that ends."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
