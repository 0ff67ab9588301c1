"""How far to guess ahead."""

from itertools import pairwise

from model_server.engine.draft_policy import DraftPolicy, Sign, Source, Speculation

STEP_S = 0.001


def policy(row_share: float, *, held: float = 1.0, num_sequences: int = 1, source: Source = "lookup") -> DraftPolicy:
    """After steps in which each further row took so much of a step of one, and guesses of which so many held."""
    made = DraftPolicy(Speculation())
    sign: Sign = "short" if source == "lookup" else "held"
    longest = made.longest(source)
    for step in range(200):
        run(made, row_share, num_sequences=num_sequences)
        made.observe(source, sign, longest, longest if (step * held) % 1 + held >= 1 else 0)
        run(made, row_share, num_sequences=num_sequences, num_guessed=longest)
    return made


def run(made: DraftPolicy, row_share: float, *, num_sequences: int = 1, num_guessed: int = 0) -> None:
    """One step, after what became of its guesses was observed."""
    made.observe_step(num_sequences, STEP_S * (1 + row_share * (num_sequences + num_guessed - 1)))


def test_guesses_that_hold_go_as_far_as_may_be() -> None:
    good = policy(0.2)
    assert good.is_wanted("lookup", 1)
    assert good.length("lookup", "short", 1) == 8


def test_before_anything_is_known_one_step_goes_without_guesses_and_then_they_are_made() -> None:
    fresh = DraftPolicy(Speculation())
    assert not fresh.is_wanted("lookup", 1)
    run(fresh, 0.2)
    assert fresh.is_wanted("lookup", 1)
    assert fresh.length("lookup", "long", 1) == 8
    assert fresh.length("layers", "first", 1) == 3
    assert not fresh.is_wanted("lookup", 2)


def test_guesses_that_never_hold_are_made_only_now_and_then_and_ever_more_rarely() -> None:
    hopeless = policy(0.2, held=0.0)
    tries = []
    for step in range(20_000):
        wanted = hopeless.is_wanted("lookup", 1)
        length = hopeless.length("lookup", "short", 1) if wanted else 0
        if length:
            hopeless.observe("lookup", "short", length, 0)
            assert length == 1
            tries.append(step)
        run(hopeless, 0.2, num_guessed=length)
    pauses = [after - before for before, after in pairwise(tries)]
    assert 3 < len(tries) < 20
    assert pauses == sorted(pauses)


def test_what_begins_to_hold_again_is_found_out_by_a_few_tries() -> None:
    changed = policy(0.2, held=0.0)
    num_tries = 0
    while num_tries < 10:
        run(changed, 0.2)
        if changed.is_wanted("lookup", 1) and (length := changed.length("lookup", "short", 1)):
            if length > 1:
                break
            changed.observe("lookup", "short", length, length)
            run(changed, 0.2, num_guessed=length)
            num_tries += 1
    assert 0 < num_tries < 10


def test_no_guess_is_made_where_a_row_costs_as_much_as_a_step() -> None:
    assert policy(1.0, held=0.9).length("lookup", "short", 1) == 0


