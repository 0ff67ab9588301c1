"""From the events of a run to the messages of its next model call: the only serializer.

The view only grows: a step that was sent once is sent the same way ever after, unless the guard drops it. So the
endpoint's prefix cache holds, and a run can be replayed.
"""

import json
from collections.abc import Sequence

from agent.trajectory import Step, last_snapshot, last_tree, steps
from agent.types import AssistantMessage, Event, Message, Observation, ToolCall

__all__ = ["last_snapshot", "last_tree", "view"]


def view(system_prompt: str, problem: str, events: Sequence[Event]) -> list[Message]:
    """The messages of the next model call. Aborted answers and dropped steps stay in the log only."""
    messages: list[Message] = [
        {"role": "system", "content": system_prompt},
        {"role": "user", "content": problem},
    ]
    for step in steps(events):
        messages.extend(_step(step))
    return messages


def _step(step: Step) -> list[Message]:
    if step.message is None or step.dropped:
        return []
    return [_assistant(step.message), *(_observation(result.observation) for result in step.results)]


def _assistant(message: AssistantMessage) -> Message:
    """``reasoning_content`` is always sent, empty where the endpoint sent none: endpoints of this model demand it."""
    sent: Message = {
        "role": "assistant",
        "content": message.content,
        "reasoning_content": message.reasoning_content or "",
    }
    if message.tool_calls:
        sent["tool_calls"] = [_call(call) for call in message.tool_calls]
    return sent


def _call(call: ToolCall) -> Message:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call.arguments)}}


def _arguments(text: str) -> str:
    """The endpoint's own text. Text that is no JSON object is wrapped: chat templates fail on it for ever."""
    try:
        if isinstance(json.loads(text), dict):
            return text
    except ValueError:
        pass
    return json.dumps({"invalid_json": text})


def _observation(observation: Observation) -> Message:
    if not observation.call_id:
        return {"role": "user", "content": observation.text}
    return {"role": "tool", "tool_call_id": observation.call_id, "content": observation.text}
