"""Compares attempts at a task where its own checks do not tell which is best; what is found stands in the log."""

from agent.errors import ModelError
from agent.model import Model
from agent.orchestrator.log import StoreLog
from agent.patch import TaskRepository
from agent.selection import judge, write_reproduction
from agent.store.base import Claim, RunRecord, RunResult, Store, tied
from agent.types import Check, Status, Usage
from agent.verdict import passes
from sandbox.types import Backend, SandboxSpec


class Comparison:
    """Of tasks with several attempts; asks the model beside the agents."""

    def __init__(self, store: Store, model: Model) -> None:
        self._store = store
        self._model = model

    async def reproduced(
        self,
        claim: Claim,
        log: StoreLog,
        backend: Backend,
        spec: SandboxSpec,
        repository: TaskRepository,
        base_tree: str,
        tree: str,
    ) -> bool | None:
        """Whether ``tree`` passes the test of the problem, which is written once for all attempts; None without one.

        Raises:
            SandboxError: a sandbox could not be had or was lost.
        """
        mine, kind = self._store.of(claim.task.project_id), "reproduction.written"
        if not await mine.events(claim.task.id, types=[kind], limit=1):
            check, detail, usage = await self._write(claim, repository, base_tree)
            if check and await passes(backend, spec, repository, base_tree, base_tree, check):
                check, detail = None, "it passes without any patch"
            body = {"check": check and check.model_dump(mode="json"), "detail": detail, "usage": usage.model_dump()}
            await log.append(kind, body)
        # Another attempt may have been first: its test is everybody's.
        (written,) = await mine.events(claim.task.id, types=[kind], limit=1)
        if written.body["check"] is None:
            return None
        check = Check.model_validate(written.body["check"])
        return await passes(backend, spec, repository, base_tree, tree, check)

    async def choose(self, claim: Claim, log: StoreLog, result: RunResult) -> str | None:
        """The run that a judge prefers, asked by the last run to end, of those that are equal; None: as the rule says.

        Attempts that end in the same moment do not see each other, and are left to the rule.
        """
        if claim.task.request.attempts == 1 or result.status is Status.CANCELLED:
            return None
        task = await self._store.of(claim.task.project_id).get(claim.task.id)
        runs = tuple(_ended(run, result) if run.run_id == claim.run_id else run for run in task.runs)
        equal = tied(runs) if all(run.status.terminal for run in runs) else ()
        if len(equal) < 2:
            return None
        request, patches = claim.task.request, {run.attempt: run.patch for run in equal}
        try:
            attempt, reason, usage = await judge(self._model, request.model, request.problem_statement, patches)
        except ModelError as error:
            attempt, reason, usage = None, str(error), Usage()
        body = {"among": list(patches), "attempt": attempt, "reason": reason, "usage": usage.model_dump()}
        await log.append("attempts.judged", body)
        return next((run.run_id for run in equal if run.attempt == attempt), None)

    async def _write(self, claim: Claim, repository: TaskRepository, base_tree: str) -> tuple[Check | None, str, Usage]:
        """The test, or why there is none; what it cost."""
        request = claim.task.request
        files = [entry.path.decode("utf-8", "replace") for entry in await repository.entries(base_tree)]
        try:
            check, usage = await write_reproduction(self._model, request.model, request.problem_statement, files)
        except ModelError as error:
            return None, str(error), Usage()
        return check, "" if check else "the model wrote none", usage


def _ended(run: RunRecord, result: RunResult) -> RunRecord:
    return run.model_copy(update={"status": result.status, "verdict": result.verdict, "patch": result.patch})
