"""One run from the claim to the verdict, with real git and real sandboxes."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.config import model_settings
from agent.orchestrator.runner import MAX_RESTORES
from agent.orchestrator.worker import Worker
from agent.store.base import TaskRecord
from agent.store.sql import SqlStore
from agent.testing import ScriptedModel, call, in_order, turns
from agent.types import (
    AssistantMessage,
    Check,
    Limits,
    ModelOptions,
    SetUp,
    Status,
    StopReason,
    TaskRequest,
    VerdictKind,
)
from sandbox.checkpoints.rewindable import Rewindable
from sandbox.errors import SandboxError, SandboxLost, SandboxUnavailable
from sandbox.types import Backend, Capability, Command, Outcome, Sandbox, SandboxSpec
from tests.integration.orchestrator.conftest import CHECK, PATCH, REPAIR, users

pytestmark = pytest.mark.anyio

MakeRequest = Callable[..., TaskRequest]
MakeWorker = Callable[..., Worker]


class FailingBackend:
    """Real sandboxes, of which the listed ones fail: ``failures[n]`` is raised by the n-th one's first command."""

    name = "failing"

    def __init__(self, backend: Backend, *failures: SandboxError | None) -> None:
        self._backend = backend
        self.capabilities = backend.capabilities - {Capability.CHECKPOINTS, Capability.REATTACH}
        self._failures = list(failures)
        self.num_acquired = 0

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        self.num_acquired += 1
        failure = self._failures.pop(0) if self._failures else None
        if isinstance(failure, SandboxUnavailable):
            raise failure
        sandbox = await self._backend.acquire(spec)
        return FailingSandbox(sandbox, failure) if failure else sandbox

    async def close(self) -> None:
        await self._backend.close()


class FailingSandbox:
    """A sandbox whose commands all fail with the machine."""

    def __init__(self, sandbox: Sandbox, failure: SandboxError) -> None:
        self._failure = failure
        self.boot_id = sandbox.boot_id
        self.read, self.write = sandbox.read, sandbox.write
        self.upload, self.download, self.close = sandbox.upload, sandbox.download, sandbox.close

    async def exec(self, command: Command) -> Outcome:
        raise self._failure


class MortalBackend(FailingBackend):
    """Real sandboxes, of which the first is lost after its first command."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.capabilities = backend.capabilities - {Capability.REATTACH}

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        sandbox = await super().acquire(spec)
        assert isinstance(sandbox, Rewindable)
        return MortalSandbox(sandbox) if self.num_acquired == 1 else sandbox


class MortalSandbox(FailingSandbox):
    def __init__(self, sandbox: Rewindable) -> None:
        super().__init__(sandbox, SandboxLost("evicted"))
        self.checkpoint, self.restore = sandbox.checkpoint, sandbox.restore
        self._commands = [sandbox.exec]

    async def exec(self, command: Command) -> Outcome:
        if self._commands:
            return await self._commands.pop()(command)
        return await super().exec(command)


async def finished(store: SqlStore, worker: Worker, request: TaskRequest) -> TaskRecord:
    task = await users(store).submit(request)
    await worker.drain()
    return await users(store).get(task.id)


async def types(store: SqlStore, task: TaskRecord) -> list[str]:
    return [event.type for event in await users(store).events(task.id)]


async def test_repaired_task_comes_back_with_a_verified_patch(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, repository: Path
) -> None:
    task = await finished(store, make_worker(*REPAIR), make_request())

    assert (task.status, task.stop_reason, task.error) == (Status.SUCCEEDED, StopReason.FINISHED, None)
    assert task.verdict is not None
    assert task.verdict.kind is VerdictKind.VERIFIED
    assert [(item.command, item.exit_code) for item in task.verdict.evidence] == [(CHECK.command, 0)]
    assert (task.steps, task.patch) == (3, PATCH)
    step = ["step.started", "step.message", "tool.intent", "tool.completed", "step.completed"]
    assert await types(store, task) == [
        *("task.submitted", "run.claimed", "run.provisioned"),
        *(step * 3),
        *("run.stopped", "verdict.reached", "run.finished", "task.finished"),
    ]
    await anyio.run_process(["git", "apply"], cwd=repository, input=task.patch.encode())
    assert (repository / "calc.py").read_text() == "def add(a, b):\n    return a + b\n"


async def test_lost_sandbox_is_replaced_from_the_last_snapshot(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    script = (REPAIR[1], REPAIR[0], REPAIR[0], REPAIR[2])
    failing = FailingBackend(backend, SandboxLost("evicted"))

    task = await finished(store, make_worker(*script, backend=failing), make_request())

    assert task.status is Status.SUCCEEDED
    assert task.patch == PATCH
    log = await types(store, task)
    assert [kind for kind in log if kind in ("run.provisioned", "sandbox.lost", "run.resumed")] == [
        "run.provisioned",
        "sandbox.lost",
        "run.provisioned",
        "run.resumed",
    ]


async def test_replaced_sandbox_has_what_git_leaves_out_too(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest, tmp_path: Path
) -> None:
    make = "echo hidden > .gitignore; echo built > hidden; mkdir empty; git config demo.key set; chmod 751 calc.py"
    look = "cat hidden; ls -d empty; git config demo.key; stat -c %a calc.py"
    script = (call("bash", command=make), call("bash", command="true"), call("bash", command=look), *REPAIR[1:])

    task = await finished(store, make_worker(*script, backend=MortalBackend(backend)), make_request())

    assert task.status is Status.SUCCEEDED
    log = await users(store).events(task.id)
    assert [event.type for event in log].count("sandbox.lost") == 1
    texts = [event.body["observation"]["text"] for event in log if event.type == "tool.completed"]
    assert any("built\nempty\nset\n751" in text for text in texts)
    first, second = (event.body["checkpoint"] for event in log if event.type == "run.provisioned")
    assert first is None
    assert second == next(event.body["checkpoint"] for event in log if event.type == "tool.completed")
    assert _checkpoints(tmp_path) == []


async def test_agent_may_reach_the_hosts_that_the_operator_allows_and_the_checks_none(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    script = (call("bash", command="echo way out: $HTTPS_PROXY"), *REPAIR)
    check = Check(command='test -z "$HTTPS_PROXY"')

    task = await finished(
        store, make_worker(*script, allow_hosts=("packages.example.org",)), make_request(checks=(check,))
    )

    assert task.verdict is not None
    assert [item.exit_code for item in task.verdict.evidence] == [0]
    texts = [event.body.get("observation", {}).get("text", "") for event in await users(store).events(task.id)]
    assert any("way out: http://127.0.0.1:" in text for text in texts)


class NotingBackend:
    """Real sandboxes, and which hosts each was to reach, and for how long it was to live."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.capabilities, self.close = "noting", backend.capabilities, backend.close
        self.hosts: list[tuple[str, ...]] = []
        self.lifetimes_s: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        self.hosts.append(spec.allow_hosts)
        self.lifetimes_s.append(spec.lifetime_s)
        return await self._backend.acquire(spec)


