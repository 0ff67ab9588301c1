"""Which prompts of a session go on from the tokens before them. SGLang shares prefixes without knowing of sessions."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from model_server.types import GenerateRequest


class Segments:
    """Remembers the last tokens of up to ``max_sessions`` sessions, those used latest."""

    def __init__(self, max_sessions: int = 4096) -> None:
        self._max_sessions = max_sessions
        self._last: OrderedDict[tuple[str, str], _Turn] = OrderedDict()

    def begin(self, request: GenerateRequest) -> int | None:
        """How often a prompt of the request's session did not begin with all tokens of the one before; None outside of
        sessions."""
        if request.session_id is None:
            return None
        last = self._last.get((request.cache_salt, request.session_id))
        if last is None:
            return 0
        begins = _digest(request.prompt_ids[: last.num_tokens]) == last.digest
        return last.segment if begins else last.segment + 1

    def drop(self, cache_salt: str, session_id: str) -> bool:
        """Forget a session. False if there is none."""
        return self._last.pop((cache_salt, session_id), None) is not None

    def end(self, request: GenerateRequest, segment: int | None, sampled: Sequence[int]) -> None:
        """A turn is over, whole or cut short."""
        if request.session_id is None or segment is None:
            return
        ids = [*request.prompt_ids, *sampled]
        name = (request.cache_salt, request.session_id)
        self._last[name] = _Turn(len(ids), _digest(ids), segment)
        self._last.move_to_end(name)
        if len(self._last) > self._max_sessions:
            self._last.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Turn:
    num_tokens: int
    digest: bytes
    segment: int


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(array("I", ids).tobytes()).digest()
