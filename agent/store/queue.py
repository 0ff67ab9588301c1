"""Whose turn it is: pure functions over what waits and what runs.

Between projects, worker time is shared by weight (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996). Each
project has an account: the worker time charged to it, divided by its weight, is its *share*, and the project with the
lowest one is next. A claim costs at least ``QUANTUM_S``, so that short runs are shared by their number. A project that
had nothing to run does not save up for later: its account begins where the last one that was served stood.

Within a project the run with the earliest ``due`` is next. That is when its task was submitted, less the head start of
its priority. As all wait at the same pace, this is priority with ageing: nothing that comes later than a head start
can overtake, so nothing waits for ever. Background runs queue by themselves, and do not age past the others: while
both wait, every ``BACKGROUND_EVERY``-th turn of the project is theirs.

Caps of projects and users come before both: how many runs at once, and how much of tokens and money in a time.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from agent.types import Priority

QUANTUM_S = 10.0
"""The least that a claim is charged, in seconds of worker time."""

BACKGROUND_EVERY = 10
"""Of so many turns of a project, one is a background run's, where others wait too."""

HEAD_START_S = {Priority.BACKGROUND: 0.0, Priority.LOW: -900.0, Priority.NORMAL: 0.0, Priority.HIGH: 900.0}
"""A task is served as if it had been submitted so much earlier, s."""

ATTEMPT_DELAY_S = 600.0
"""A further attempt, which may not be needed, gives way to the first ones of others for so long, s."""

AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
"""``due`` of a run that only has to be ended, because its user cancelled it: it goes first, and no cap holds it."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of something a project, and each of its users, may use in a time."""

    what: str
    """Such as ``tokens of today (UTC)``."""
    most: float | None
    most_per_user: float | None
    used: Mapping[str, float] | None
    """By user, of the runs that worked in that time; None where nobody can say."""


@dataclass(frozen=True, slots=True)
class Account:
    """A project as the queue sees it."""

    project_id: str
    weight: float = 1.0
    max_running: int | None = None
    max_running_per_user: int | None = None
    running: Mapping[str, int] | None = None
    """Runs that have a worker now, by user."""
    allowances: tuple[Allowance, ...] = ()
    charged_s: float = 0.0
    """Worker time, of claims that ended and of those that go on."""
    served_at: float = 0.0
    """The share it had when it was last served."""
    passed_over: int = 0
    """Turns that others of the project had while background runs waited, since one of these had its own."""

    @property
    def share(self) -> float:
        return self.charged_s / self.weight

    @property
    def num_running(self) -> int:
        return sum((self.running or {}).values())

    def running_of(self, user: str) -> int:
        return (self.running or {}).get(user, 0)


@dataclass(frozen=True, slots=True)
class Head:
    """The earliest run of one user in one project that waits, of those in the background or of the others."""

    project_id: str
    user: str
    due: datetime
    num_waiting: int = 1
    """How many such the user has waiting in the project, this one included."""
    background: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """Who is next, and what becomes of its project's account."""

    head: Head
    served_at: float
    forfeited_s: float
    """Worker time that the project left unused while it had nothing to run: charged, so that it is not made up for."""
    passed_over: int
    """As in the account."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a waiting run stands."""

    position: int
    """From 1; as far as caps do not hold those before it."""
    reason: str


def due(submitted: datetime, priority: Priority, attempt: int) -> datetime:
    """The place of a run among those of its project."""
    return submitted - timedelta(seconds=HEAD_START_S[priority] - (attempt - 1) * ATTEMPT_DELAY_S)


def charge(claimed_at: datetime, now: datetime) -> float:
    """What a claim costs its project, s. A clock that goes back costs nothing."""
    return max((now - claimed_at).total_seconds(), QUANTUM_S)


def next_turn(accounts: Iterable[Account], heads: Sequence[Head]) -> Turn | None:
    """Whose turn it is; None where nothing waits that may run."""
    given = {account.project_id: account for account in accounts}
    by_id = _settled(given.values())
    ending = [head for head in heads if head.due <= AT_ONCE]
    free = ending or [head for head in heads if held_back(by_id[head.project_id], head.user) is None]
    if not free:
        return None

    def order(head: Head) -> tuple[float, str, bool, datetime, str]:
        account = by_id[head.project_id]
        is_later = not ending and head.background != (account.passed_over >= BACKGROUND_EVERY - 1)
        return account.share, head.project_id, is_later, head.due, head.user

    first = min(free, key=order)
    account = by_id[first.project_id]
    return Turn(
        first,
        account.share,
        account.charged_s - given[first.project_id].charged_s,
        account.passed_over if ending else _passed_over(account, first, free),
    )


