"""``mimo run``: one task in this process, against a checkout on this machine."""

import asyncio
import secrets
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agent.api.schemas import LAST_EVENT, TaskView, show, show_event
from agent.cli.answer import AnswerForm, answer
from agent.cli.arguments import invalid, message
from agent.cli.checkout import NOTHING_PROVES, default_checks, top_directory
from agent.cli.children import embedded_model
from agent.cli.exits import exit_code
from agent.cli.failure import ExitCode, Failure
from agent.cli.output import Output
from agent.cli.progress import Progress
from agent.cli.report import report
from agent.cli.terminal import Terminal
from agent.config import ModelSettings
from agent.errors import GitError, RepositoryError, TaskOver
from agent.events import MessageAdded, ToolIntent
from agent.git import git
from agent.identity import DEFAULT_PROJECT
from agent.orchestrator.app import open_worker
from agent.orchestrator.settings import WorkerSettings
from agent.orchestrator.worker import Worker
from agent.repository import check_repository
from agent.store.artifacts import NewImage
from agent.store.base import ProjectStore
from agent.store.open import open_store
from agent.tools.finish import summary_of
from agent.types import Check, Event, Limits, ModelOptions, Status, TaskRequest, VerdictKind
from sandbox.config import SandboxSettings

_KEEP_RUNS_S = 7 * 24 * 3600.0
"""The logs of earlier runs are kept this long."""

_MODEL_RETRIES = 3

_MAX_LINE_BYTES = 1024 * 1024

_EVENTS_TIMEOUT_S = 5.0
"""How often is looked whether the worker broke off, while no event comes."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command line of ``mimo run``."""

    problem: str
    listen: bool
    """Further messages come on standard input, one JSON object a line."""
    repository: Path
    commit: str
    model: ModelSettings
    checkpoint: str | None
    """Model that an embedded server shall serve; None where ``model`` says who is asked."""
    backend: str
    """What makes sandboxes."""
    sandbox: SandboxSettings
    """How it makes them."""
    checks: tuple[str, ...]
    limits: Limits
    sampling: ModelOptions
    images: tuple[NewImage, ...]
    """What the problem looks like."""
    attempts: int
    output: Output
    apply: bool
    allow_dirty: bool
    uncommitted: bool
    require_verified: bool
    heartbeat_s: float
    form: AnswerForm | None
    """What the answer on standard output has to be; None: it is the patch."""


async def run(options: RunOptions, home: Path, terminal: Terminal) -> ExitCode:
    """Work on the problem and print what came of it.

    Raises:
        Failure: the task could not even begin, or the patch could not be applied.
    """
    request = await _request(options, terminal)
    with _directory(home / "runs") as directory:
        async with AsyncExitStack() as stack:
            settings = await _settings(options, directory, stack, terminal)
            images = (directory / "images").absolute().as_uri() if options.images else None
            store = await stack.enter_async_context(open_store(settings.store, artifacts=images))
            progress = stack.enter_context(Progress(terminal, options.heartbeat_s))
            worker = await stack.enter_async_context(
                open_worker(
                    settings,
                    store=store,
                    uncommitted=options.uncommitted,
                    on_delta=lambda _, step, delta: progress.piece(step, delta.kind),
                )
            )
            tasks = store.of(DEFAULT_PROJECT)
            task = await _work(request, tasks, worker, progress, terminal, options)
            code = exit_code(task, require_verified=options.require_verified)
            if options.form is not None and _has_answer(task, code):
                said = await _last_words(tasks, task.id)
                terminal.result(await answer(options.form, task, said, settings.model))
                code = ExitCode.DONE if task.verdict and task.verdict.kind is VerdictKind.NO_CHANGE else code
    await _deliver(task, options, Path(request.repository), terminal)
    return code


