"""What the model says: the next answer of a step, and notes about the work so far."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from agent.answers import INTERRUPTED, REMEDIES, Written, num_drops, sampling, says_nothing, thinks
from agent.compaction import NOTE_TOKENS
from agent.drift import fall
from agent.errors import ModelError
from agent.events import GuardTripped, NoteWritten, StepMessage
from agent.guard import AnswerGuard, repetition
from agent.history import view, without_reasoning
from agent.inbox import Inbox
from agent.model import Completion, Delta, Model
from agent.profiles.base import Profile, load_prompt
from agent.steps.bounds import Bounds
from agent.steps.ends import Parked, Stopped
from agent.steps.record import Record
from agent.steps.settings import LoopSettings
from agent.tools.base import function_schema
from agent.trajectory import Step, tokens_name
from agent.types import Keep, Message, ModelOptions, StopReason, TaskRequest, WaitingOn

OnDelta = Callable[[int, Delta], None]
"""Receives the number of the step and each piece of an answer."""

_INCOMPLETE = "incomplete"
"""Why an answer without content and call is sampled again, once."""


class Asking:
    """One run's way to its model."""

    def __init__(
        self,
        task: TaskRequest,
        profile: Profile,
        model: Model,
        record: Record,
        bounds: Bounds,
        inbox: Inbox,
        settings: LoopSettings,
        on_delta: OnDelta | None,
        keep: Keep | None,
    ) -> None:
        self._task = task
        self._profile = profile
        self._model = model
        self._record = record
        self._bounds = bounds
        self._inbox = inbox
        self._settings = settings
        self._on_delta = on_delta
        self._keep = keep

    async def answer(self, done: Sequence[Step]) -> None:
        """One answer of the model. An aborted one is stored too and leaves the step open."""
        step = done[-1]
        aborts = [answer.aborted for answer in step.answers if answer.aborted not in (_INCOMPLETE, INTERRUPTED)]
        if len(aborts) >= len(REMEDIES):
            raise Stopped(StopReason.STUCK, f"the answer degenerated again and again ({aborts[-1]})")
        options = sampling(
            self._task.model,
            thinking=thinks(self._task.model, done) and len(aborts) < 2,
            num_aborts=len(aborts),
            num_drops=num_drops(done),
            num_answers=len(step.answers),
        )
        completion = await self._sample(done, options)
        aborted = completion.aborted
        if aborted is None and says_nothing(completion.message):
            tried = any(answer.aborted != INTERRUPTED for answer in step.answers)
            aborted = None if tried else _INCOMPLETE
        if completion.aborted not in (None, INTERRUPTED):
            pattern, action = str(completion.aborted), REMEDIES[len(aborts)]
            self._record.add("guard.tripped", GuardTripped(step=step.number, pattern=pattern, action=action))
        message, usage = completion.message, completion.usage
        answer = StepMessage(
            step=step.number,
            message=message,
            usage=usage,
            duration_s=completion.duration_s,
            temperature=options.temperature,
            thinking=options.thinking is True,
            aborted=aborted,
            repetition=repetition(message.reasoning_content or "", self._settings.guard),
            cached_share=round(usage.cached_tokens / usage.prompt_tokens, 4) if usage.prompt_tokens else None,
            flags=completion.flags,
        )
        fallen = fall(self._record.events, answer)
        if completion.tokens is not None and self._keep is not None:
            tokens = completion.tokens.model_dump_json().encode()
            await self._keep(tokens_name(step.number, len(step.answers)), tokens)
        self._record.add("step.message", answer)
        if fallen is not None:
            self._record.add("cache.fell", fallen)
        if not answer.message.tool_calls:
            await self._record.write()  # To a conversation it is all that it waits for.

    async def note(self, newest: Step) -> None:
        """Have the model write down what it did, for the time when it no longer sees that."""
        await self._record.write()
        messages = [
            *without_reasoning(self._view(self._record.steps)),
            {"role": "user", "content": load_prompt("note")},
        ]
        options = self._task.model.model_copy(update={"thinking": False, "max_tokens": NOTE_TOKENS})
        # The tools are shown as ever: endpoints keep the prompt's beginning only where all of it is the same.
        completion = await self._bounds.unless_stopped(self._complete(messages, options))
        text = completion.message.content.strip() or "(no note was written)"
        self._record.add("note.written", NoteWritten(after_step=newest.number, text=text, usage=completion.usage))
        await self._record.write()

    async def _sample(self, done: Sequence[Step], options: ModelOptions) -> Completion:
        """The model's next answer, or as much of it as the user let it write."""
        step = done[-1]
        if step.answers:
            self._tell(step, Delta("restart"))
        written = Written()

        def hear(delta: Delta) -> None:
            written.add(delta)
            self._tell(step, delta)

        await self._record.write()
        asking = self._complete(self._view(done), options, hear)
        begun = time.monotonic()
        completion = await self._bounds.unless(self._inbox.interrupted, asking)
        return completion or written.completion(time.monotonic() - begun)

    async def _complete(
        self,
        messages: Sequence[dict[str, Any]],
        options: ModelOptions,
        on_delta: Callable[[Delta], None] | None = None,
    ) -> Completion:
        schemas = [function_schema(tool) for tool in self._profile.tools]
        try:
            return await self._model.complete(messages, schemas, options, on_delta, AnswerGuard(self._settings.guard))
        except ModelError as error:
            if error.away and self._settings.waits_for_model:
                raise Parked(WaitingOn.CAPACITY, detail=str(error)) from error
            exhausted = error.code == "context_length_exceeded"
            reason = StopReason.CONTEXT_EXHAUSTED if exhausted else StopReason.MODEL_ERROR
            raise Stopped(reason, str(error)) from error

    def _view(self, done: Sequence[Step]) -> list[Message]:
        events = self._record.events
        # The date of the run's first event: the prompt must not change while the run goes on.
        prompt = self._profile.system_prompt(events[0].at.date())
        return view(prompt, self._task.problem_statement, events, done)

    def _tell(self, step: Step, delta: Delta) -> None:
        if self._on_delta:
            self._on_delta(step.number, delta)
