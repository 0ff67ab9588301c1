"""How far to guess ahead."""

from model_server.engine.draft_policy import DraftPolicy, Speculation, StepTimes


def times(row_share: float) -> StepTimes:
    """Each further row takes so much of a step of one."""
    return StepTimes((1, 33), (0.001, 0.001 * (1 + 32 * row_share)))


def policy(row_share: float, *, accepted: float = 1.0, longest: int = 8) -> DraftPolicy:
    """After guesses of which so many held."""
    made = DraftPolicy(Speculation(lookup=longest), times(row_share))
    for step in range(200):
        held = longest if (step * accepted) % 1 + accepted >= 1 else 0
        made.observe("lookup", "held", longest, held)
    return made


def test_guesses_that_hold_go_as_far_as_may_be() -> None:
    assert policy(0.2).length("lookup", "held", 1) == 8


def test_guesses_that_never_hold_are_not_made_but_now_and_then() -> None:
    hopeless = policy(0.2, accepted=0.0)
    lengths = []
    for _ in range(1000):
        lengths.append(hopeless.length("lookup", "held", 1))
        if lengths[-1]:
            hopeless.observe("lookup", "held", lengths[-1], 0)
    assert max(lengths) == 1
    assert 0 < sum(lengths) < 10


def test_a_source_that_does_not_pay_is_prepared_only_around_its_tries() -> None:
    hopeless = policy(0.2, accepted=0.0)
    wanted = []
    for _ in range(1000):
        length = hopeless.length("lookup", "held", 1)
        wanted.append(hopeless.is_wanted("lookup"))
        assert wanted[-1] or not length
        if length:
            hopeless.observe("lookup", "held", length, 0)
    assert 0 < sum(wanted) < 300


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
    off = DraftPolicy(Speculation(lookup=0, layers=0), times(0.1))
    assert {off.length("lookup", "first", 1) for _ in range(1000)} == {0}


def test_where_it_is_asked_for_every_guess_is_made_at_full_length() -> None:
    eager = DraftPolicy(Speculation(lookup=5, always=True), times(1.0))
    eager.observe("lookup", "first", 5, 0)
    assert (eager.length("lookup", "first", 64), eager.length("layers", "first", 64)) == (5, 3)


def test_a_step_that_was_not_measured_lies_on_the_line_of_its_neighbours() -> None:
    measured = StepTimes((1, 2, 4), (0.001, 0.002, 0.003))
    assert [round(measured.of(num_rows), 6) for num_rows in (1, 2, 3, 4, 8)] == [0.001, 0.002, 0.0025, 0.003, 0.005]


def test_a_guess_goes_past_a_costly_row_where_those_behind_it_are_cheap() -> None:
    made = DraftPolicy(Speculation(lookup=8), StepTimes((1, 2, 9), (0.001, 0.0021, 0.0022)))
    for _ in range(100):
        made.observe("lookup", "held", 8, 8)
    assert made.length("lookup", "held", 1) == 8