def _has_answer(task: TaskView, code: ExitCode) -> bool:
    """A question may be answered without a patch."""
    unchanged = task.status is Status.SUCCEEDED and task.verdict and task.verdict.kind is VerdictKind.NO_CHANGE
    return bool(unchanged) or code in (ExitCode.DONE, ExitCode.UNVERIFIED)


async def _last_words(tasks: ProjectStore, task_id: str) -> str:
    """What the agent said when it finished."""
    said, after = "", 0
    while page := await tasks.events(task_id, after=after):
        calls = [ToolIntent.model_validate(event.body).call for event in page if event.type == "tool.intent"]
        said = next((summary for call in reversed(calls) if (summary := summary_of(call))), said)
        after = page[-1].seq
    return said


async def _request(options: RunOptions, terminal: Terminal) -> TaskRequest:
    if not options.problem.strip():
        raise Failure(ExitCode.USAGE, "the problem is empty", 'say what is wrong or wanted: mimo run "..."')
    try:
        root = await top_directory(options.repository)
        commit = await check_repository(root, options.commit)
        if options.apply or options.commit == "HEAD":
            await _look_at_checkout(root, options, terminal)
        checks = options.checks or await default_checks(root, commit)
    except RepositoryError as error:
        raise Failure(ExitCode.USAGE, str(error)) from error
    if not checks:
        terminal.note(NOTHING_PROVES)
    try:
        return TaskRequest(
            repository=str(root),
            base_commit=commit,
            problem_statement=options.problem,
            checks=tuple(Check(command=command) for command in checks),
            limits=options.limits,
            model=options.sampling,
            attempts=options.attempts,
        )
    except ValidationError as error:
        raise invalid(error) from error


async def _look_at_checkout(root: Path, options: RunOptions, terminal: Terminal) -> None:
    """The agent sees a commit; whoever has changes beside it must know that, or hand them over."""
    if options.uncommitted:
        return
    try:
        answer = await git("status", "--porcelain", "-z", "--no-renames", cwd=root)
    except GitError as error:
        if options.apply:
            raise Failure(
                ExitCode.USAGE, f"{root} has no work tree to apply a patch to ({error})", "leave out --apply"
            ) from error
        return
    entries = answer.decode(errors="replace").split("\0")[:-1]
    changed = [entry[3:] for entry in entries if not entry.startswith("??")]
    if changed and not options.allow_dirty:
        raise Failure(
            ExitCode.USAGE,
            f"{root} has uncommitted changes ({_some(changed)})",
            "commit or stash them; or give --uncommitted to start from the files as they are, "
            "or --allow-dirty to start from the commit, without them",
        )
    if changed:
        terminal.note(f"Left out, for the agent sees the commit: uncommitted changes ({_some(changed)}).")
    elif entries:
        terminal.note(f"Left out, for the agent sees the commit: untracked files ({_some([e[3:] for e in entries])}).")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def _directory(runs: Path) -> Iterator[Path]:
    """A directory for one run: its log stays for a while, its copy of the repository goes at the end."""
    runs.mkdir(parents=True, exist_ok=True)
    for old in runs.iterdir():
        if time.time() - old.stat().st_mtime > _KEEP_RUNS_S:
            shutil.rmtree(old, ignore_errors=True)
    directory = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory / "repositories", ignore_errors=True)


async def _settings(options: RunOptions, directory: Path, stack: AsyncExitStack, terminal: Terminal) -> WorkerSettings:
    # A person waits: an endpoint that is away is reported within seconds, not after the patience of a service.
    model = options.model.model_copy(update={"retries": min(options.model.retries, _MODEL_RETRIES)})
    if options.checkpoint is not None:
        terminal.note(f"Starting the embedded model {options.checkpoint} (give --model-url to use another).")
        model = await stack.enter_async_context(embedded_model(options.checkpoint, directory / "model.log", model))
    return WorkerSettings(
        store=f"sqlite:///{directory / 'store.db'}",
        data=directory,
        model=model,
        backend=options.backend,
        sandbox=options.sandbox,
    )


