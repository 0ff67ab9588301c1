"""What was said and done in the turns of a conversation, as its store has it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.cli.chat.files import FileHistory
from agent.cli.chat.folders import alone
from agent.cli.chat.journal import Journal, State, TurnBegan
from agent.cli.chat.turn import LEASE_TTL_S, said_about
from agent.identity import DEFAULT_PROJECT
from agent.store.base import ProjectStore, RunResult
from agent.store.open import open_store
from agent.types import Event, ModelOptions, Said, Status, TaskRequest

_SUMMARY = "The conversation so far is not shown. This is a summary of it:"


async def said_in(folder: Path) -> list[Said]:
    """What was said in a conversation that is not open, and which model answered."""
    journal = Journal(folder / "journal.jsonl")
    async with open_store(f"sqlite:///{folder / 'turns.db'}") as store:
        return await said_of(journal.state, store.of(DEFAULT_PROJECT))


async def add_turn(
    folder: Path,
    root: Path,
    origin: str,
    text: str,
    steps: Sequence[tuple[str, dict[str, Any]]],
    options: ModelOptions,
) -> None:
    """Add what an agent did elsewhere, as a turn; nothing where that was done before.

    Args:
        origin: id of the task there.
        options: how the model was asked there, by its name.
        steps: types and bodies of its events; those of the loop are taken.

    Raises:
        ConversationBusy: a terminal has the conversation open.
    """
    with alone(folder):
        async with open_store(f"sqlite:///{folder / 'turns.db'}") as store:
            project, journal = store.of(DEFAULT_PROJECT), Journal(folder / "journal.jsonl")
            request = TaskRequest(repository=str(root), problem_statement=text, model=options)
            task = await project.submit(request, idempotency_key=origin)
            if task.status.terminal:
                return
            before = await (await FileHistory.open(root, folder / "files.git")).keep()
            claim = await store.claim(worker_id(), LEASE_TTL_S)
            assert claim is not None, task
            for kind, body in steps:
                if kind in _OF_THE_LOOP:
                    await store.append(claim.run_id, claim.generation, kind, body)
            await store.finish(claim.run_id, claim.generation, RunResult(status=Status.SUCCEEDED))
            journal.add(TurnBegan(task_id=task.id, text=text, before=before))


_OF_THE_LOOP = frozenset(
    {"step.started", "step.message", "tool.intent", "tool.completed", "step.completed", "view.compacted"}
)


async def said_of(state: State, project: ProjectStore, turns: int | None = None) -> list[Said]:
    compacted = state.compacted
    said: list[Said] = []
    if compacted:
        said.append(Said(role="user", content=f"{_SUMMARY}\n\n{compacted.summary}"))
        said.append(Said(role="assistant", content="Understood."))
    for turn in state.turns[compacted.turns if compacted else 0 : turns]:
        task = await project.get(turn.task_id)
        said.extend(said_about(task.request, await events_of(project, turn)))
    return said


async def events_of(project: ProjectStore, turn: TurnBegan) -> tuple[Event, ...]:
    found: list[Event] = []
    while page := await project.events(turn.task_id, after=found[-1].seq if found else 0):
        found.extend(page)
    return tuple(found)


def worker_id() -> str:
    return f"terminal:{os.getpid()}"
