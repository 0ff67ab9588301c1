"""What the pool decides: properties that hold whatever it knows."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import SandboxUnavailable, UnknownImage
from sandbox.pool.backoff import Backoff, Cause, cause_of
from sandbox.pool.config import PoolSettings
from sandbox.pool.plan import Known, key_of, plan, targets
from sandbox.pool.rate import CreateRate
from sandbox.types import Resources, SandboxSpec

KEYS = list("abcdef")
keys = st.sampled_from(KEYS)
counts = st.dictionaries(keys, st.integers(1, 8))
settings = st.builds(
    PoolSettings,
    max_ready=st.integers(0, 20),
    max_per_key=st.integers(1, 10),
    min_per_key=st.integers(0, 3),
    ahead=st.integers(1, 12),
    wave=st.integers(1, 30),
)
known = st.builds(
    Known,
    queue=st.lists(keys, max_size=30),
    ready=counts,
    making=counts,
    num_lent=st.integers(0, 40),
    num_alive=st.integers(0, 120),
    claims_per_s=st.floats(0, 10),
    start_s=st.floats(0.1, 10),
    budget=st.integers(-3, 50),
    resting=st.frozensets(keys),
)


@given(known, settings)
def test_nothing_is_made_beyond_any_bound(known: Known, settings: PoolSettings) -> None:
    decided = plan(known, settings)
    wanted = targets(known, settings)
    made, ended = Counter(decided.make), Counter(decided.end)
    assert len(decided.make) <= max(0, known.budget)
    assert not made or sum(known.making.values()) + made.total() <= settings.wave
    assert not made or known.num_alive + made.total() <= settings.breaker * (known.num_lent + wanted.total())
    assert not set(made) & known.resting
    for key, count in made.items():
        assert known.ready.get(key, 0) + known.making.get(key, 0) + count <= wanted[key] <= settings.max_per_key
    held = sum(known.ready.values()) + sum(known.making.values()) + made.total() - ended.total()
    assert not made or held <= settings.max_ready


@given(known, settings)
def test_what_is_ended_is_beyond_its_target_and_needed_later_than_what_is_kept(
    known: Known, settings: PoolSettings
) -> None:
    ended = Counter(plan(known, settings).end)
    wanted = targets(known, settings)
    spare = {key: count - wanted[key] for key, count in known.ready.items() if count > wanted[key]}
    assert all(count <= spare.get(key, 0) for key, count in ended.items())

    def next_need(key: str) -> int:
        return list(known.queue).index(key) if key in known.queue else len(known.queue)

    kept = [next_need(key) for key, count in spare.items() if count > ended[key]]
    assert not kept or all(next_need(key) >= max(kept) for key in ended)


@given(known, settings)
def test_a_plan_that_was_carried_out_needs_no_other(known: Known, settings: PoolSettings) -> None:
    first = plan(known, settings)
    made = Counter(known.making) + Counter(first.make)
    left = Counter(known.ready) - Counter(first.end)
    alive = known.num_alive + len(first.make) - len(first.end)
    budget = known.budget - len(first.make)
    after = Known(
        known.queue, left, made, known.num_lent, alive, known.claims_per_s, known.start_s, budget, known.resting
    )
    # Where sandboxes were ended, the breaker and the room let more through; the room itself never grows.
    second = plan(after, settings)
    assert not first.end or not second.end or second.make
    assert len(first.make) + len(second.make) <= max(0, known.budget)
    if not first.end:
        assert (list(second.make), list(second.end)) == ([], [])


@given(st.lists(keys, max_size=40), st.integers(1, 30))
def test_targets_are_what_the_queue_asks_for_next(queue: list[str], ahead: int) -> None:
    settings = PoolSettings(max_ready=100, max_per_key=100, ahead=ahead)
    assert targets(Known(queue, {}, {}), settings) == Counter(queue[:ahead])


def test_the_horizon_is_what_is_claimed_while_one_starts() -> None:
    queue = [KEYS[0]] * 100
    wanted = targets(Known(queue, {}, {}, claims_per_s=4.0, start_s=5.0), PoolSettings(ahead=1))
    assert wanted[KEYS[0]] == 20


def test_scarce_room_goes_to_what_is_needed_first() -> None:
    wanted = targets(Known([KEYS[1], KEYS[0], KEYS[2]], {}, {}), PoolSettings(max_ready=2))
    assert wanted == Counter({KEYS[1]: 1, KEYS[0]: 1})


def test_a_sandbox_serves_every_task_that_differs_only_in_its_lifetime() -> None:
    settings = PoolSettings()
    assert key_of(SandboxSpec(lifetime_s=10), settings) == key_of(SandboxSpec(lifetime_s=20), settings)
    bigger = SandboxSpec(resources=Resources(memory_mib=2048))
    assert key_of(SandboxSpec(), settings) != key_of(bigger, settings)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=200))
def test_the_rate_stays_within_its_bounds(latencies: list[float]) -> None:
    rate = CreateRate(per_s=80, lowest=5, highest=300)
    for number, latency in enumerate(latencies):
        rate.observe(1000.0 * number, 1000.0 * number + latency)
        assert 5 <= rate.per_s <= 300


def test_the_rate_rises_while_latency_holds_and_falls_when_it_grows() -> None:
    rate = CreateRate(per_s=80, lowest=5, highest=300)
    for number in range(64):
        rate.observe(10.0 * number, 10.0 * number + 2.0)
    risen = rate.per_s
    assert risen > 80
    for number in range(64, 128):
        rate.observe(10.0 * number, 10.0 * number + 9.0)
    assert rate.per_s < risen / 2


def test_the_rate_takes_one_step_for_what_was_begun_before_it() -> None:
    rate = CreateRate(per_s=80, lowest=5, highest=300)
    for number in range(1000):
        rate.observe(number / 100, 20.0 + number / 100)
    assert rate.per_s == pytest.approx(100)


def test_a_missing_image_rests_at_once_and_a_machine_after_a_threshold() -> None:
    backoff = Backoff(threshold=3)
    backoff.failed(KEYS[0], cause_of(UnknownImage("no")), now=0.0)
    assert backoff.resting(1.0) == {KEYS[0]}
    for time in (0.0, 0.1, 0.2):
        assert KEYS[1] not in backoff.resting(time)
        backoff.failed(KEYS[1], cause_of(SandboxUnavailable("no")), now=time)
    assert KEYS[1] in backoff.resting(0.3)
    assert KEYS[1] not in backoff.resting(3.0)


def test_rests_grow_and_end_with_a_success() -> None:
    backoff = Backoff(threshold=1)
    for time in (0.0, 10.0, 20.0):
        backoff.failed(KEYS[0], Cause.MACHINE, now=time)
    assert backoff.resting(27.0) == {KEYS[0]}
    backoff.succeeded(KEYS[0])
    assert not backoff.resting(20.0)
