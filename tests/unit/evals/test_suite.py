"""The exam is what was committed, and training cannot have seen it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from evals.runner import Sampling, request_of
from evals.suite import SPLITS, ExamTask, digest, eval_task, load_exam, nano_heldout
from evals.synthesis.names import split_of
from evals.synthesis.statements import NUM_STYLES, names_file, statement
from evals.synthesis.tasks import Endless, TaskSource, load_manifest
from training.episodes import EpisodeMix, Expert

Exam = dict[str, tuple[ExamTask, ...]]


@pytest.fixture(scope="module")
def exam() -> Exam:
    return {split: nano_heldout(split) for split in SPLITS}


def test_the_exam_is_the_committed_one(exam: Exam) -> None:
    committed = load_exam()
    assert {split: len(tasks) for split, tasks in exam.items()} == committed.sizes
    assert digest(tuple(task for tasks in exam.values() for task in tasks)) == committed.sha256


def test_a_limit_takes_the_first_tasks(exam: Exam) -> None:
    for split, tasks in exam.items():
        assert [task.id for task in nano_heldout(split, 3)] == [task.id for task in tasks[:3]]
        assert digest(nano_heldout(split, 3)) == digest(tasks[:3])


def test_every_split_holds_out_what_its_name_says(exam: Exam) -> None:
    manifest = load_manifest()
    for split, tasks in exam.items():
        for task in tasks:
            bug = task.repair.bugs[0]
            assert len(task.repair.bugs) == 1
            assert all(split_of(name) == "heldout" for name in task.repair.identifiers)
            assert (bug.family in manifest.heldout_families) == (split == "heldout_families")
            assert (bug.kind in manifest.heldout_kinds) == (split == "heldout_kinds")


def test_no_two_tasks_are_the_same(exam: Exam) -> None:
    tasks = [task for tasks in exam.values() for task in tasks]
    assert len({json.dumps(task.repair.files, sort_keys=True) for task in tasks}) == len(tasks)


def test_no_identifier_and_no_fixed_line_of_the_exam_occurs_in_training(exam: Exam) -> None:
    tasks = [task for tasks in exam.values() for task in tasks]
    identifiers = {name for task in tasks for name in task.repair.identifiers}
    fixed_lines = "|".join(re.escape(task.repair.bugs[0].fixed_line) for task in tasks)
    known = re.compile(rf"(?<!\w)({fixed_lines})(?!\w)")  # as a line, not as a part of a longer word
    for text in _training_texts(300):
        # What pytest cut off is no word: "lo..." was "local".
        assert not identifiers & set(re.findall(r"\w+", re.sub(r"\w+\.\.\.", "", text)))
        assert known.search(text) is None


def test_every_fixed_line_has_an_identifier_that_training_cannot_draw(exam: Exam) -> None:
    for tasks in exam.values():
        for task in tasks:
            words = re.findall(r"\w+", task.repair.bugs[0].fixed_line)
            assert any(word in task.repair.identifiers and split_of(word) == "heldout" for word in words)


def test_the_agent_is_told_nothing_of_the_answers(exam: Exam, tmp_path: Path) -> None:
    for tasks in exam.values():
        task = eval_task(tasks[0])
        request = request_of(task, tmp_path, Sampling(), None)
        seen = request.model_dump_json() + json.dumps(task.files)
        assert "hidden" not in seen
        assert not set(task.files) & set(task.answers.hidden_tests)
        assert task.files != task.answers.gold


def test_a_statement_names_its_file_where_its_style_says_so(exam: Exam) -> None:
    for task in exam["heldout_names"][:20]:
        bug = task.repair.bugs[0]
        for style in range(NUM_STYLES):
            text = statement(bug, style)
            assert (bug.path in text) == names_file(style)
            assert bug.function in text
            assert bug.failure.case.expected in text


_EPISODES = (Expert.read, Expert.drill, *[Expert.solve] * 6)
"""Every kind, as often as gives each of them some dozens."""


def _training_texts(num_episodes: int) -> Iterator[str]:
    """Everything that stands in freshly drawn training episodes of every kind."""
    random = Random(7)
    source = TaskSource(random, load_manifest())
    expert = Expert(random, EpisodeMix())
    for index in range(num_episodes):
        task = source.make(1 + index % 3)
        try:
            episode = _EPISODES[index % len(_EPISODES)](expert, task)
        except Endless:
            continue
        yield from _strings(episode.messages)


def _strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield from _strings(json.loads(item) if key == "arguments" and item.startswith("{") else item)
        case list() | tuple():
            for item in value:
                yield from _strings(item)
