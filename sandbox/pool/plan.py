"""What to make and what to end: plain functions of what is known now."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandbox.pool.config import PoolSettings
from sandbox.types import NetworkMode, SandboxSpec

Key = str
"""What must be alike for one sandbox to serve in another's place: a spec as JSON, its lifetime being the pool's own."""


def key_of(spec: SandboxSpec, settings: PoolSettings) -> Key:
    """The kind of sandbox that serves ``spec``. Its lifetime runs while it waits, too, and whose it is only its proxy
    asks.
    """
    lifetime_s = settings.max_age_s + settings.longest_lifetime_s
    run_id = spec.run_id if spec.network is NetworkMode.PROXY else ""
    return spec.model_copy(update={"lifetime_s": lifetime_s, "run_id": run_id}).model_dump_json()


@dataclass(frozen=True, slots=True)
class Known:
    """Everything a plan depends on."""

    queue: Sequence[Key]
    """The kinds that will be asked for, in order."""
    ready: Mapping[Key, int]
    making: Mapping[Key, int]
    num_lent: int = 0
    num_alive: int = 0
    """Sandboxes there are, by our own count or the machines', whichever is larger."""
    claims_per_s: float = 0.0
    start_s: float = 5.0
    budget: int = 1000
    """What the creation rate allows now."""
    resting: frozenset[Key] = frozenset()
    """Kinds that failed too often lately."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now."""

    make: Sequence[Key] = ()
    """In the order of need."""
    end: Sequence[Key] = ()
    """Ready sandboxes to end, one of the kind each."""
    broken: bool = False
    """There are far more sandboxes than are wanted, so none is made."""


def targets(known: Known, settings: PoolSettings) -> Counter[Key]:
    """How many of each kind should be ready: what is asked for while one starts, within bounds.

    Room is given out in the order of the queue, so that what is needed first gets it.
    """
    horizon = max(settings.ahead, math.ceil(known.claims_per_s * known.start_s))
    wanted: Counter[Key] = Counter()
    room = settings.max_ready
    for key in known.queue[:horizon]:
        if room > 0 and wanted[key] < settings.max_per_key:
            wanted[key] += 1
            room -= 1
    for key in dict.fromkeys(known.queue):
        extra = min(room, max(0, min(settings.min_per_key, settings.max_per_key) - wanted[key]))
        wanted[key] += extra
        room -= extra
    return +wanted


def plan(known: Known, settings: PoolSettings) -> Plan:
    wanted = targets(known, settings)
    short = [
        key
        for key in wanted
        if key not in known.resting
        for _ in range(wanted[key] - known.ready.get(key, 0) - known.making.get(key, 0))
    ]
    num_wanted = known.num_lent + wanted.total()
    num_ready, num_making = sum(known.ready.values()), sum(known.making.values())
    below_breaker = math.floor(settings.breaker * num_wanted) - known.num_alive
    possible = max(0, min(len(short), known.budget, settings.wave - num_making, below_breaker))
    # What is made must fit in; of what has to go for it, first what is needed latest.
    excess = max(0, num_ready + num_making + possible - settings.max_ready)
    end = _needed_latest(known, wanted)[:excess]
    room = max(0, settings.max_ready + len(end) - num_ready - num_making)
    return Plan(short[: min(possible, room)], end, broken=bool(short) and below_breaker <= 0)


def _needed_latest(known: Known, wanted: Counter[Key]) -> list[Key]:
    """Ready sandboxes beyond their target, those of the kind needed latest, or never, first."""
    next_need = {key: place for place, key in reversed(list(enumerate(known.queue)))}
    spare = [key for key, count in known.ready.items() for _ in range(max(0, count - wanted[key]))]
    return sorted(spare, key=lambda key: -next_need.get(key, len(known.queue)))