def held_back(account: Account, user: str) -> str | None:
    """The cap that keeps a user's runs from being served; None where none does."""
    most = account.max_running
    if most is not None and account.num_running >= most:
        return f"the project has {account.num_running} runs at work, and at most {most} at once"
    most = account.max_running_per_user
    if most is not None and account.running_of(user) >= most:
        return f"{user} has {account.running_of(user)} runs at work in the project, and at most {most} at once"
    return overspent(account, user)


def overspent(account: Account, user: str) -> str | None:
    """Why a user's runs may use no more for now; None where they may."""
    return next(filter(None, (_used_up(allowance, user) for allowance in account.allowances)), None)


def standing(
    accounts: Iterable[Account],
    heads: Sequence[Head],
    project_id: str,
    user: str,
    num_before: int,
    *,
    background: bool = False,
) -> Standing:
    """Where a waiting run stands.

    Args:
        num_before: runs of its own project that are due before it, of those in the background or of the others.
        background: whether it is one of those.
    """
    by_id = _settled(accounts)
    mine = by_id[project_id]
    num_waiting: Counter[str] = Counter()
    num_between = 0
    for head in heads:
        num_waiting[head.project_id] += head.num_waiting
        num_between += head.num_waiting * (head.project_id == project_id and head.background != background)
    num_before += min(num_between, _num_turns_between(mine, num_before, background=background))
    num_others = sum(
        min(num, _num_turns(by_id[other], mine, num_before))
        for other, num in num_waiting.items()
        if other != project_id
    )
    position = num_before + num_others + 1
    held = held_back(mine, user)
    if held is not None:
        return Standing(position, held)
    if position == 1:
        return Standing(position, "it is next, and waits for a worker")
    return Standing(position, f"{num_before} runs of the project and {num_others} of others come first")


def _used_up(allowance: Allowance, user: str) -> str | None:
    what, most, most_per_user = allowance.what, allowance.most, allowance.most_per_user
    if most is None and most_per_user is None:
        return None
    if allowance.used is None:
        return f"the project has a limit of {what}, and the service knows no prices"
    used = sum(allowance.used.values())
    if most is not None and used >= most:
        return f"the project has used {_number(used)} of its {_number(most)} {what}"
    used = allowance.used.get(user, 0)
    if most_per_user is not None and used >= most_per_user:
        return f"{user} has used {_number(used)} of {_number(most_per_user)} {what} in the project"
    return None


def _number(amount: float) -> str:
    """
    >>> _number(104), _number(0.25), _number(5.0), _number(0.00001234)
    ('104', '0.25', '5', '1.234e-05')
    """
    return str(amount) if isinstance(amount, int) else f"{amount:.6g}"


def _settled(accounts: Iterable[Account]) -> dict[str, Account]:
    """The accounts by project; none stands lower than the one that was served last, from which all go on."""
    accounts = tuple(accounts)
    floor = max((account.served_at for account in accounts), default=0.0)
    return {
        account.project_id: replace(account, charged_s=max(account.charged_s, floor * account.weight))
        for account in accounts
    }


def _passed_over(account: Account, served: Head, free: Sequence[Head]) -> int:
    """That of the account after a turn."""
    if served.background:
        return 0
    waits = any(head.background and head.project_id == served.project_id for head in free)
    return account.passed_over + 1 if waits else account.passed_over


def _num_turns_between(account: Account, num_before: int, *, background: bool) -> int:
    """How many turns of the project's other kind of runs come before that of a run which ``num_before`` of its own
    kind precede, as long as there are such."""
    others = BACKGROUND_EVERY - 1
    until_first = max(0, others - account.passed_over)
    if background:
        return until_first + num_before * others
    return 0 if num_before < until_first else 1 + (num_before - until_first) // others


def _num_turns(other: Account, mine: Account, num_before: int) -> int:
    """How many turns another project has before that of my run which ``num_before`` of mine precede.

    A turn moves an account by a quantum, and the other has one whenever its share is lower; or equal, and its id is.
    """
    reached = mine.share + num_before * QUANTUM_S / mine.weight
    turns = (reached - other.share) * other.weight / QUANTUM_S
    nearest = round(turns)
    if math.isclose(turns, nearest, abs_tol=1e-6):
        return max(0, nearest + (other.project_id < mine.project_id))
    return max(0, math.ceil(turns))