async def _work(
    request: TaskRequest,
    tasks: ProjectStore,
    worker: Worker,
    progress: Progress,
    terminal: Terminal,
    options: RunOptions,
) -> TaskView:
    task = await tasks.submit(request, message=_shown(options.images), images=options.images)
    async with _cancelled_by_signals(tasks, task.id, progress):
        working = asyncio.ensure_future(worker.drain())
        beside = [asyncio.ensure_future(progress.keep_on())]
        if options.listen:
            beside.append(asyncio.ensure_future(_listen(tasks, task.id)))
        try:
            async for event in _events(tasks, task.id, working):
                view = show_event(event)
                progress.event(view)
                if options.output is Output.STREAM_JSON:
                    terminal.result(view.model_dump_json())
            await working
        finally:
            for waiting in (working, *beside):
                waiting.cancel()
            await asyncio.wait({working, *beside})
    return show(await tasks.get(task.id))


def _shown(images: Sequence[NewImage]) -> MessageAdded | None:
    """What goes with the problem."""
    if not images:
        return None
    from agent.api.images import with_problem  # Slow to import, with the whole of the API.

    return with_problem(images)


async def _listen(tasks: ProjectStore, task_id: str) -> None:
    """Pass on what comes on standard input, until its end or the task's."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        said = message(line.decode("utf-8", "replace"))
        added = MessageAdded(message_id=secrets.token_hex(8), text=said.text, delivery=said.delivery)
        try:
            await tasks.tell(task_id, "message.added", added.model_dump(mode="json"))
        except TaskOver:
            return


async def _events(tasks: ProjectStore, task_id: str, working: "asyncio.Future[None]") -> AsyncIterator[Event]:
    after = 0
    while True:
        idle = working.done()
        events = await tasks.wait_for_events(task_id, after=after, timeout_s=0 if idle else _EVENTS_TIMEOUT_S)
        for event in events:
            after = event.seq
            yield event
            if event.type == LAST_EVENT:
                return
        if idle and not events:
            return  # The worker broke off; what it raised says why.


@asynccontextmanager
async def _cancelled_by_signals(tasks: ProjectStore, task_id: str, progress: Progress) -> AsyncIterator[None]:
    """The first Ctrl-C ends the run in order, with the patch so far; the second one ends the process."""
    loop = asyncio.get_running_loop()
    requests: set[asyncio.Task[object]] = set()

    def cancel() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        progress.say("stopping; Ctrl-C again ends at once")
        requests.add(loop.create_task(tasks.cancel(task_id)))

    for number in _SIGNALS:
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        if requests:
            await asyncio.wait(requests)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def _deliver(task: TaskView, options: RunOptions, root: Path, terminal: Terminal) -> None:
    report(terminal, task)
    match options.output:
        case Output.JSON:
            terminal.result(task.model_dump_json(indent=2))
        case Output.STREAM_JSON:
            terminal.result(f'{{"type":"result","task":{task.model_dump_json()}}}')
        case Output.TEXT if not options.apply and options.form is None:
            terminal.patch(task.patch)
    if options.apply:
        await _apply(task, root, options, terminal)


async def _apply(task: TaskView, root: Path, options: RunOptions, terminal: Terminal) -> None:
    if exit_code(task, require_verified=options.require_verified) is not ExitCode.DONE:
        terminal.note("The patch is not applied.")
        if options.output is Output.TEXT and options.form is None:
            terminal.patch(task.patch)
        return
    try:
        await git("apply", "--whitespace=nowarn", "-", cwd=root, stdin=task.patch.encode())
    except GitError as error:
        if options.output is Output.TEXT:
            terminal.patch(task.patch)
        raise Failure(
            ExitCode.FAILED,
            f"the patch does not fit the files of {root} as they are now: {error}",
            "nothing was changed; the patch is on standard output",
        ) from error
    terminal.note(f"The patch is applied to {root}.")
