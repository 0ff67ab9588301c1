"""Ends a sequence at strings the caller chose."""

from collections.abc import Sequence

from model_server.chat.template import Span, text_spans


class StopStrings:
    """Cuts decoded text before the first stop string, however the stream is split.

    Text that could be the start of a stop string waits. A marker is never part of one.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.matched: str | None = None
        """The stop string that was found; whatever follows is dropped."""

    @property
    def stopped(self) -> bool:
        return self.matched is not None

    def push(self, span: Span) -> list[Span]:
        if self.stopped or not self._strings:
            return [] if self.stopped else [span]
        if span.control:
            return [*self.finish(), span]
        text = self._held + span.text
        found = min(((text.find(string), string) for string in self._strings if string in text), default=None)
        if found is None:
            cut = len(text) - self._num_held(text)
            self._held = text[cut:]
        else:
            cut, self.matched = found
            self._held = ""
        return text_spans(text[:cut])

    def finish(self) -> list[Span]:
        """Text that waited for a stop string that did not come."""
        text, self._held = self._held, ""
        return text_spans(text)

    def _num_held(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._strings)) - 1
        ends = (text[-length:] for length in range(min(longest, len(text)), 0, -1))
        return next((len(end) for end in ends if any(string.startswith(end) for string in self._strings)), 0)
