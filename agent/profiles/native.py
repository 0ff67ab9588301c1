"""The tools MiMo-V2-Flash was trained with, and the shortest prompt that explains the machine."""

from agent.profiles.base import Profile, load_prompt
from agent.tools.bash import Bash
from agent.tools.finish import Finish
from agent.tools.str_replace import StrReplace


def native() -> Profile:
    """Exactly ``bash``, ``str_replace`` and ``finish``."""
    return Profile("native", load_prompt("native"), (Bash(), StrReplace(), Finish()))
