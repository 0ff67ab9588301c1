"""The story of one run, from the claim to the verdict.

Whatever is decided stands in the log before it is acted on, so a run that lost its worker goes on at the same place:
an agent that stopped is not asked again, a verdict that was reached is not reached twice.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from agent.approvals import approver
from agent.config import ModelSettings
from agent.errors import GitError, RepositoryError, UnknownArtifact
from agent.events import RunStopped
from agent.history import earlier
from agent.inbox import Inbox
from agent.integrations.remotes import RemoteCache
from agent.loop import run_loop
from agent.model import Delta, Model
from agent.orchestrator.comparison import Comparison
from agent.orchestrator.draft import Draft
from agent.orchestrator.equipment import Equipment
from agent.orchestrator.forecast import Forecast
from agent.orchestrator.log import StoreLog
from agent.orchestrator.machines import Machines
from agent.orchestrator.provisioning import Provisioned, Provisioning
from agent.orchestrator.set_up import Place, SetUps
from agent.orchestrator.sources import Sources
from agent.orchestrator.workspace import Workspace
from agent.profiles.base import Profile
from agent.profiles.by_name import profile
from agent.remembering import Remembering
from agent.seeing import Seeing
from agent.steps.ends import Wait
from agent.steps.settings import LoopSettings
from agent.store.artifacts import MAX_BYTES as MAX_ARTIFACT_BYTES
from agent.store.artifacts import media_type_of
from agent.store.base import Claim, RunResult, Store, TaskRecord
from agent.telemetry import Telemetry
from agent.trajectory import last_snapshot
from agent.types import Event, Keep, SetUp, Snapshot, Status, StopReason, TaskRequest, Verdict, VerdictKind, WaitingOn
from agent.verdict import reach_verdict
from sandbox.errors import NoRoom, SandboxError, SandboxLost, SandboxRejected, SandboxUnavailable
from sandbox.toolbox.calls import Caller
from sandbox.toolbox.toolbox import RunTools, Toolbox
from sandbox.types import Backend, Resources, Sandbox

MAX_RESTORES = 2
"""So many lost sandboxes are replaced; the next loss ends the run."""

MAX_PATCH_CHARS = 20_000_000
"""A longer patch is of no use to a reader, and too much for one answer of the API."""

_CANCELLED = "cancelled by the user"

_SEEDS_PER_ATTEMPT = 10_000
"""Distance between the seeds of two attempts: sampling again within one counts up from its own."""

OnDelta = Callable[[str, int, Delta], None]
"""Receives the run's id, the number of the step, and a piece of an answer."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Work:
    """One run while this worker has it."""

    claim: Claim
    run_id: str
    request: TaskRequest
    log: StoreLog
    workspace: Workspace
    tools: RunTools
    """Has its sandboxes."""
    backend: Backend
    """Makes them."""
    inbox: Inbox
    keep: Keep
    """Gets what the run leaves beside its events."""

    @property
    def cancelled(self) -> asyncio.Event:
        return self.inbox.cancelled

    @property
    def kept(self) -> Snapshot:
        """The newest state of the files."""
        return last_snapshot(self.log.events) or Snapshot(self.workspace.base.tree)

    @property
    def tree(self) -> str:
        return self.kept.tree

    @property
    def reason(self) -> StopReason | None:
        return self.log.stopped.stop_reason if self.log.stopped else None

    async def stop(self, reason: StopReason, detail: str) -> None:
        await self.log.append("run.stopped", RunStopped(stop_reason=reason, detail=detail).model_dump(mode="json"))


