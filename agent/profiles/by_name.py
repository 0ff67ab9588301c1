"""The one place that chooses a profile."""

from agent.profiles.assistant import assistant
from agent.profiles.base import Profile
from agent.profiles.mini import mini
from agent.profiles.native import native
from agent.types import ProfileName


def profile(name: ProfileName, *, checks_syntax: bool = False) -> Profile:
    """
    Args:
        checks_syntax: as the endpoint's model has it (``ModelSettings.checks_syntax``); of ``native`` alone, since
            ``assistant`` always does, and ``mini`` has no tool that edits.
    """
    match name:
        case "native":
            return native(checks_syntax=checks_syntax)
        case "assistant":
            return assistant()
        case "mini":
            return mini()
