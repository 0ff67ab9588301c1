"""What is the service's to set about every run."""

from dataclasses import dataclass, field

from agent.config import Prices
from agent.guard import GuardSettings


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What is the service's to set, and the same for all tasks."""

    guard: GuardSettings = field(default_factory=GuardSettings)
    prices: Prices | None = None
    context_tokens: int | None = None
    """Of the model; None where it is not known: the view is then never compacted."""
    waits_for_model: bool = False
    """A run whose model is away waits for it, instead of ending with ``model_error``."""
