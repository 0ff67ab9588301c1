"""What the checks say about a patch, in a sandbox the agent never touched."""

from collections.abc import Sequence

from agent.patch import TaskRepository
from agent.tools.bash import describe_ending
from agent.types import Check, Evidence, Keep, Verdict, VerdictKind
from sandbox.types import Backend, Command, Exited, Outcome, Sandbox, SandboxSpec

_OUTPUT_CHARS = 4000


async def reach_verdict(
    backend: Backend,
    spec: SandboxSpec,
    repository: TaskRepository,
    base_tree: str,
    tree: str,
    checks: Sequence[Check],
    keep: Keep,
) -> Verdict:
    """Run every check on ``tree`` with the base's tests; a failing one also on the base, to know what regressed.

    Args:
        keep: gets all that each check wrote, as ``checks/1.log``, and as ``checks/1.before.log`` what it wrote on the
            base.

    Raises:
        SandboxError: a sandbox could not be had or was lost.
    """
    if tree == base_tree:
        return Verdict(kind=VerdictKind.NO_CHANGE, tree=tree)
    if not checks:
        return Verdict(kind=VerdictKind.UNVERIFIED, tree=tree)
    graded = await repository.with_base_tests(tree, base_tree)
    outcomes = await _run(backend, spec, repository, base_tree, graded, checks)
    failing = [check for check, outcome in zip(checks, outcomes, strict=True) if not _passes(outcome)]
    before = await _run(backend, spec, repository, base_tree, base_tree, failing) if failing else []
    passed_before = {check: _passes(outcome) for check, outcome in zip(failing, before, strict=True)}
    for number, (check, outcome) in enumerate(zip(checks, outcomes, strict=True), start=1):
        await keep(f"checks/{number}.log", outcome.output)
        if check in failing:
            await keep(f"checks/{number}.before.log", before[failing.index(check)].output)
    evidence = tuple(
        _evidence(check, outcome, graded, passed_before.get(check))
        for check, outcome in zip(checks, outcomes, strict=True)
    )
    return Verdict(kind=_kind(evidence), evidence=evidence, tree=tree)


async def passes(
    backend: Backend, spec: SandboxSpec, repository: TaskRepository, base_tree: str, tree: str, check: Check
) -> bool:
    """Whether a check passes on ``tree`` as it is.

    Raises:
        SandboxError: a sandbox could not be had or was lost.
    """
    (outcome,) = await _run(backend, spec, repository, base_tree, tree, [check])
    return _passes(outcome)


async def _run(
    backend: Backend, spec: SandboxSpec, repository: TaskRepository, base_tree: str, tree: str, checks: Sequence[Check]
) -> list[Outcome]:
    """The outcomes of all checks, one after the other in one fresh sandbox."""
    archive = await repository.archive(tree, base_tree)
    sandbox = await backend.acquire(spec)
    try:
        await sandbox.upload(archive)
        return [await _check(sandbox, check, f"check-{number}") for number, check in enumerate(checks)]
    finally:
        await sandbox.close()


async def _check(sandbox: Sandbox, check: Check, request_id: str) -> Outcome:
    return await sandbox.exec(Command(check.command, request_id=request_id, timeout_s=check.timeout_s))


def _passes(outcome: Outcome) -> bool:
    return isinstance(outcome, Exited) and outcome.code == 0


def _evidence(check: Check, outcome: Outcome, tree: str, passed_before: bool | None) -> Evidence:
    output = outcome.output.decode("utf-8", "replace")
    if not isinstance(outcome, Exited):
        output = f"{output}\n{describe_ending(outcome)}"
    return Evidence(
        command=check.command,
        exit_code=outcome.code if isinstance(outcome, Exited) else None,
        passed=_passes(outcome),
        passed_before=passed_before,
        output=output[-_OUTPUT_CHARS:],
        tree=tree,
        duration_s=outcome.run_s,
    )


def _kind(evidence: Sequence[Evidence]) -> VerdictKind:
    if all(check.passed for check in evidence):
        return VerdictKind.VERIFIED
    if any(check.passed_before for check in evidence):
        return VerdictKind.REGRESSED
    return VerdictKind.PARTLY_VERIFIED if any(check.passed for check in evidence) else VerdictKind.UNVERIFIED
