"""What happened in a run: recorded at once, and written before anything outside is touched again.

Outside means that a model is asked, a tool run, a user waited for; so a step is two transactions. What a worker that
dies had not written follows from what it had, but for an answer of the model that nothing was done about.
"""

from collections.abc import Sequence

from pydantic import BaseModel

from agent.budget import spent
from agent.log import Entry, Log
from agent.trajectory import Step, Trajectory
from agent.types import Event


class Record:
    """One run's, while this worker has it."""

    def __init__(self, log: Log) -> None:
        self.spent = spent((event.type, event.body) for event in log.events)
        """Tokens of the whole run, those of earlier workers included."""
        self._log = log
        self._trajectory = Trajectory(log.events)
        self._unwritten: list[Entry] = []

    @property
    def events(self) -> Sequence[Event]:
        """Those that are written."""
        return self._log.events

    @property
    def run_id(self) -> str | None:
        return self._log.events[0].run_id

    @property
    def steps(self) -> Sequence[Step]:
        """With all that was recorded; the last one may be open."""
        return self._trajectory.steps

    @property
    def next_step(self) -> int:
        return self._trajectory.next_number

    def add(self, event: str, body: BaseModel) -> None:
        entry = event, body.model_dump(mode="json")
        self._unwritten.append(entry)
        self._trajectory.take(body)
        self.spent += spent([entry])

    async def write(self) -> None:
        """
        Raises:
            LeaseLost: another worker owns the run.
        """
        if self._unwritten:
            entries, self._unwritten = self._unwritten, []
            await self._log.extend(entries)
