"""The last line of the screen."""

from dataclasses import dataclass

from prompt_toolkit.formatted_text import StyleAndTextTuples

from agent.cli.chat.conversation import Conversation


@dataclass(slots=True)
class Status:
    """What always has to be seen comes first; the rest as far as there is room."""

    model: str
    context_tokens: int | None
    """Of the model; None where it is not known."""
    read_tokens: int = 0
    """In the newest answer's context."""
    notice: str = ""
    """Shown in the place of the facts."""

    def line(self, conversation: Conversation, width: int) -> StyleAndTextTuples:
        mode = conversation.state.mode
        parts: StyleAndTextTuples = [(f"class:{mode.split()[-1]}", f" {mode} ")]
        if not conversation.sandboxed:
            parts += [("", " "), ("class:open", " NO SANDBOX ")]
        if self.notice:
            return [*parts, ("class:title", f" {self.notice}")]
        room = width - sum(len(text) for _, text, *_ in parts)
        for fact in self._facts(conversation):
            if len(fact) + 3 > room:
                break
            parts.append(("class:dim", f" · {fact}"))
            room -= len(fact) + 3
        return parts

    def _facts(self, conversation: Conversation) -> list[str]:
        facts = [self.model]
        if self.read_tokens:
            share = f" ({100 * self.read_tokens // self.context_tokens}%)" if self.context_tokens else ""
            facts.append(f"{self.read_tokens:,} tokens{share}")
        return [*facts, "Esc interrupts" if conversation.busy else "/help"]
