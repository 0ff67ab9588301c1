import asyncio
from typing import Any

from acp.schema import AllowedOutcome, DeniedOutcome, RequestPermissionResponse


class Editor:
    """Shows nothing, remembers everything, and answers questions as it was told to."""

    def __init__(self) -> None:
        self.updates: list[Any] = []
        self.asked: list[Any] = []
        self.choice: str | None = "YES"
        self.thinks = False
        """Answers no question."""
        self.heard = asyncio.Event()
        self.was_asked = asyncio.Event()

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append(update)
        self.heard.set()

    async def request_permission(
        self, session_id: str, tool_call: Any, options: Any, **_: Any
    ) -> RequestPermissionResponse:
        self.asked.append((tool_call, options))
        self.heard.set()
        self.was_asked.set()
        if self.thinks:
            await asyncio.Event().wait()
        if self.choice is None:
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        outcome = AllowedOutcome(outcome="selected", option_id=self.choice)
        return RequestPermissionResponse(outcome=outcome)

    def on_connect(self, conn: Any) -> None:
        pass

    @property
    def kinds(self) -> list[str]:
        """What was heard, pieces of one thing taken together."""
        kinds = [update.session_update for update in self.updates]
        return [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]

    def text(self, kind: str) -> str:
        return "".join(update.content.text for update in self.updates if update.session_update == kind)
