"""Who runs in which step."""

from array import array

import pytest

from model_server.engine.hidden_tail import HiddenTail
from model_server.engine.routes import Routes
from model_server.engine.scheduler import Scheduler
from model_server.engine.sequence import Sequence, SequenceCache, cache_of
from model_server.types import GenerateRequest, SamplingParams


class AmpleMemory:
    """Room for everybody, except while ``full``."""

    def __init__(self) -> None:
        self.full = False
        self.most_new = 1000
        """Tokens a running sequence may grow by."""
        self.headrooms: list[int] = []

    def admit(self, sequence: Sequence, headroom: int) -> bool:
        self.headrooms.append(headroom)
        if self.full:
            return False
        sequence.cache = SequenceCache(array("i"), ring=0, num_tokens=0, written=0, hidden=HiddenTail(0))
        return True

    def reserve(self, sequence: Sequence, num_new: int) -> bool:
        return num_new <= self.most_new

    def preempt(self, sequence: Sequence) -> None:
        raise AssertionError("nobody has to stop")


class Work:
    """A scheduler, and steps that do what it says."""

    def __init__(self, max_running: int = 8, prompt_tokens: int = 100, most_more: int = 0) -> None:
        self.memory = AmpleMemory()
        self.scheduler = Scheduler(self.memory, max_running, prompt_tokens, most_more)

    def add(self, name: str, num_prompt: int, priority: int = 0, max_tokens: int = 1000) -> Sequence:
        prompt = tuple(map(ord, name)) + (0,) * (num_prompt - len(name))
        request = GenerateRequest(name, prompt, SamplingParams(max_tokens=max_tokens), priority=priority)
        sequence = Sequence(request, 0, Routes(0, 0))
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> dict[str, int]:
        """Tokens of each sequence in the next step; those that sample get a token, and leave after their last."""
        step = self.scheduler.schedule()
        for part in step:
            cache_of(part.sequence).commit(part.num_tokens, part.num_tokens)
            if part.samples:
                part.sequence.ids.append(1)
                if part.sequence.num_sampled == part.sequence.request.sampling.max_tokens:
                    self.scheduler.remove(part.sequence)
        return {part.sequence.request.request_id: part.num_tokens for part in step}


def test_a_prompt_is_read_in_parts_beside_those_who_decode() -> None:
    work = Work()
    work.add("short", 10)
    assert work.step() == {"short": 10}
    work.add("long", 250)
    assert [work.step() for _ in range(4)] == [
        {"short": 1, "long": 100},
        {"short": 1, "long": 100},
        {"short": 1, "long": 50},
        {"short": 1, "long": 1},
    ]


def test_equal_prompts_are_read_one_after_another() -> None:
    work = Work()
    for name in "abc":
        work.add(name, 80)
    assert [work.step() for _ in range(3)] == [
        {"a": 80, "b": 20},
        {"a": 1, "b": 60, "c": 40},
        {"a": 1, "b": 1, "c": 40},
    ]


def test_a_short_prompt_does_not_wait_for_a_long_one_which_always_moves() -> None:
    work = Work()
    work.add("long", 500)
    work.add("longer", 900)
    work.add("short", 30)
    assert work.step() == {"long": 70, "short": 30}
    for index in range(6):
        work.add(f"short {index}", 50)
    assert work.step()["long"] == 50


def test_a_prompt_is_cut_where_a_snapshot_is_due() -> None:
    work = Work(prompt_tokens=700)
    sequence = work.add("long", 1500)
    assert [work.step()["long"] for _ in range(3)] == [700, 324, 476]
    sequence = work.add("branching", 500)
    work.scheduler.schedule()
    cache_of(sequence).branch = 200
    assert [work.step()["branching"] for _ in range(3)] == [200, 300, 1]


def test_higher_priorities_go_first_and_equals_in_order_of_arrival() -> None:
    work = Work(max_running=1)
    for name, priority in (("a", 0), ("b", 0), ("urgent", 5), ("c", -1)):
        work.add(name, 3, priority, max_tokens=1)
    assert [list(work.step()) for _ in range(4)] == [["urgent"], ["a"], ["b"], ["c"]]


def test_nobody_waits_for_ever_behind_higher_priorities() -> None:
    work = Work(max_running=1)
    work.add("patient", 3, priority=-1000, max_tokens=1)
    served: list[str] = []
    for index in range(30):
        work.add(f"urgent {index}", 3, priority=1000, max_tokens=1)
        served += work.step()
    assert served.index("patient") == 16


def test_no_more_run_than_may() -> None:
    work = Work(max_running=2)
    for name in "abcd":
        work.add(name, 3)
    assert set(work.step()) == {"a", "b"}
    assert len(work.scheduler.waiting) == 2


def test_who_does_not_fit_is_not_overtaken_by_its_equals() -> None:
    work = Work()
    work.add("first", 3)
    work.step()
    work.memory.full = True
    work.add("large", 3)
    work.add("small", 3)
    work.memory.headrooms.clear()
    assert set(work.step()) == {"first"}
    assert work.memory.headrooms == [1]


def test_nobody_has_to_stop_for_guesses() -> None:
    work = Work(most_more=3)
    work.memory.most_new = 1
    for name in "ab":
        work.add(name, 3)
    work.step()
    assert work.step() == {"a": 1, "b": 1}


def test_the_same_prompt_waits_until_it_was_read_once() -> None:
    work = Work()
    for _ in range(3):
        work.add("same", 150)
    num_running = []
    for _ in range(4):
        work.step()
        num_running.append(len(work.scheduler.running))
    assert num_running == [1, 1, 2, 2]


@pytest.mark.parametrize("num_waiting", [1, 32])
def test_no_prompt_waits_more_than_twice_the_mean(num_waiting: int) -> None:
    work = Work(max_running=32, prompt_tokens=512)
    for index in range(num_waiting):
        work.add(str(index), 512 + index, max_tokens=100)
    waited: dict[str, int] = {}
    for step in range(1, 200):
        work.step()
        for sequence in work.scheduler.running:
            if sequence.num_sampled:
                waited.setdefault(sequence.request.request_id, step)
    assert len(waited) == num_waiting
    assert max(waited.values()) <= 2 * sum(waited.values()) / num_waiting
