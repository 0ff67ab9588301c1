"""Commands of the user's own: ``NAME.md`` in a folder is what ``/NAME`` says to the agent."""

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT_COMMANDS = Path(".mimo", "commands")

_MOST_CHARS = 50_000


@dataclass(frozen=True, slots=True)
class CustomCommand:
    name: str
    """With the slash."""
    text: str

    @property
    def meaning(self) -> str:
        """Its first line."""
        return next((line.strip("# ") for line in self.text.splitlines() if line.strip()), "")

    def filled(self, arguments: str) -> str:
        """What is said to the agent.

        >>> CustomCommand("/review", "Review $ARGUMENTS.").filled("a.py")
        'Review a.py.'
        >>> CustomCommand("/test", "Run the tests.").filled("only units")
        'Run the tests.\\n\\nonly units'
        """
        if "$ARGUMENTS" in self.text:
            return self.text.replace("$ARGUMENTS", arguments)
        return f"{self.text}\n\n{arguments}".strip()


def find_commands(user: Path, root: Path | None) -> tuple[CustomCommand, ...]:
    """All commands by their names; a folder's take the place of the user's.

    Args:
        user: folder of the user's commands.
        root: project whose commands count too; only one the user trusts.
    """
    folders = [user] if root is None else [user, root / PROJECT_COMMANDS]
    found = {f"/{path.stem}": path for folder in folders for path in sorted(folder.glob("*.md"))}
    return tuple(
        CustomCommand(name, path.read_text("utf-8", errors="replace")[:_MOST_CHARS].strip())
        for name, path in sorted(found.items())
        if re.fullmatch(r"/[\w-]{1,64}", name)
    )