class Runner:
    """Does claimed runs; several at once where asked."""

    def __init__(
        self,
        store: Store,
        toolbox: Toolbox,
        model: Model,
        repositories: Path,
        remotes: RemoteCache | None = None,
        *,
        resources: Resources | None = None,
        allow_hosts: tuple[str, ...] = (),
        uncommitted: bool = False,
        on_delta: OnDelta | None = None,
        on_event: Callable[[Event], None] | None = None,
        endpoint: ModelSettings = ModelSettings(),  # noqa: B008 - frozen
        context_tokens: Callable[[], Awaitable[int | None]] | None = None,
        waits_for_model: bool = False,
        model_of: Callable[[str], Model] | None = None,
        telemetry: Telemetry | None = None,
        equipment: Equipment | None = None,
    ) -> None:
        """
        Args:
            toolbox: decides whose sandbox and call is next; quotas are by project and repository, turns by task.
            repositories: folder for the git directories of tasks; shared by all workers of the store.
            remotes: fetches what tasks name of git hosts; None where they name paths only.
            resources: bounds of every sandbox.
            allow_hosts: what the agent's commands may reach by name; the checks have no network.
            uncommitted: tasks start from their checkout as it is, not from the commit alone.
            on_delta: hears the model while it writes; nothing of it is stored.
            on_event: hears of every event of a run, once it is stored.
            endpoint: what ``model`` is called, costs and was trained with.
            context_tokens: says how much the model holds, or that it is not known.
            waits_for_model: runs whose model is away, or for whose sandbox there is no room, are parked until there is.
            model_of: the model as a run of this id asks it; None where all ask it in one way.
            telemetry: makes spans of what runs do; None makes none.
            equipment: what projects give their agents; None gives nothing.
        """
        self._store = store
        self._toolbox = toolbox
        self._forecast = Forecast(toolbox)
        self._model = model
        self._repositories = repositories
        self._sources = Sources(repositories, remotes)
        self._comparison = Comparison(store, model)
        self._set_ups = SetUps(repositories / "setups")
        self._machines = Machines(resources or Resources(), allow_hosts)
        self._uncommitted = uncommitted
        self._on_delta = on_delta
        self._on_event = on_event
        self._endpoint = endpoint
        self._context_tokens = context_tokens
        self._waits_for_model = waits_for_model
        self._model_of = model_of or (lambda run_id: model)
        self._telemetry = telemetry
        self._equipment = equipment

    async def run(self, claim: Claim, inbox: Inbox) -> TaskRecord:
        """Go on with a run until it has ended, or is parked until the user says something; the task as it is then.

        Args:
            inbox: what the user says meanwhile; once it is ``cancelled``, the run ends within a second, with the patch
                as far as it came.

        Raises:
            LeaseLost: another worker owns the run; its sandbox is left to that one.
        """
        if self._telemetry is None:
            return await self._go_on(claim, inbox)
        submitted = (await self._store.of(claim.task.project_id).events(claim.task.id, limit=1))[0]
        with self._telemetry.agent(claim.task.id, claim.task.request, submitted.body.get("traceparent")):
            return await self._go_on(claim, inbox)

    async def _go_on(self, claim: Claim, inbox: Inbox) -> TaskRecord:
        inbox.put(await self._store.user_events(claim.task.id))
        tenant = f"{claim.task.project_id}:{claim.task.request.repository}"
        caller = Caller(run=claim.run_id, job=claim.task.id, tenant=tenant, term=claim.generation)
        async with self._toolbox.of(caller) as tools, AsyncExitStack() as broken_off:
            broken_off.push_async_callback(tools.leave)  # to who has the run next
            try:
                result = await self._result(claim, tools, inbox)
            finally:
                await self._forecast.forget(claim.run_id)
            broken_off.pop_all()
        if isinstance(result, RunResult):
            chosen = await self._comparison.choose(claim, StoreLog(self._store, claim, self._on_event), result)
            return await self._store.finish(claim.run_id, claim.generation, result, chosen=chosen)
        await self._store.park(
            claim.run_id, claim.generation, result.status, result.waiting_on, result.body, seen=inbox.last_seq
        )
        return await self._store.of(claim.task.project_id).get(claim.task.id)

    async def _result(self, claim: Claim, tools: RunTools, inbox: Inbox) -> RunResult | Wait:
        request = _as_attempt(claim)
        await self._forecast.say(
            claim.run_id, self._machines.of_agent(claim.run_id, request), *self._machines.forecast(request)
        )
        try:
            workspace = await Workspace.open(
                await self._sources.find(claim),
                request.base_commit,
                self._sources.git_dir(claim.task.id),
                self._repositories / f"{claim.run_id}.checkpoints",
                uncommitted=self._uncommitted,
                changes=request.changes,
            )
            work = _Work(
                claim,
                claim.run_id,
                request,
                StoreLog(self._store, claim, self._heard),
                workspace,
                tools,
                tools,
                inbox,
                self._keeper(claim),
            )
            if request.setup is not None and (ready := await self._furnished(work, claim, request.setup)):
                work = replace(work, backend=ready)
            broken = await self._let_agent_work(work)
            if isinstance(broken, Wait):
                return broken
            patch = await workspace.patch(work.tree)
            if len(patch) > MAX_PATCH_CHARS:
                broken = f"the patch has {len(patch)} characters, more than {MAX_PATCH_CHARS}"
                return RunResult(status=Status.FAILED, stop_reason=work.reason, error=broken)
            if patch:
                await work.keep("patch.diff", patch.encode())
            verdict, unchecked = await self._judge(work)
            if isinstance(unchecked, Wait):
                return unchecked
            await workspace.forget()
        except NoRoom as error:  # for the set-up
            return self._wait_for_room(error) or RunResult(status=Status.FAILED, error=str(error))
        except (RepositoryError, GitError) as error:
            return RunResult(status=Status.FAILED, error=str(error))
        return _ended(work, patch, verdict, broken or unchecked)

    async def _furnished(self, work: _Work, claim: Claim, setup: SetUp) -> Backend | None:
        """Sandboxes that begin with the work of the task's set-up; None where the task is cancelled first."""
        spec = self._machines.of_setup(work.run_id, work.request, setup)
        place = Place(claim.task.project_id, work.workspace.base, work.workspace.repository, spec)
        return await _unless(work.cancelled, self._set_ups.furnished(work.tools, setup, place, work.log.append))

    async def _let_agent_work(self, work: _Work) -> Wait | str | None:
        """Run the agent until it stopped, in a new sandbox whenever one is lost; why it could not, or None.

        A :class:`Wait` is what it cannot go on without.
        """
        while work.log.stopped is None:
            try:
                if wait := await self._let_agent_work_once(work):
                    return wait
            except SandboxLost as error:
                # First written: if another worker has the run, that is refused, and the sandbox is perhaps the other's.
                await work.log.append("sandbox.lost", {"detail": str(error)})
                await work.tools.close()
                if work.log.num_sandboxes_lost > MAX_RESTORES:
                    detail = f"the sandbox was lost {work.log.num_sandboxes_lost} times, at last: {error}"
                    await work.stop(StopReason.SANDBOX_LOST, detail)
            except SandboxUnavailable as error:
                if wait := self._wait_for_room(error):
                    return wait
                # One that is killed while it starts looks like a machine that can start none.
                if work.log.num_sandboxes_lost >= MAX_RESTORES:
                    return str(error)
                await work.log.append("sandbox.lost", {"detail": str(error)})
            except SandboxError as error:
                return str(error)
        return None

    async def _let_agent_work_once(self, work: _Work) -> Wait | None:
        """In one sandbox, from the newest state on; broken off, it is left as it is."""
        provisioned = await _unless(work.cancelled, self._provision(work))
        if provisioned is None:
            await work.stop(StopReason.CANCELLED, _CANCELLED)
            return None
        sandbox = provisioned.sandbox
        draft = Draft(self._store.drafts, work.claim.task.id, work.run_id)
        try:
            context_tokens = await self._context_tokens() if self._context_tokens else None
            async with self._agent(work) as agent:
                ended = await run_loop(
                    work.request,
                    agent,
                    self._shown(work),
                    sandbox,
                    work.log,
                    base_tree=work.workspace.base.tree,
                    snapshot=lambda: work.workspace.snapshot(sandbox),
                    patch=work.workspace.patch,
                    begun=provisioned.begun,
                    before=lambda path: work.workspace.text(work.tree, path),
                    inbox=work.inbox,
                    approve=approver(work.request, work.inbox, work.log),
                    on_delta=self._listener(draft, work.run_id),
                    settings=LoopSettings(
                        prices=self._endpoint.prices,
                        context_tokens=context_tokens,
                        waits_for_model=self._waits_for_model,
                    ),
                    keep=work.keep,
                )
        finally:
            draft.close()
        if not isinstance(ended, Wait):
            await _keep_files(sandbox, work)
        await sandbox.close()
        return ended if isinstance(ended, Wait) else None

    def _shown(self, work: _Work) -> Model:
        """The model, as the task asks it: with what was said before."""
        model, options = self._seeing(self._model_of(work.run_id), work.claim.task.project_id), work.request.model
        if not work.request.conversation:
            return model
        named = options.model_copy(update={"name": options.name or self._endpoint.name})
        return Remembering(model, earlier(work.request.conversation, named))

    def _seeing(self, model: Model, project_id: str) -> Model:
        """The model with the images that the project's tasks were shown."""
        kept = self._store.artifacts
        if kept is None:
            return model

        async def load(task_id: str, name: str) -> bytes | None:
            try:
                artifact = await kept.get(project_id, task_id, name)
            except UnknownArtifact:
                return None
            return b"".join([piece async for piece in kept.read(project_id, task_id, artifact)])

        return Seeing(model, load)

    @asynccontextmanager
    async def _agent(self, work: _Work) -> AsyncIterator[Profile]:
        """The task's profile, with what its project adds; what is measured is the profile alone."""
        checks_syntax = self._endpoint.checks_syntax(work.request.model.name)
        agent = profile(work.request.profile, checks_syntax=checks_syntax)
        if self._equipment is None or work.request.benchmark:
            yield agent
            return
        async with self._equipment.given(work.claim.task.project_id, agent, work.log) as given:
            yield given

    async def _provision(self, work: _Work) -> Provisioned:
        request = work.request.model_copy(update={"limits": work.inbox.raised(work.request.limits)})
        spec, next_ones = self._machines.of_agent(work.run_id, request), self._machines.forecast(request)
        provisioning = Provisioning(work.log, work.workspace, work.tools, work.backend)
        return await provisioning.provide(spec, work.kept, lambda: self._forecast.say(work.run_id, *next_ones))

    def _wait_for_room(self, error: SandboxError) -> Wait | None:
        """Until there is room for a sandbox; None where that is not what is wrong, or nobody waits."""
        if not (isinstance(error, NoRoom) and self._waits_for_model):
            return None
        return Wait(Status.WAITING, WaitingOn.CAPACITY, {"detail": str(error)})

    async def _judge(self, work: _Work) -> tuple[Verdict | None, str | Wait | None]:
        """The verdict, or why there is none. A cancelled task is not checked: the user wants the end."""
        num_lost = 0
        while work.log.verdict is None:
            try:
                verdict = await _unless(work.cancelled, self._check(work))
            except (SandboxLost, SandboxUnavailable) as error:
                if wait := self._wait_for_room(error):
                    return None, wait
                # One that is killed while it starts looks like a machine that can start none.
                num_lost += 1
                if num_lost > MAX_RESTORES:
                    return None, f"the checks could not be run: {error}"
            except SandboxError as error:
                return None, f"the checks could not be run: {error}"
            else:
                if verdict is None:
                    await work.stop(StopReason.CANCELLED, _CANCELLED)
                    verdict = _unchecked(work)
                await work.log.append("verdict.reached", {"verdict": verdict.model_dump(mode="json")})
        return work.log.verdict, None

    async def _check(self, work: _Work) -> Verdict:
        await self._forecast.say(work.run_id)
        base, repository = work.workspace.base.tree, work.workspace.repository
        checks = work.request.checks
        verdict = await reach_verdict(
            work.backend, self._machines.of_checks(work.request), repository, base, work.tree, checks, work.keep
        )
        if work.request.attempts == 1 or verdict.kind is VerdictKind.NO_CHANGE:
            return verdict
        spec = self._machines.of_checks(work.request)
        reproduced = await self._comparison.reproduced(
            work.claim, work.log, work.backend, spec, repository, base, work.tree
        )
        return verdict.model_copy(update={"reproduced": reproduced})

    def _keeper(self, claim: Claim) -> Keep:
        """Names begin with the number of the attempt."""
        kept, attempt = self._store.artifacts, _attempt(claim)

        async def keep(name: str, data: bytes) -> None:
            if kept is not None:
                await kept.put(claim, f"{attempt}/{name}", data, media_type_of(name))

        return keep

    def _heard(self, event: Event) -> None:
        for hears in (self._on_event, self._telemetry and self._telemetry.wrote):
            if hears:
                hears(event)

    def _listener(self, draft: Draft, run_id: str) -> Callable[[int, Delta], None]:
        def hear(step: int, delta: Delta) -> None:
            draft.hear(step, delta)
            if self._on_delta:
                self._on_delta(run_id, step, delta)

        return hear


