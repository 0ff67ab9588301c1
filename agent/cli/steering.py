"""What is said to a task of a service while it is worked on."""

from agent.api.schemas import MessageText, RewindPoint, TaskView
from agent.cli.client import Client
from agent.cli.terminal import Terminal, one_line


async def say(client: Client, task_id: str, message: MessageText, terminal: Terminal) -> None:
    """A message for the agent, or the answer to its question; the message's id goes to standard output."""
    said = await client.say(task_id, message)
    terminal.result(said.id)


async def pause(client: Client, task_id: str, terminal: Terminal) -> None:
    """The agent stops after the step that it is in."""
    _tell_of(await client.pause(task_id), terminal)


async def resume(client: Client, task_id: str, terminal: Terminal) -> None:
    """The agent goes on where it was paused."""
    _tell_of(await client.resume(task_id), terminal)


async def rewind(client: Client, task_id: str, point: RewindPoint, terminal: Terminal) -> None:
    """Steps are taken back; the task waits for a word then."""
    _tell_of(await client.rewind(task_id, point), terminal)


async def checkpoints(client: Client, task_id: str, terminal: Terminal) -> None:
    """The steps to which a task can go back, one line each."""
    found = (await client.checkpoints(task_id)).checkpoints
    several = len({checkpoint.run_id for checkpoint in found}) > 1
    terminal.result("   0  the beginning\n")
    for checkpoint in found:
        run = f"{checkpoint.run_id}  " if several else ""
        at = f"{checkpoint.at.astimezone():%Y-%m-%d %H:%M:%S}"
        terminal.result(f"{checkpoint.step:>4}  {run}{at}  {one_line(checkpoint.did, 100)}\n")


def _tell_of(task: TaskView, terminal: Terminal) -> None:
    waiting = f", {task.waiting_on}" if task.waiting_on else ""
    terminal.note(f"{task.id}: {task.status}{waiting}")
