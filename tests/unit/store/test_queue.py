"""The queue alone: shares, caps, starvation, and whether what it says of a place is true."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from agent.store.queue import (
    AT_ONCE,
    BACKGROUND_EVERY,
    QUANTUM_S,
    Account,
    Allowance,
    Head,
    due,
    held_back,
    next_turn,
    overspent,
    standing,
)
from agent.types import Priority

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = "abcdef"
WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 3.0, 8.0])


@dataclass
class Service:
    """Accounts and queues, kept as the store keeps them."""

    accounts: dict[str, Account]
    waiting: dict[str, list[tuple[datetime, str, bool]]]
    """Due and user of every run, and whether it is in the background, by project."""

    def heads(self) -> list[Head]:
        found = []
        for project_id, queue in self.waiting.items():
            for user, background in sorted({run[1:] for run in queue}):
                dues = [run[0] for run in queue if run[1:] == (user, background)]
                found.append(Head(project_id, user, min(dues), len(dues), background))
        return found

    def serve(self, cost_s: float = QUANTUM_S, *, at_work: bool = False) -> Head | None:
        """Take the next turn and charge it; with ``at_work`` the run keeps its worker."""
        turn = next_turn(self.accounts.values(), self.heads())
        if turn is None:
            return None
        head = turn.head
        account = self.accounts[head.project_id]
        self.accounts[head.project_id] = replace(
            account,
            charged_s=account.charged_s + turn.forfeited_s + cost_s,
            served_at=turn.served_at,
            passed_over=turn.passed_over,
            running=Counter(account.running or {}) + Counter({head.user: int(at_work)}),
        )
        self.waiting[head.project_id].remove((head.due, head.user, head.background))
        return head


def backlogged(weights: list[float], num_waiting: int) -> Service:
    names = NAMES[: len(weights)]
    accounts = {name: Account(name, weight) for name, weight in zip(names, weights, strict=True)}
    return Service(accounts, {name: [(START, "ada", False)] * num_waiting for name in names})


@st.composite
def services(draw: st.DrawFn, *, caps: bool) -> Service:
    cap = st.none() | st.integers(1, 3) if caps else st.none()
    names = NAMES[: draw(st.integers(1, 4))]
    accounts = {
        name: Account(
            name,
            draw(WEIGHTS),
            max_running=draw(cap),
            max_running_per_user=draw(cap),
            allowances=tuple(
                Allowance(what, draw(cap), draw(cap), {user: draw(st.integers(0, 2)) for user in ("ada", "bob")})
                for what in ("tokens", "money")
            ),
            charged_s=draw(st.integers(0, 200)) * 1.0,
            passed_over=draw(st.integers(0, BACKGROUND_EVERY - 1)),
        )
        for name in names
    }
    when = st.integers(0, 3600).map(lambda s: START + timedelta(seconds=s))
    run = st.tuples(when, st.sampled_from(["ada", "bob"]), st.booleans())
    return Service(accounts, {name: draw(st.lists(run, max_size=30, unique=True)) for name in names})


@given(st.lists(WEIGHTS, min_size=2, max_size=5), st.lists(st.floats(QUANTUM_S, 600), min_size=5, max_size=5))
def test_worker_time_converges_to_the_weights_however_long_the_runs_are(
    weights: list[float], costs: list[float]
) -> None:
    service = backlogged(weights, 100)
    cost_s = dict(zip(NAMES, costs, strict=False))

    for _ in range(100):
        turn = next_turn(service.accounts.values(), service.heads())
        assert turn is not None
        service.serve(cost_s[turn.head.project_id])

    shares = [account.share for account in service.accounts.values()]
    longest_turn = max(cost_s[name] / account.weight for name, account in service.accounts.items())
    assert max(shares) - min(shares) <= longest_turn + 1e-6


@given(st.lists(WEIGHTS, min_size=2, max_size=5))
def test_no_project_starves(weights: list[float]) -> None:
    service = backlogged(weights, 100)
    *others, lightest = sorted(service.accounts.values(), key=lambda account: -account.weight)
    most = sum(account.weight / lightest.weight + 1 for account in others)

    served = [service.serve() for _ in range(int(most) + 1)]

    assert lightest.project_id in {head.project_id for head in served if head}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, BACKGROUND_EVERY - 1), st.integers(0, 10**9))
def test_background_has_every_tenth_turn_while_others_wait_however_long_it_waited(
    num_background: int, num_others: int, passed_over: int, waited_s: int
) -> None:
    long_ago = START - timedelta(seconds=waited_s)
    runs = [(long_ago, "ada", True)] * num_background + [(START, "bob", False)] * num_others
    service = Service({"a": Account("a", passed_over=passed_over)}, {"a": runs})

    kinds = [head.background for head in iter(service.serve, None)]

    both = kinds[: min(_last(kinds, kind=True), _last(kinds, kind=False)) + 1]
    turns = [number for number, background in enumerate(both) if background]
    assert (kinds.count(True), kinds.count(False)) == (num_background, num_others)
    assert turns[:1] in ([], [BACKGROUND_EVERY - 1 - passed_over])
    assert all(later - turn == BACKGROUND_EVERY for turn, later in itertools.pairwise(turns))


def _last(kinds: list[bool], *, kind: bool) -> int:
    """The last turn of a kind: before it both wait."""
    return len(kinds) - 1 - kinds[::-1].index(kind)


def test_background_takes_every_turn_that_nobody_else_wants() -> None:
    service = Service({"a": Account("a")}, {"a": [(START, "ada", True)] * 3})

    assert [head.background for head in (service.serve(), service.serve(), service.serve()) if head] == [True] * 3
    assert service.accounts["a"].passed_over == 0


def test_background_run_that_a_cap_holds_is_not_passed_over() -> None:
    account = Account("a", max_running_per_user=1, running={"ada": 1}, passed_over=BACKGROUND_EVERY - 1)

    turn = next_turn([account], [Head("a", "ada", START, background=True), Head("a", "bob", START)])

    assert turn is not None
    assert (turn.head.user, turn.passed_over) == ("bob", BACKGROUND_EVERY - 1)


INTERACTIVE = [priority for priority in Priority if priority is not Priority.BACKGROUND]


@given(st.sampled_from(INTERACTIVE), st.sampled_from(INTERACTIVE), st.integers(1, 8))
def test_whatever_comes_much_later_does_not_overtake(first: Priority, later: Priority, attempt: int) -> None:
    assert due(START, first, attempt) < due(START + timedelta(hours=2), later, 1)


def test_urgent_task_overtakes_what_came_shortly_before() -> None:
    assert due(START + timedelta(minutes=10), Priority.HIGH, 1) < due(START, Priority.NORMAL, 1)
    assert due(START, Priority.NORMAL, 1) < due(START, Priority.LOW, 1) < due(START, Priority.LOW, 2)


@given(services(caps=True))
def test_no_cap_is_passed(service: Service) -> None:
    while head := service.serve(at_work=True):
        assert overspent(service.accounts[head.project_id], head.user) is None
        for account in service.accounts.values():
            most_of_a_user = max((account.running or {"nobody": 0}).values())
            assert account.max_running is None or account.num_running <= account.max_running
            assert account.max_running_per_user is None or most_of_a_user <= account.max_running_per_user

    # What still waits is held back by a cap, and by nothing else.
    for head in service.heads():
        assert held_back(service.accounts[head.project_id], head.user) is not None


@given(services(caps=False), st.data())
def test_position_is_the_number_of_the_turn_in_which_it_is_served(service: Service, data: st.DataObject) -> None:
    assume(any(service.waiting.values()))
    project_id = data.draw(st.sampled_from([name for name, queue in service.waiting.items() if queue]))
    mine = data.draw(st.sampled_from(service.waiting[project_id]))
    num_before = sum(run < mine for run in service.waiting[project_id] if run[2] == mine[2])

    told = standing(service.accounts.values(), service.heads(), project_id, mine[1], num_before, background=mine[2])

    turns = 1
    while (head := service.serve()) and (head.project_id, head.due, head.user, head.background) != (project_id, *mine):
        turns += 1
    assert told.position == turns
    assert ("it is next" in told.reason) == (turns == 1)


@given(services(caps=True), st.integers(0, 6))
def test_cap_is_the_reason_exactly_where_a_cap_holds_the_run(service: Service, num_at_work: int) -> None:
    for _ in range(num_at_work):
        service.serve(at_work=True)

    for head in service.heads():
        account = service.accounts[head.project_id]
        told = standing(service.accounts.values(), service.heads(), head.project_id, head.user, 0)
        held = account.num_running == account.max_running or (
            account.running_of(head.user) == account.max_running_per_user
        )
        spent = any(
            sum(used.values()) >= (allowance.most or math.inf)
            or used[head.user] >= (allowance.most_per_user or math.inf)
            for allowance in account.allowances
            if (used := allowance.used) is not None
        )
        assert ("at most" in told.reason) == held
        assert ("has used" in told.reason) == (spent and not held)


def test_project_that_was_idle_does_not_save_up() -> None:
    service = backlogged([1.0, 1.0], 100)
    idle = service.waiting.pop("b")
    for _ in range(50):
        service.serve()
    service.waiting["b"] = idle

    following = Counter(head.project_id for head in (service.serve() for _ in range(10)) if head)

    assert following == {"a": 5, "b": 5}


def test_user_at_his_cap_does_not_hold_up_the_others_of_his_project() -> None:
    account = Account("a", max_running_per_user=1, running={"ada": 1})

    turn = next_turn([account], [Head("a", "ada", START), Head("a", "bob", START + timedelta(hours=1))])

    assert turn is not None
    assert turn.head.user == "bob"


def test_cancelled_run_is_ended_whatever_its_share_and_caps_are() -> None:
    full = Account("a", max_running=1, running={"ada": 1}, charged_s=1e6)

    turn = next_turn([full, Account("b")], [Head("a", "ada", AT_ONCE), Head("b", "bob", START)])

    assert turn is not None
    assert turn.head.project_id == "a"
