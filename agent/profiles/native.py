"""The tools MiMo-V2-Flash was trained with, and the shortest prompt that explains the machine."""

from agent.profiles.base import Profile, load_prompt
from agent.tools.bash import Bash
from agent.tools.finish import Finish
from agent.tools.str_replace import StrReplace


def native(*, checks_syntax: bool = False) -> Profile:
    """Exactly ``bash``, ``str_replace`` and ``finish``.

    Args:
        checks_syntax: ``str_replace`` refuses an edit that breaks a file's syntax; ``mimo-v2-nano`` was trained
            without.
    """
    return Profile("native", load_prompt("native"), (Bash(), StrReplace(checks_syntax=checks_syntax), Finish()))
