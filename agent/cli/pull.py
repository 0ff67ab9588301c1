"""``mimo pull``: what a task of a service changed comes into the checkout, and into the conversation it came from."""

from pathlib import Path

from agent.api.schemas import AttemptView, EventView, ModelList, TaskView
from agent.cli.chat.folders import ConversationBusy
from agent.cli.chat.record import add_turn
from agent.cli.checkout import excludes_of, top_directory
from agent.cli.client import Client
from agent.cli.failure import ExitCode, Failure
from agent.cli.handed import Handed, HandedOver
from agent.cli.report import report
from agent.cli.terminal import Terminal
from agent.errors import GitError
from agent.git import git
from agent.patch import TaskRepository
from agent.types import ModelOptions


async def pull(client: Client, task_id: str, root: Path, home: Path, terminal: Terminal) -> None:
    """Apply the task's patch to the files here, merged with what changed meanwhile.

    Raises:
        Failure: the task has not ended, or its patch does not fit; nothing was changed.
    """
    task = await client.show(task_id)
    if not task.status.terminal:
        raise Failure(ExitCode.RETRYABLE, f"task {task_id} is {task.status}", f"mimo task watch {task_id}")
    handed_over = HandedOver(home / "pushed")
    handed = handed_over.find(task_id)
    root = handed.root if handed else await top_directory(root)
    patch = await _fitting(handed, handed_over.files(handed), task.patch) if handed else task.patch
    if handed and handed.conversation:
        await _remember(client, task, handed, home)
    if patch:
        await _apply(patch, root, task_id)
    terminal.note(f"{'Applied to' if patch else 'Nothing to apply to'} {root}.")
    report(terminal, task)
    if handed and handed.conversation:
        terminal.note(f"Go on talking with: mimo --resume {handed.conversation}")


def pushed_from(conversation: str | None, home: Path) -> str:
    """Id of the task that was handed over last, with this conversation where it is named.

    Raises:
        Failure: there is none.
    """
    handed = HandedOver(home / "pushed").newest(conversation)
    if handed is None:
        raise Failure(ExitCode.USAGE, "nothing was pushed that could be pulled", "name a task: mimo pull TASK")
    return handed.task_id


async def _fitting(handed: Handed, files: TaskRepository, patch: str) -> str:
    """The patch against the files as they are now."""
    mine = await files.tree_of(handed.root, handed.base, await excludes_of(handed.root))
    theirs = await files.apply(handed.tree, patch)
    merged = await files.merge(handed.tree, mine, theirs)
    if merged is None:
        both = set(await files.names(handed.tree, mine)) & set(await files.names(handed.tree, theirs))
        raise Failure(
            ExitCode.FAILED,
            f"the task and you changed the same lines of {', '.join(sorted(both))}; nothing was applied",
            f"put your changes of them aside (git stash) and pull again, or see mimo task diff {handed.task_id}",
        )
    return await files.patch(mine, merged)


async def _apply(patch: str, root: Path, task_id: str) -> None:
    try:
        await git("apply", "--whitespace=nowarn", "-", cwd=root, stdin=patch.encode())
    except GitError as error:
        remedy = f"see it with mimo task diff {task_id}, and apply it by hand: git apply --3way"
        raise Failure(ExitCode.FAILED, f"the patch does not fit the files of {root} ({error})", remedy) from error


async def _remember(client: Client, task: TaskView, handed: Handed, home: Path) -> None:
    """The selected attempt's steps become a turn of the conversation."""
    assert handed.conversation is not None
    chosen: AttemptView | None = next((attempt for attempt in task.attempts if attempt.selected), None)
    events: list[EventView] = [event async for event in client.watch(task.id)]
    steps = [(event.type, event.body) for event in events if chosen and event.run_id == chosen.run_id]
    folder = home / "conversations" / handed.conversation
    try:
        await add_turn(folder, handed.root, handed.task_id, handed.text, steps, await _asked(client, task.model))
    except ConversationBusy as error:
        raise Failure(ExitCode.RETRYABLE, str(error), "leave it there, then pull again") from error


async def _asked(client: Client, options: ModelOptions) -> ModelOptions:
    """How the task's model was asked, by its name also where the task named none."""
    if options.name is not None:
        return options
    models = (await client.ask(ModelList, "GET", "/v1/models")).models
    return options.model_copy(update={"name": next(model.name for model in models if model.default)})
