"""From the events of a run to the messages of its next model call: the only serializer."""

from collections.abc import Sequence

from agent.types import Event, Message


def view(system_prompt: str, problem: str, events: Sequence[Event]) -> list[Message]:
    """The messages of the next model call."""
    raise NotImplementedError


def last_tree(events: Sequence[Event]) -> str | None:
    """The newest snapshot of the work tree, to restore a sandbox from; None where there is none yet."""
    raise NotImplementedError
