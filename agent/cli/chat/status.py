"""The last line of the screen."""

from dataclasses import dataclass, field

from prompt_toolkit.formatted_text import StyleAndTextTuples

from agent.cli.chat.conversation import Conversation
from agent.config import Prices
from agent.types import Usage


@dataclass(slots=True)
class Status:
    """What always has to be seen comes first; the rest as far as there is room."""

    model: str
    context_tokens: int | None
    """Of the model; None where it is not known."""
    prices: Prices | None
    """Of its tokens; None where no cost is shown."""
    newest: Usage = field(default_factory=Usage)
    """Of the newest answer."""
    spent: Usage = field(default_factory=Usage)
    """Of all of them."""
    notice: str = ""
    """Shown in the place of the facts."""

    def count(self, usage: Usage) -> None:
        """One more answer."""
        self.newest, self.spent = usage, self.spent + usage

    def line(self, conversation: Conversation, width: int) -> StyleAndTextTuples:
        mode = conversation.state.mode
        parts: StyleAndTextTuples = [(f"class:{mode.split()[-1]}", f" {mode} ")]
        if not conversation.sandboxed:
            parts += [("", " "), ("class:open", " NO SANDBOX ")]
        room = width - sum(len(text) for _, text, *_ in parts)
        if self.notice:
            return [*(parts if len(self.notice) < room else ()), ("class:title", f" {self.notice}")]
        for fact in self._facts(conversation):
            if len(fact) + 3 > room:
                break
            parts.append(("class:dim", f" · {fact}"))
            room -= len(fact) + 3
        return parts

    def _facts(self, conversation: Conversation) -> list[str]:
        facts = [self.model]
        read = self.newest.prompt_tokens
        if context := read + self.newest.completion_tokens:
            share = f" ({100 * context // self.context_tokens}%)" if self.context_tokens else ""
            facts.append(f"{context:,} tokens{share}")
        facts.append("Esc interrupts" if conversation.busy else "/help")
        if self.prices is not None:
            facts.append(f"cost {self.prices.cost(self.spent):.4f}")
        if read:
            facts.append(f"{100 * self.newest.cached_tokens // read}% cached")
        return facts
