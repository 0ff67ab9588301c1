"""What the pages of events name, and what a worker knows."""

import re

from agent import events
from agent.store import base


def test_every_event_that_is_described_is_known() -> None:
    named = re.findall(
        r"\b(?:step|tool|guard|message|approval|question|note|view|cache|run|task|budget|setup|sandbox|"
        r"reproduction|verdict|attempts)\.[a-z_]+(?= +\|)",
        f"{events.__doc__}{base.__doc__}",
    )
    assert set(named) == set(events.BODIES)
    assert base.USER_EVENTS.keys() < events.BODIES.keys()
