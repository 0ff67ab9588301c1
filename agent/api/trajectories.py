"""What a task's runs did, whole, in the formats of those who read it. A format's name ends in its version."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from agent.api.auth import needs
from agent.api.context import Context, Shared
from agent.api.log import whole_log
from agent.api.schemas import EventView, show_event
from agent.config import Prices
from agent.events import StepMessage
from agent.history import view
from agent.mining import Mining, mining
from agent.profiles.base import Profile
from agent.profiles.by_name import profile
from agent.profiles.equipped import as_logged
from agent.store.artifacts import holds_tokens
from agent.store.base import RunRecord, TaskRecord
from agent.tools.base import function_schema
from agent.trajectory import Step, Trajectory, standing, steps, tokens_name
from agent.types import Event, Message, Status, StopReason, TokenRecord, Usage, VerdictKind

router = APIRouter(prefix="/v1/tasks", tags=["trajectories"])

Format = Literal["native", "openai", "mini", "training"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NativeTrajectory(_View):
    """The log itself; the others are derived from it."""

    format: Literal["mimo-coder-native-1"] = "mimo-coder-native-1"
    task_id: str
    events: tuple[EventView, ...]


class Conversation(_View):
    """A run as the messages of its last model call, and what came of it."""

    run_id: str
    attempt: int
    status: Status
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    mining: Mining | None = Field(None, description="What it looked at, where the task is a benchmark's.")


class OpenaiTrajectory(_View):
    """Runs as chat conversations, in the shape in which they were sent; aborted answers are not part of them."""

    format: Literal["mimo-coder-openai-1"] = "mimo-coder-openai-1"
    task_id: str
    runs: tuple[Conversation, ...]


class MiniStats(_View):
    instance_cost: float = Field(description="By the service's prices; 0 where it has none.")
    api_calls: int


class MiniInfo(_View):
    exit_status: str
    submission: str = Field(description="The patch.")
    model_stats: MiniStats


class MiniTrajectory(_View):
    """The selected run as mini-swe-agent writes its own, for tools that read those."""

    trajectory_format: Literal["mini-swe-agent-1.1"] = "mini-swe-agent-1.1"
    instance_id: str
    info: MiniInfo
    messages: tuple[Message, ...]


class Sample(_View):
    """One model call: what the model saw, and what it answered, aborted answers too."""

    step: int
    num_kept: int = Field(description="So many messages at the beginning are those of the sample before.")
    prompt: tuple[Message, ...] = Field(description="The messages after those.")
    answer: StepMessage
    token_ids: tuple[int, ...] | None = Field(None, description="Null where the engine did not return them.")
    logprobs: tuple[float, ...] | None = Field(None, description="Null where the engine did not return them.")
    routed_experts: str | None = Field(
        None, description="Bytes in base 64, of every token of prompt and answer but the last; null as above."
    )
    routed_experts_shape: tuple[int, ...] | None = Field(
        None, description="Tokens, layers with experts, experts of a token."
    )


class TrainingRun(_View):
    run_id: str
    attempt: int
    status: Status
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    patch: str
    usage: Usage
    tools: tuple[dict[str, Any], ...]
    samples: tuple[Sample, ...]
    mining: Mining | None = Field(None, description="What it looked at, where the task is a benchmark's.")


class TrainingTrajectory(_View):
    """Every model call of every run by itself."""

    format: Literal["mimo-coder-training-1"] = "mimo-coder-training-1"
    task_id: str
    runs: tuple[TrainingRun, ...]


@router.get("/{task_id}/trajectory", dependencies=[needs("tasks:read")])
async def read_trajectory(
    task_id: str,
    shared: Shared,
    format: Annotated[Format, Query()] = "native",  # noqa: A002 - the parameter's name
) -> NativeTrajectory | OpenaiTrajectory | MiniTrajectory | TrainingTrajectory:
    """All that the task's runs did so far; reasoning and tokens are part of it for who has reasoning:read."""
    task = await shared.tasks.get(task_id)
    events = [event async for event in whole_log(shared.tasks, task_id)]
    tokens = await _tokens(shared, task_id) if format == "training" else {}
    return await asyncio.to_thread(_write, format, task, events, shared.prices, tokens)  # Long logs take seconds.


async def _tokens(shared: Context, task_id: str) -> dict[str, TokenRecord]:
    """Those that were kept, by the name of their artifact."""
    kept, project = shared.store.artifacts, shared.principal.project_id
    if kept is None or not shared.tasks.reasoning:
        return {}
    return {
        artifact.name: TokenRecord.model_validate_json(
            b"".join([piece async for piece in kept.read(project, task_id, artifact)])
        )
        for artifact in await kept.of_task(project, task_id)
        if holds_tokens(artifact.name)
    }