def test_the_more_sequences_share_a_step_the_less_a_guess_is_worth() -> None:
    lengths = [
        policy(0.3, held=0.8, num_sequences=num_sequences).length("lookup", "short", num_sequences)
        for num_sequences in (1, 2, 4, 8, 32)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 0
    assert lengths[-1] == 0


def test_guesses_that_take_long_to_make_must_hold_more_often() -> None:
    slow = policy(0.2, held=0.6, source="layers")
    assert slow.length("layers", "held", 1) > 0
    for _ in range(100):
        slow.observe("layers", "first", 1, 1)
        run(slow, 0.7, num_guessed=1)
    assert slow.length("layers", "held", 1) == 0
    assert slow.length("lookup", "short", 1) > 0


def test_a_step_that_also_did_what_is_done_once_does_not_tell_what_a_guess_takes() -> None:
    good = policy(0.2, held=0.6, source="layers")
    for _ in range(100):
        good.observe("layers", "first", 1, 1)
        good.observe_step(1, 6 * STEP_S, is_usual=False)
    assert good.length("layers", "held", 1) > 0


def test_steps_with_guesses_of_both_sources_tell_what_each_takes() -> None:
    mixed = policy(0.2, source="lookup")
    for step in range(400):
        for _ in range(1 + step % 3):
            mixed.observe("lookup", "short", 1, 1)
        for _ in range(1 + step % 2):
            mixed.observe("layers", "held", 1, 1)
        mixed.observe_step(1, STEP_S * (1 + 0.2 * (1 + step % 3) + 1.5 * (1 + step % 2)))
    assert mixed.length("lookup", "short", 1) > 0
    assert mixed.length("layers", "held", 1) == 0


def test_what_guesses_take_beyond_what_they_save_stays_a_small_share_whatever_was_expected() -> None:
    deceived = DraftPolicy(Speculation(lookup=0))
    num_guessing, lost = 0, 0.0
    for step in range(20_000):
        is_plain = not deceived.is_wanted("layers", 8)
        if not is_plain:  # good ones at first, then none holds; and what they take is never told
            deceived.observe("layers", "first", 3, 24 if step < 100 else 0)
            num_guessing += 1
            lost += 2 * STEP_S if step >= 100 else 0
        deceived.observe_step(8, STEP_S if is_plain else 3 * STEP_S, is_usual=is_plain)
    assert num_guessing > 100
    assert lost < 0.03 * 20_000 * STEP_S


def test_several_steps_at_once_are_given_up_only_for_guesses_that_make_up_for_it() -> None:
    def lengths(step_by_itself_s: float) -> int:
        made = DraftPolicy(Speculation())
        for _ in range(200):
            if made.goes_by_itself():
                made.observe_step(1, step_by_itself_s)
            else:
                made.observe_step(1, STEP_S, num_at_once=8)
            made.observe("lookup", "short", 2, 2)
            made.observe_step(1, step_by_itself_s + 2 * 0.2 * STEP_S)
        return made.length("lookup", "short", 1)

    assert lengths(2 * STEP_S) == 8
    assert lengths(20 * STEP_S) == 0


def test_one_step_that_took_forever_changes_little() -> None:
    disturbed = policy(0.2)
    disturbed.observe("lookup", "short", 1, 1)
    disturbed.observe_step(1, 1000 * STEP_S)
    assert disturbed.length("lookup", "short", 1) == 8


def test_guesses_after_another_sign_are_judged_by_themselves() -> None:
    split = policy(0.2)
    for _ in range(50):
        split.observe("lookup", "long", 4, 0)
    assert split.length("lookup", "long", 1) == 0
    assert split.length("lookup", "short", 1) == 8


def test_now_and_then_a_step_goes_without_guesses_to_be_measured() -> None:
    good = policy(0.2)
    guessing = []
    for _ in range(200):
        guessing.append(good.is_wanted("lookup", 1))
        if guessing[-1]:
            good.observe("lookup", "short", 1, 1)
        run(good, 0.2, num_guessed=int(guessing[-1]))
    assert 1 <= guessing.count(False) <= 5


def test_a_source_that_is_switched_off_is_never_asked() -> None:
    off = DraftPolicy(Speculation(lookup=0, layers=0))
    for _ in range(1000):
        run(off, 0.1)
        assert not off.is_wanted("lookup", 1)
        assert not off.is_wanted("layers", 1)


def test_where_it_is_asked_for_every_guess_is_made_at_full_length() -> None:
    eager = DraftPolicy(Speculation(lookup=5, always=True))
    eager.observe("lookup", "short", 5, 0)
    assert eager.is_wanted("lookup", 64)
    assert (eager.length("lookup", "short", 64), eager.length("layers", "held", 64)) == (5, 3)
