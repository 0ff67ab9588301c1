"""A model that is shown images: the log names them, and their bytes come with the request."""

import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agent.model import Model
from agent.rewriting import Rewriting
from agent.types import Message

Load = Callable[[str, str], Awaitable[bytes | None]]
"""The bytes of a task's artifact; None where they are no longer kept."""

_REFERENCE = re.compile(r"artifact:(image/[a-z]+);([^/;]+)/(.+)")
"""As :func:`agent.history.image_part` writes it."""
_GONE = {"type": "text", "text": "[an image that is no longer kept]"}


class Seeing(Rewriting):
    """Puts the bytes in the place of references, as data URLs."""

    def __init__(self, model: Model, load: Load) -> None:
        super().__init__(model)
        self._load = load
        self._parts: dict[str, dict[str, Any]] = {}
        """By reference: a view only grows, so each is asked for again and again."""

    async def _rewritten(self, messages: Sequence[Message]) -> Sequence[Message]:
        return [await self._shown(message) for message in messages]

    async def _shown(self, message: Message) -> Message:
        if not isinstance(message["content"], list):
            return message
        return message | {"content": [await self._part(part) for part in message["content"]]}

    async def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        reference = _REFERENCE.fullmatch(part["image_url"]["url"]) if part["type"] == "image_url" else None
        if reference is None:
            return part
        if reference[0] not in self._parts:
            data = await self._load(reference[2], reference[3])
            if data is None:
                return _GONE
            url = f"data:{reference[1]};base64,{base64.b64encode(data).decode()}"
            self._parts[reference[0]] = {"type": "image_url", "image_url": {"url": url}}
        return self._parts[reference[0]]
