"""How fast to make sandboxes: faster while that costs nothing, slower as soon as it does."""

import math
from dataclasses import dataclass, field
from statistics import median

_WINDOW = 16
"""Creations that decide the next step together."""
_STEADY = 1.5
"""A median latency up to this times the best one counts as unchanged."""
_FASTER, _SLOWER = 1.25, 0.7
_FORGET = 1.01
"""The best latency is believed a little less with each window, as machines change."""


@dataclass(slots=True)
class CreateRate:
    """Like congestion control: where latency rises, we have passed what the machines can do."""

    per_s: float
    lowest: float
    highest: float
    latency_s: float | None = None
    """Median of the last window; None before the first."""
    _best_s: float | None = None
    _window: list[float] = field(default_factory=list)
    _stepped_at: float = -math.inf

    def observe(self, begun: float, ended: float) -> None:
        """A sandbox was made between these times, in seconds of any clock."""
        if begun < self._stepped_at:
            return  # it speaks of the rate that was before
        self._window.append(ended - begun)
        if len(self._window) < _WINDOW:
            return
        self.latency_s = median(self._window)
        self._window.clear()
        self._best_s = min(self.latency_s, (self._best_s or self.latency_s) * _FORGET)
        step = _FASTER if self.latency_s <= _STEADY * self._best_s else _SLOWER
        self._stepped_at = ended
        self.per_s = min(self.highest, max(self.lowest, self.per_s * step))
