"""Guesses from a sequence's own past."""

from hypothesis import given
from hypothesis import strategies as st

from model_server.engine.lookup import Lookup


def test_what_followed_the_newest_tokens_before_is_guessed() -> None:
    assert Lookup().guess([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3, 4], longest=3) == [5, 6, 7]


def test_the_newest_occurrence_counts() -> None:
    assert Lookup().guess([1, 2, 3, 4, 5, 1, 2, 3, 4, 6, 1, 2, 3, 4], longest=1) == [6]


def test_nothing_is_guessed_after_tokens_that_never_stood_together() -> None:
    assert Lookup().guess([1, 2, 3, 4, 5, 4, 3, 2], longest=3) == []
    assert Lookup().guess([1, 2], longest=3) == []


def test_a_guess_may_overlap_what_it_continues() -> None:
    assert Lookup().guess([7, 7, 7, 7, 7], longest=2) == [7]


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 60))
def test_an_index_that_grew_guesses_as_a_fresh_one(ids: list[int], step: int) -> None:
    grown = Lookup()
    for end in range(step, len(ids), step):
        grown.guess(ids[:end], 4)
    assert grown.guess(ids, 4) == Lookup().guess(ids, 4)
