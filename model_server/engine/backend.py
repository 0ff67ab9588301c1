"""What runs the steps of an engine."""

from collections.abc import Sequence
from typing import Protocol

from model_server.kernels.batch import CachePools, Segment, StepOutput


class StepBackend(Protocol):
    """A model packed for one kind of machine. Owns no sequences and decides nothing."""

    def step(self, batch: Sequence[Segment], pools: CachePools) -> StepOutput:
        """Run all segments; store their keys and values in the pools, always the same ones.

        A failed step may be run again, whole or in part: it stores the same under the same positions.
        """
