"""From the events of a run to the messages of its next model call: the only serializer.

The view only grows: a step that was sent once is sent the same way ever after, unless the guard drops it or the view
is compacted. So the endpoint's prefix cache holds, and a run can be replayed.
"""

import json
import re
from collections.abc import Sequence

from agent.events import KeptImage, ViewCompacted
from agent.trajectory import Step, steps
from agent.types import AssistantMessage, Event, Message, ModelOptions, Observation, Said, ToolCall


def view(
    system_prompt: str, problem: str, events: Sequence[Event], done: Sequence[Step] | None = None
) -> list[Message]:
    """The messages of the next model call. Aborted answers and dropped steps stay in the log only.

    Args:
        done: the steps of ``events``, where the caller has them.
    """
    done = steps(events) if done is None else done
    compacted = last_compaction(events)
    first = compacted.from_step if compacted else 0
    images: Sequence[KeptImage] = ()
    if compacted:
        gone = [step for step in done if step.number < first]
        problem, images = _retold(problem, gone, compacted.note), [image for step in gone for image in _images(step)]
    messages: list[Message] = [
        {"role": "system", "content": system_prompt},
        _said(problem, images),
    ]
    for step in done:
        if step.number >= first:
            messages.extend(_step(step))
    return messages


def earlier(said: Sequence[Said], options: ModelOptions) -> list[Message]:
    """An earlier conversation, as the model is shown it that goes on with it.

    Where another model answered, or thinking was set otherwise, the view has segments: of those that are over, whole
    reasoning goes, never a part of it.

    Args:
        options: those of the model that goes on; its name is known.
    """
    over = max((at for at, message in enumerate(said) if _foreign(message, options)), default=-1)
    return [_earlier(message, reasoning=at > over) for at, message in enumerate(said)]


def _foreign(message: Said, options: ModelOptions) -> bool:
    same = message.model in (None, options.name) and message.thinking in (None, options.thinking)
    return message.role == "assistant" and not same


def _earlier(message: Said, *, reasoning: bool) -> Message:
    sent = message.model_dump(mode="json", exclude={"model", "thinking"}, exclude_none=True)
    if message.role != "assistant":
        return sent
    # Endpoints of this model demand the field of every answer, whoever gave it.
    thought, content = _parted(message.reasoning_content or "", message.content)
    return sent | {"content": content, "reasoning_content": thought if reasoning else ""}


def last_compaction(events: Sequence[Event]) -> ViewCompacted | None:
    """What the view is made of since it was last compacted; None while it never was."""
    newest = next((event for event in reversed(events) if event.type == "view.compacted"), None)
    return ViewCompacted.model_validate(newest.body) if newest else None


def without_reasoning(messages: Sequence[Message]) -> list[Message]:
    """For a model call that begins another segment: reasoning goes as a whole or not at all."""
    return [message | {"reasoning_content": ""} if message["role"] == "assistant" else message for message in messages]


def _retold(problem: str, gone: Sequence[Step], note: str) -> str:
    """The first message of a compacted view: the user's own words, and the model's note about the rest."""
    said = [heard.text for step in gone for heard in step.heard]
    return "\n\n".join([problem, *said, f"{_NOTE}\n\n{note}"])


_NOTE = "You have worked on this for a while. The steps so far are not shown; this is your own note about them:"


def _step(step: Step) -> list[Message]:
    heard = [_said(message.text, message.images) for message in step.heard]
    if step.message is None or step.dropped:
        return heard
    # Results of calls are text alone, so the images of an answer to a question follow them.
    shown = [image for result in step.results for image in result.images]
    return [
        *heard,
        assistant_message(step.message),
        *(observation_message(result.observation) for result in step.results),
        *([_said(_WITH_ANSWER, shown)] if shown else []),
    ]


_WITH_ANSWER = "The images that come with the answer:"


def _said(text: str, images: Sequence[KeptImage] = ()) -> Message:
    if not images:
        return {"role": "user", "content": text}
    return {"role": "user", "content": [{"type": "text", "text": text}, *map(image_part, images)]}


def _images(step: Step) -> list[KeptImage]:
    """All that the user showed in a step."""
    said = [image for heard in step.heard for image in heard.images]
    return said + [image for result in step.results for image in result.images]


def image_part(image: KeptImage) -> Message:
    """In the form of a content part; the bytes are put in the place of the reference on the way to the model."""
    return {
        "type": "image_url",
        "image_url": {"url": f"artifact:{image.media_type};{image.task_id}/{image.name}"},
    }


def as_text(content: str | list[Message]) -> str:
    """What a message says to who is shown no images."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] if part["type"] == "text" else "[an image]" for part in content)


def assistant_message(message: AssistantMessage) -> Message:
    """``reasoning_content`` is always sent, empty where the endpoint sent none: endpoints of this model demand it."""
    reasoning, content = _parted(message.reasoning_content or "", message.content)
    sent: Message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    if message.tool_calls:
        sent["tool_calls"] = [_call(call) for call in message.tool_calls]
    return sent


def _parted(reasoning: str, content: str) -> tuple[str, str]:
    """Without tags of thoughts in the content, which an endpoint that missed them would take for its own again.

    Thoughts at its beginning go where they belong, or away where there are others; any other tag is only text.
    """
    leaked = _LEAKED.match(content)
    if leaked:
        reasoning, content = reasoning or leaked[1], content[leaked.end() :]
    return reasoning, _THINK_TAG.sub(r"&lt;\1", content)


_LEAKED = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_THINK_TAG = re.compile(r"<(/?think>)")


def _call(call: ToolCall) -> Message:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call.arguments)}}


def _arguments(text: str) -> str:
    """The endpoint's own text. Text that is no JSON object is wrapped: chat templates fail on it for ever."""
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps({"invalid_json": text})


def observation_message(observation: Observation) -> Message:
    if not observation.call_id:
        return {"role": "user", "content": observation.text}
    return {"role": "tool", "tool_call_id": observation.call_id, "content": observation.text}