def _write(
    form: Format,
    task: TaskRecord,
    events: Sequence[Event],
    prices: Prices | None,
    tokens: Mapping[str, TokenRecord],
) -> NativeTrajectory | OpenaiTrajectory | MiniTrajectory | TrainingTrajectory:
    agent = profile(task.request.profile)
    match form:
        case "native":
            return NativeTrajectory(task_id=task.id, events=tuple(map(show_event, events)))
        case "openai":
            runs = tuple(_conversation(task, run, _of(run, events), agent) for run in task.runs)
            return OpenaiTrajectory(task_id=task.id, runs=runs)
        case "mini":
            return _mini(task, _of(task.shown, events), agent, prices)
        case "training":
            trained = tuple(_training(task, run, _of(run, events), agent, tokens) for run in task.runs)
            return TrainingTrajectory(task_id=task.id, runs=trained)


def _of(run: RunRecord, events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.run_id == run.run_id]


def _messages(
    task: TaskRecord, events: Sequence[Event], agent: Profile, taken: Sequence[Step] | None = None
) -> tuple[Message, ...]:
    """What the next model call would see; nothing before the first event, whose date the prompt has."""
    if not events:
        return ()
    stands = standing(events)
    return tuple(view(agent.system_prompt(events[0].at.date()), task.request.problem_statement, stands, taken))


def _tools(agent: Profile) -> tuple[dict[str, Any], ...]:
    return tuple(function_schema(tool) for tool in agent.tools)


def _conversation(task: TaskRecord, run: RunRecord, events: Sequence[Event], agent: Profile) -> Conversation:
    agent = as_logged(agent, events)
    return Conversation(
        run_id=run.run_id,
        attempt=run.attempt,
        status=run.status,
        stop_reason=run.stop_reason,
        verdict=run.verdict.kind if run.verdict else None,
        messages=_messages(task, events, agent),
        tools=_tools(agent),
        mining=_mining(task, events),
    )


def _mining(task: TaskRecord, events: Sequence[Event]) -> Mining | None:
    return mining(steps(events), task.request.repository) if task.request.benchmark else None


def _mini(task: TaskRecord, events: Sequence[Event], agent: Profile, prices: Prices | None) -> MiniTrajectory:
    run, agent = task.shown, as_logged(agent, events)
    num_calls = sum(event.type == "step.message" for event in events)
    exit_status = "Submitted" if run.stop_reason is StopReason.FINISHED else str(run.stop_reason or run.status)
    stats = MiniStats(instance_cost=prices.cost(run.usage) if prices else 0.0, api_calls=num_calls)
    info = MiniInfo(exit_status=exit_status, submission=run.patch, model_stats=stats)
    return MiniTrajectory(instance_id=task.id, info=info, messages=_messages(task, events, agent))


def _training(
    task: TaskRecord, run: RunRecord, events: Sequence[Event], agent: Profile, tokens: Mapping[str, TokenRecord]
) -> TrainingRun:
    agent = as_logged(agent, events)
    return TrainingRun(
        run_id=run.run_id,
        attempt=run.attempt,
        status=run.status,
        stop_reason=run.stop_reason,
        verdict=run.verdict.kind if run.verdict else None,
        patch=run.patch,
        usage=run.usage,
        tools=_tools(agent),
        samples=tuple(
            sample.model_copy(update=found.model_dump(exclude={"format"}))
            if (found := tokens.get(f"{run.attempt}/{name}"))
            else sample
            for name, sample in _samples(task, events, agent)
        ),
        mining=_mining(task, events),
    )


def _samples(task: TaskRecord, events: Sequence[Event], agent: Profile) -> Iterator[tuple[str, Sample]]:
    """Each with the name under which its tokens are kept."""
    so_far = Trajectory()
    before: tuple[Message, ...] = ()
    for number, event in enumerate(events):
        if event.type == "step.message":
            prompt = _messages(task, events[:number], agent, so_far.steps)
            kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, prompt, strict=False)))
            answer = StepMessage.model_validate(event.body)
            number_of_answer = 0
            if so_far.steps and so_far.steps[-1].number == answer.step:
                number_of_answer = len(so_far.steps[-1].answers)
            sample = Sample(step=answer.step, num_kept=kept, prompt=prompt[kept:], answer=answer)
            yield tokens_name(answer.step, number_of_answer), sample
            before = prompt
        so_far.add(event)