def _as_attempt(claim: Claim) -> TaskRequest:
    """The request, with a seed of the attempt's own: the same seed would give the same attempt again."""
    request, attempt = claim.task.request, _attempt(claim)
    if request.model.seed is None or attempt == 1:
        return request
    seed = request.model.seed + (attempt - 1) * _SEEDS_PER_ATTEMPT
    return request.model_copy(update={"model": request.model.model_copy(update={"seed": seed})})


def _attempt(claim: Claim) -> int:
    return next(run.attempt for run in claim.task.runs if run.run_id == claim.run_id)


async def _keep_files(sandbox: Sandbox, work: _Work) -> None:
    """Those that the task names, as they are now; what is no file, or too large, is left out."""
    for path in work.request.artifacts:
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError, SandboxRejected):
            await work.keep(f"files/{path}", await sandbox.read(f"/workspace/{path}", MAX_ARTIFACT_BYTES))


def _unchecked(work: _Work) -> Verdict:
    changed = work.tree != work.workspace.base.tree
    return Verdict(kind=VerdictKind.UNVERIFIED if changed else VerdictKind.NO_CHANGE, tree=work.tree)


def _ended(work: _Work, patch: str, verdict: Verdict | None, broken: str | None) -> RunResult:
    stopped = work.log.stopped
    match work.reason:
        case StopReason.CANCELLED:
            status, error = Status.CANCELLED, None
        case StopReason.FINISHED if broken is None:
            status, error = Status.SUCCEEDED, None
        case _:
            status, error = Status.FAILED, broken or (stopped.detail if stopped else None)
    return RunResult(status=status, stop_reason=work.reason, verdict=verdict, patch=patch, error=error)


async def _unless(cancelled: asyncio.Event, work: Coroutine[None, None, _T]) -> _T | None:
    """The work's result, or None where the task is cancelled first; the work is then cancelled too, and has ended."""
    if cancelled.is_set():
        work.close()
        return None
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.wait({working, waiting})
        if not working.cancelled():
            working.exception()  # marks it as seen where it came too late to matter
