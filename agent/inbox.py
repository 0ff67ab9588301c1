"""What the user says about a task while it is worked on, as one of its runs hears it."""

import asyncio
from collections.abc import Collection, Iterable

from agent.events import ApprovalDecided, BudgetGranted, MessageAdded, MessageRemoved, check_known
from agent.types import Event, Limits


class Inbox:
    """The user's events of a task, oldest first. They are another's to write, so they may come at any moment."""

    def __init__(self, words: Iterable[Event] = ()) -> None:
        self.cancelled = asyncio.Event()
        """Set once the user wants the end."""
        self.interrupted = asyncio.Event()
        """Set while a message waits that should not wait for the model; whoever takes the messages clears it."""
        self.overspent: str | None = None
        """Why the user may use no more tokens today; the worker says so."""
        self._words: list[Event] = []
        self.put(words)

    def put(self, words: Iterable[Event]) -> None:
        """Hear more of them; what was heard already is passed over.

        Raises:
            StoreTooNew: a newer release wrote one; those before it were heard.
        """
        for word in words:
            if word.seq <= self.last_seq:
                continue
            check_known((word,))
            self._words.append(word)
            if word.type == "task.cancel_requested":
                self.cancelled.set()
            if word.type == "message.added" and word.body.get("delivery") == "interrupt":
                self.interrupted.set()

    @property
    def last_seq(self) -> int:
        """Sequence number of the newest; 0 where there is none."""
        return self._words[-1].seq if self._words else 0

    @property
    def paused(self) -> bool:
        says = [word.type for word in self._words if word.type in ("task.paused", "task.resumed")]
        return bool(says) and says[-1] == "task.paused"

    def messages(self, taken: Collection[str], *, after: int = 0) -> list[MessageAdded]:
        """Those said above ``after`` that are neither among ``taken`` nor taken back."""
        removed = {
            MessageRemoved.model_validate(word.body).message_id
            for word in self._words
            if word.type == "message.removed"
        }
        said = (word for word in self._words if word.type == "message.added" and word.seq > after)
        messages = (MessageAdded.model_validate(word.body) for word in said)
        return [message for message in messages if message.message_id not in {*taken, *removed}]

    def raised(self, limits: Limits) -> Limits:
        """The limits with what was granted since; a grant never lowers one."""
        for word in self._words:
            if word.type == "budget.granted":
                granted = BudgetGranted.model_validate(word.body).model_dump(exclude_none=True)
                old = limits.model_dump()
                # Without a limit there is nothing to raise.
                higher = {name: max(value, old[name]) for name, value in granted.items() if old[name] is not None}
                limits = limits.model_copy(update=higher)
        return limits

    def decisions(self) -> dict[str, ApprovalDecided]:
        """By the id of the approval; the first decision on one counts."""
        decided: dict[str, ApprovalDecided] = {}
        for word in self._words:
            if word.type == "approval.decided":
                decision = ApprovalDecided.model_validate(word.body)
                decided.setdefault(decision.approval_id, decision)
        return decided
