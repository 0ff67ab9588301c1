"""Conversations as they were sampled, so that a session's next prompt begins with the very tokens of its answers.

A text has many tokenisations, and a model does not always sample the one that encoding gives; a prompt that is encoded
anew would part from the session's cache there, and from the tokens that a trainer learns from.
"""

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from model_server.chat.template import Span
from model_server.chat.tokens import ChatTokenizer

SessionKey = tuple[str, str]
"""Salt and name."""

_CAPACITY = 1024
"""Sessions; four bytes per token of each, so a few hundred megabytes at most where all are as long as can be."""


@dataclass(frozen=True, slots=True)
class _Transcript:
    """The beginning of a conversation: so many spans with this digest stand for these tokens."""

    num_spans: int
    digest: bytes
    ids: "array[int]"


class Transcripts:
    """The latest transcript of each session; those used longest ago are forgotten. May be used on any thread."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._kept: OrderedDict[SessionKey, _Transcript] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, session: SessionKey | None, spans: Sequence[Span]) -> tuple[int, ...]:
        """Token ids of a prompt: the session's own for what it begins with, where that is the same text."""
        with self._lock:
            known = None if session is None else self._kept.get(session)
        if known is None or _digest(spans[: known.num_spans]) != known.digest:
            return tuple(self._tokenizer.encode(spans))
        return (*known.ids, *self._tokenizer.encode(spans[known.num_spans :]))

    def forget(self, session: SessionKey) -> None:
        with self._lock:
            self._kept.pop(session, None)

    def keep(self, session: SessionKey, spans: Sequence[Span], ids: Sequence[int]) -> None:
        """A conversation and its tokens, both without the marker that ends the last turn."""
        transcript = _Transcript(len(spans), _digest(spans), array("I", ids))
        with self._lock:
            self._kept[session] = transcript
            self._kept.move_to_end(session)
            if len(self._kept) > _CAPACITY:
                self._kept.popitem(last=False)


def _digest(spans: Sequence[Span]) -> bytes:
    digest = hashlib.sha256()
    for span in spans:
        text = span.text.encode()
        digest.update(b"%d %d " % (span.control, len(text)))
        digest.update(text)
    return digest.digest()
