"""Guesses from a sequence's own past."""

from hypothesis import given
from hypothesis import strategies as st

from model_server.engine.lookup import Lookup, Recurrence


def test_what_followed_the_newest_tokens_before_is_found() -> None:
    assert Lookup().find([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3, 4]) == Recurrence(4, is_long=False)


def test_the_newest_occurrence_counts() -> None:
    assert Lookup().find([1, 2, 3, 4, 5, 1, 2, 3, 4, 6, 1, 2, 3, 4]) == Recurrence(9, is_long=False)


def test_nothing_is_found_after_tokens_that_never_stood_together() -> None:
    assert Lookup().find([1, 2, 3, 4, 5, 4, 3, 2]) is None
    assert Lookup().find([1, 2]) is None


def test_what_is_found_may_overlap_what_it_continues() -> None:
    assert Lookup().find([7, 7, 7, 7, 7]) == Recurrence(4, is_long=False)


def test_eight_tokens_that_stood_together_before_are_many() -> None:
    once = list(range(10))
    assert Lookup().find([*once, 99, *once[2:]]) == Recurrence(10, is_long=True)
    assert Lookup().find([*once, 99, *once[3:]]) == Recurrence(10, is_long=False)


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 60))
def test_an_index_that_grew_finds_as_a_fresh_one(ids: list[int], step: int) -> None:
    grown = Lookup()
    for end in range(step, len(ids), step):
        grown.find(ids[:end])
    assert grown.find(ids) == Lookup().find(ids)
