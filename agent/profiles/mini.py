"""One tool: what an agent can do with a shell alone. For comparisons."""

from agent.profiles.base import Profile, load_prompt
from agent.tools.bash import Bash
from agent.tools.done import DoneByCommand


def mini() -> Profile:
    """Only ``bash``; a command of its own ends the run."""
    return Profile("mini", load_prompt("mini"), (DoneByCommand(Bash()),))
