"""Weighted fair queueing: jobs that wait get turns in proportion to their weights, however much each one asks for."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class FairQueue(Generic[T]):
    """Start-time fair queueing (Goyal, Vin, Cheng 1996): each item's turn is a point in a virtual time, that of a job
    goes on by 1/weight with each of its items, and time stands where the last item was taken. So a job that was away
    has saved nothing up, and a new one need not wait for the backlog of others.
    """

    _heap: list[tuple[float, int, T]] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _next: dict[str, float] = field(default_factory=dict)
    """Where a job's next item begins, for jobs that are ahead of the time."""
    _time: float = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, job: str, weight: float, item: T) -> None:
        start = max(self._time, self._next.get(job, 0.0))
        self._next[job] = start + 1 / weight
        heapq.heappush(self._heap, (start, next(self._numbers), item))

    def pop(self, fits: Callable[[T], bool]) -> T | None:
        """Take the first item in turn that fits; None where none does."""
        passed = []
        taken = None
        while self._heap and taken is None:
            entry = heapq.heappop(self._heap)
            if fits(entry[2]):
                taken = entry[2]
                # What was passed over keeps its place, which is then in the past.
                self._time = max(self._time, entry[0])
            else:
                passed.append(entry)
        for entry in passed:
            heapq.heappush(self._heap, entry)
        if not self._heap:
            self._next = {job: start for job, start in self._next.items() if start > self._time}
        return taken
