"""How far to guess ahead."""

from model_server.engine.draft_policy import DraftPolicy, Speculation, StepTime


def policy(row_share: float, *, accepted: float = 1.0, longest: int = 8) -> DraftPolicy:
    """After steps in which each further row took ``row_share`` of a step of one, and so many guesses held."""
    made = DraftPolicy(Speculation(lookup=longest))
    for step in range(200):
        num_rows = 1 + step % 4
        made.time.add(num_rows, 0.001 * (1 + row_share * (num_rows - 1)))
        held = longest if (step * accepted) % 1 + accepted >= 1 else 0
        made.observe("lookup", "held", longest, held)
    return made


def test_guesses_that_hold_go_as_far_as_may_be() -> None:
    assert policy(0.2).length("lookup", "held", 1) == 8


def test_guesses_that_never_hold_are_not_made_but_now_and_then() -> None:
    hopeless = policy(0.2, accepted=0.0)
    lengths = [hopeless.length("lookup", "held", 1) for _ in range(1000)]
    assert max(lengths) == 1
    assert 0 < sum(lengths) < 10


def test_no_guess_is_made_where_a_row_costs_as_much_as_a_step() -> None:
    assert policy(1.0, accepted=0.9).length("lookup", "held", 1) == 0


def test_the_more_sequences_share_a_step_the_less_a_guess_is_worth() -> None:
    fair = policy(0.3, accepted=0.8)
    lengths = [fair.length("lookup", "held", num_sequences) for num_sequences in (1, 2, 4, 8, 32)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 0
    assert lengths[-1] == 0


def test_guesses_that_take_long_to_make_must_hold_more_often() -> None:
    slow = policy(0.2, accepted=0.5)
    assert slow.length("lookup", "held", 1) > 0
    slow.observe_guessing("lookup", 4, 0.004)
    assert slow.length("lookup", "held", 1) == 0


def test_what_ended_otherwise_before_is_judged_by_itself() -> None:
    split = policy(0.2)
    for _ in range(50):
        assert split.observe("lookup", "failed", 4, 0) == "failed"
    assert split.length("lookup", "failed", 1) == 0
    assert split.length("lookup", "held", 1) == 8
    assert split.observe("lookup", "held", 4, 4) == "held"


def test_a_source_that_is_switched_off_is_never_tried() -> None:
    off = DraftPolicy(Speculation(lookup=0, layers=0))
    assert {off.length("lookup", "first", 1) for _ in range(1000)} == {0}


def test_where_it_is_asked_for_every_guess_is_made_at_full_length() -> None:
    eager = DraftPolicy(Speculation(lookup=5, always=True))
    eager.observe("lookup", "first", 5, 0)
    assert (eager.length("lookup", "first", 64), eager.length("layers", "first", 64)) == (5, 3)


def test_step_times_follow_the_line_of_what_was_measured() -> None:
    time = StepTime()
    for step in range(300):
        num_rows = 1 + step % 3
        time.add(num_rows, 0.002 + 0.0005 * num_rows)
    assert abs(time.of(8) - 0.006) < 1e-4
    assert abs(time.row - 0.0005) < 1e-5


def test_one_step_in_which_the_machine_was_away_hardly_counts() -> None:
    time = StepTime()
    for _ in range(50):
        time.add(1, 0.001)
    time.add(1, 10.0)
    assert time.of(1) < 0.0012
