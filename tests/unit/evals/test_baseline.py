"""What a program without a model reaches."""

from random import Random

from evals.baseline import edit_at_random, enumerate_edits, measure
from evals.suite import nano_heldout
from evals.synthesis.bugs import edits


def test_enumeration_resolves_a_task_whose_repair_is_one_of_its_edits() -> None:
    for task in nano_heldout("heldout_names", 8):
        bug = task.repair.bugs[0]
        fixed = task.repair.functions[bug.function].source
        broken = fixed.replace(bug.fixed_line, bug.broken_line, 1)
        tried = enumerate_edits(task.repair)
        if any(edit.apply(broken) == fixed for edit in edits(broken)):
            assert tried.survived
        assert tried.survived or not tried.resolved
        assert tried.num_candidates > 0


def test_the_baseline_counts_both_ways_of_trying() -> None:
    split = measure(nano_heldout("heldout_names", 8))
    assert split.enumeration.total == split.random_edit.total == 8
    assert split.random_edit.resolved < split.enumeration.resolved <= split.survivors
    assert split.mean_candidates > 1


def test_a_random_edit_sometimes_repairs() -> None:
    task = nano_heldout("heldout_names", 1)[0]
    assert any(edit_at_random(task.repair, Random(seed)) for seed in range(60))