@pytest.mark.parametrize(
    ("limits", "lifetime_s"),
    [(Limits(wall_clock_s=600), 5000), (Limits(wall_clock_s=600, sandbox_lifetime_s=700), 700)],
    ids=["raised limit", "limit of its own"],
)
async def test_the_agents_sandbox_lives_as_long_as_the_limits_that_the_run_has_then(
    limits: Limits,
    lifetime_s: float,
    store: SqlStore,
    backend: Backend,
    make_worker: MakeWorker,
    make_request: MakeRequest,
) -> None:
    noting = NotingBackend(backend)
    task = await users(store).submit(make_request(limits=limits))
    await users(store).tell(task.id, "budget.granted", {"wall_clock_s": 5000})
    await make_worker(*REPAIR, backend=noting).drain()
    assert lifetime_s <= noting.lifetimes_s[0] <= lifetime_s + 600


async def test_benchmarks_agent_reaches_no_place_that_has_the_answer_and_its_set_up_does(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    answers = ("codeload.github.com", "*.githubusercontent.com", "pypi.org", "*.golang.org", "git.example.org:22")
    allowed = (*answers, "docs.example.org", "*.cdn.example.org", "notgithub.com")
    noting = NotingBackend(backend)

    await finished(
        store,
        make_worker(*REPAIR, backend=noting, allow_hosts=allowed),
        make_request(benchmark=True, deny_hosts=("git.example.org",), setup=SetUp(script="true")),
    )
    set_up, agent, *checks = noting.hosts

    assert set_up == allowed
    assert agent == allowed[len(answers) :]
    assert set(checks) == {()}


async def test_sandbox_of_a_benchmark_holds_no_commit_but_the_base(
    store: SqlStore, repository: Path, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    base = _git(repository, "rev-parse", "HEAD")
    (repository / "calc.py").write_text("def add(a, b):\n    return a + b  # the-fix\n")
    _git(repository, "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-qam", "the-fix")
    for command in ("tag fixed", "branch later", "update-ref refs/remotes/origin/main HEAD", f"reset -q --hard {base}"):
        _git(repository, *command.split())
    _git(repository, "remote", "add", "origin", "https://git.example.org/calculator.git")
    look = (
        "echo commits=$(git log --all --reflog --oneline | wc -l) "
        "reflog=$(git reflog --all | grep -vc $(git rev-parse --short HEAD)) "
        "tags=$(git tag | wc -l) remotes=$(git remote | wc -l) branches=$(git branch --all | wc -l) "
        "lost=$(git fsck --lost-found --no-reflogs 2>&1 | wc -l) "
        "fixes=$(git cat-file --batch-all-objects --batch | grep -ac the-fix)"
    )

    task = await finished(
        store,
        make_worker(call("bash", command=look), *REPAIR),
        make_request(benchmark=True, base_commit=base, checks=()),
    )
    texts = [event.body.get("observation", {}).get("text", "") for event in await users(store).events(task.id)]
    found = "commits=1 reflog=0 tags=0 remotes=0 branches=1 lost=0 fixes=0"
    assert any(found in text for text in texts), [text for text in texts if text]


def _git(repository: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()


async def test_sandboxes_lost_again_and_again_end_the_run_with_what_it_had(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    script = (REPAIR[1], *(REPAIR[0] for _ in range(5)))
    failing = FailingBackend(backend, *(SandboxLost("evicted") for _ in range(3)))

    task = await finished(store, make_worker(*script, backend=failing), make_request())

    assert (task.status, task.stop_reason) == (Status.FAILED, StopReason.SANDBOX_LOST)
    assert task.error == "the sandbox was lost 3 times, at last: evicted"
    assert "+    return a + b" in task.patch
    assert task.verdict is not None
    assert task.verdict.kind is VerdictKind.VERIFIED


@pytest.mark.parametrize("end", [SandboxLost("evicted"), SandboxUnavailable("it was deleted; before it served")])
async def test_sandbox_lost_in_the_verdict_is_replaced_too(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest, end: SandboxError
) -> None:
    failing = FailingBackend(backend, None, end)

    task = await finished(store, make_worker(*REPAIR, backend=failing), make_request())

    assert task.status is Status.SUCCEEDED
    assert failing.num_acquired == 3


async def test_checks_that_cannot_be_run_leave_a_patch_without_verdict(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    failing = FailingBackend(backend, None, *(SandboxLost("evicted") for _ in range(3)))

    task = await finished(store, make_worker(*REPAIR, backend=failing), make_request())

    assert (task.status, task.stop_reason, task.verdict) == (Status.FAILED, StopReason.FINISHED, None)
    assert task.error == "the checks could not be run: evicted"
    assert "+    return a + b" in task.patch


async def test_machine_that_cannot_run_sandboxes_fails_the_run_with_what_to_do(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    failing = FailingBackend(backend, *[SandboxUnavailable("install bubblewrap")] * (MAX_RESTORES + 1))

    task = await finished(store, make_worker(*REPAIR, backend=failing), make_request())

    assert (task.status, task.stop_reason, task.error) == (Status.FAILED, None, "install bubblewrap")


async def test_sandbox_that_ends_while_it_starts_is_started_again(
    store: SqlStore, backend: Backend, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    failing = FailingBackend(backend, SandboxUnavailable("the sandbox ended before it was ready"))

    task = await finished(store, make_worker(*REPAIR, backend=failing), make_request())

    assert (task.status, task.patch) == (Status.SUCCEEDED, PATCH)


async def test_unknown_image_fails_the_run_and_names_it(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await finished(store, make_worker(*REPAIR), make_request(image="no-such-image"))

    assert task.status is Status.FAILED
    assert task.error is not None
    assert "no-such-image" in task.error


async def test_unusable_repository_fails_the_run_and_the_worker_goes_on(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest, tmp_path: Path
) -> None:
    unusable = await users(store).submit(make_request(repository=str(tmp_path / "nowhere")))

    usable = await finished(store, make_worker(*REPAIR), make_request())

    failed = await users(store).get(unusable.id)
    assert (failed.status, failed.stop_reason, failed.verdict) == (Status.FAILED, None, None)
    assert failed.error is not None
    assert "is not a directory. Give the path of a git repository" in failed.error
    assert usable.status is Status.SUCCEEDED


async def test_model_that_fails_leaves_the_partial_patch_and_its_verdict(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await finished(store, make_worker(REPAIR[1]), make_request())

    assert (task.status, task.stop_reason) == (Status.FAILED, StopReason.MODEL_ERROR)
    assert task.error == "the script has 1 answers and was asked for one more"
    assert "+    return a + b" in task.patch
    assert task.verdict is not None
    assert task.verdict.kind is VerdictKind.VERIFIED


async def test_patch_of_no_use_is_refused(store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest) -> None:
    command = "python -c \"open('big', 'w').write(('x' * 99 + chr(10)) * 210_000)\""

    task = await finished(store, make_worker(call("bash", command=command), REPAIR[2]), make_request())

    assert (task.status, task.stop_reason, task.patch) == (Status.FAILED, StopReason.FINISHED, "")
    assert task.error is not None
    assert "more than 20000000" in task.error


async def test_best_attempt_is_selected_by_its_checks(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    wrong = call("str_replace", path="calc.py", old_str="a - b", new_str="a * b")
    no_test = AssistantMessage(content="I cannot think of a test of the problem.")
    model = ScriptedModel(in_order(wrong, REPAIR[2], no_test, *REPAIR))
    request = make_request(attempts=2, model={"seed": 7})

    task = await finished(store, make_worker(model=model), request)

    assert [run.verdict.kind if run.verdict else None for run in task.runs] == ["unverified", "verified"]
    assert task.selected == task.runs[1]
    assert [options.seed for _, options in model.requests] == [7, 7, 7, 10007, 10007, 10007]


async def test_cancel_ends_a_command_and_keeps_what_was_done_before(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    worker = make_worker(REPAIR[1], call("bash", command="sleep 500"), REPAIR[2])

    async with anyio.create_task_group() as group:
        group.start_soon(worker.drain)
        await _seen(store, task, "tool.intent", times=2)
        await users(store).cancel(task.id)

    ended = await users(store).get(task.id)
    assert (ended.status, ended.stop_reason) == (Status.CANCELLED, StopReason.CANCELLED)
    assert "+    return a + b" in ended.patch
    assert ended.verdict is not None
    assert (ended.verdict.kind, ended.verdict.evidence) == (VerdictKind.UNVERIFIED, ())


async def test_cancel_ends_checks_that_run(store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest) -> None:
    task = await users(store).submit(make_request(checks=({"command": "sleep 500", "timeout_s": 600},)))

    async with anyio.create_task_group() as group:
        group.start_soon(make_worker(*REPAIR).drain)
        await _seen(store, task, "run.stopped")
        await users(store).cancel(task.id)

    ended = await users(store).get(task.id)
    assert (ended.status, ended.stop_reason, ended.error) == (Status.CANCELLED, StopReason.CANCELLED, None)
    assert "+    return a + b" in ended.patch


async def test_cancelled_run_that_lost_its_worker_is_ended_by_the_next(
    store: SqlStore, make_worker: MakeWorker, make_request: MakeRequest
) -> None:
    task = await users(store).submit(make_request())
    claim = await store.claim("worker-0", 15)
    assert claim is not None
    await users(store).cancel(task.id)
    await store.release(claim.run_id, claim.generation)
    model = ScriptedModel(turns(*REPAIR))

    await make_worker(model=model).drain()

    ended = await users(store).get(task.id)
    assert (ended.status, ended.stop_reason, ended.patch) == (Status.CANCELLED, StopReason.CANCELLED, "")
    assert model.requests == []


async def _seen(store: SqlStore, task: TaskRecord, kind: str, *, times: int = 1) -> None:
    """Return when the task's log has so many events of this kind."""
    after = 0
    while times > 0:
        for event in await users(store).wait_for_events(task.id, after=after, timeout_s=60):
            after = event.seq
            times -= event.type == kind


def _checkpoints(folder: Path) -> list[Path]:
    return list(folder.rglob("*.checkpoints"))


@pytest.mark.parametrize(
    ("environment", "asked", "refused"),
    [
        pytest.param({"MIMO_MODEL_NAME": "mimo-v2-flash"}, None, True, id="the real model"),
        pytest.param({}, None, False, id="the small one"),
        pytest.param({}, "XiaomiMiMo/MiMo-V2-Flash", True, id="the real model, asked for by the task"),
        pytest.param({"MIMO_MODEL_CHECK_SYNTAX": "1"}, None, True, id="the small one, where it is set"),
        pytest.param({"MIMO_MODEL_NAME": "mimo-v2-flash", "MIMO_MODEL_CHECK_SYNTAX": "0"}, None, False, id="not set"),
    ],
)
async def test_an_edit_that_breaks_syntax_is_refused_but_of_the_model_that_was_trained_without(
    store: SqlStore,
    make_worker: MakeWorker,
    make_request: MakeRequest,
    environment: dict[str, str],
    asked: str | None,
    refused: bool,
) -> None:
    breaking = call("str_replace", path="calc.py", old_str="a - b", new_str="(a - b")
    worker = make_worker(breaking, *REPAIR[1:], endpoint=model_settings(environment))
    task = await finished(store, worker, make_request(model=ModelOptions(name=asked)))

    log = await users(store).events(task.id)
    seen = next(event.body["observation"]["text"] for event in log if event.type == "tool.completed")
    assert seen == (
        "[error] nothing was edited: the file would no longer be Python: line 2: '(' was never closed"
        if refused
        else "[edited line 2]"
    )
