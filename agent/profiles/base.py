"""What makes an agent: its system prompt and its tools."""

from dataclasses import dataclass, replace
from datetime import date
from importlib.resources import files

from agent.tools.base import Tool


@dataclass(frozen=True, slots=True)
class Profile:
    """A named agent. Prompt and tools are fixed per model: a change needs a comparison of both."""

    name: str
    prompt: str
    """Template of the system prompt; ``{date}`` and ``{weekday}`` are filled once, at the start of a run."""
    tools: tuple[Tool, ...]
    review: bool = False
    """Whether the first ``finish`` shows the patch and the checks, where the task does not say."""
    helper: "Profile | None" = None
    """The sub-agent that its tools may ask."""

    def system_prompt(self, today: date) -> str:
        return self.prompt.format(date=today.isoformat(), weekday=today.strftime("%A"))

    def told(self, *parts: str) -> "Profile":
        """With more in its prompt."""
        added = "".join(f"\n\n{part}" for part in parts).replace("{", "{{").replace("}", "}}")
        return replace(self, prompt=self.prompt + added)


def load_prompt(name: str) -> str:
    """A prompt file of this package, without its last newline."""
    return files("agent.prompts").joinpath(f"{name}.md").read_text("utf-8").removesuffix("\n")
