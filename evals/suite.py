"""The suites: fixed exams, made anew from a committed seed and held to a committed digest."""

import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random

from agent.types import Check, Limits
from evals.synthesis.names import Split
from evals.synthesis.statements import NUM_STYLES, statement
from evals.synthesis.tasks import RepairTask, TaskSource, load_manifest
from evals.types import Answers, EvalTask

NANO_HELDOUT = "nano-heldout"
SUITES = (NANO_HELDOUT,)

_CHECK = Check(command="python -m pytest -q", timeout_s=120.0)
_LIMITS = Limits(max_steps=20, max_tokens=500_000, wall_clock_s=900.0, command_timeout_s=60.0)
"""A repair takes five steps; four times as many leave room for wrong ways and end those that go round in circles."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What the bugs of a split are drawn from. Identifiers are held out in every split."""

    families: Split
    kinds: Split


SPLITS = {
    "heldout_names": Draw(families="train", kinds="train"),
    "heldout_families": Draw(families="heldout", kinds="train"),
    "heldout_kinds": Draw(families="train", kinds="heldout"),
}


@dataclass(frozen=True, slots=True)
class Exam:
    """Size and seed of the suite, as committed. Change training, never this."""

    seed: int
    sizes: dict[str, int]
    sha256: str
    """Of all tasks; see :func:`digest`."""


@dataclass(frozen=True, slots=True)
class ExamTask:
    """A synthetic repair task as part of the exam, with what only graders and baselines may know."""

    id: str
    split: str
    style: int
    """Of the problem statement."""
    repair: RepairTask


def load_exam() -> Exam:
    fields = json.loads(files("evals.synthesis").joinpath("manifest.json").read_text("utf-8"))["exam"]
    return Exam(fields["seed"], fields["sizes"], fields["sha256"])


def nano_heldout(split: str, limit: int | None = None) -> tuple[ExamTask, ...]:
    """The first ``limit`` tasks of a split, or all; always the same ones. Call it in the main thread."""
    exam = load_exam()
    size = exam.sizes[split]
    return _drawn(exam.seed, split, size if limit is None else min(limit, size))


def eval_task(task: ExamTask) -> EvalTask:
    """The task as any suite has it."""
    repair = task.repair
    return EvalTask(
        id=task.id,
        split=task.split,
        kind=repair.bugs[0].kind,
        files=repair.files,
        problem_statement=statement(repair.bugs[0], task.style),
        checks=(_CHECK,),
        limits=_LIMITS,
        answers=Answers(hidden_tests=repair.hidden_tests, tests=_tests(repair), gold=repair.fixed),
    )


def digest(tasks: tuple[ExamTask, ...]) -> str:
    """SHA-256 over everything the agent or the grader sees of the tasks."""
    sha256 = hashlib.sha256()
    for task in tasks:
        shown = eval_task(task)
        parts = [task.id, shown.problem_statement, shown.files, shown.answers.gold, shown.answers.hidden_tests]
        sha256.update(json.dumps(parts, sort_keys=True).encode() + b"\n")
    return sha256.hexdigest()


@cache
def _drawn(seed: int, split: str, size: int) -> tuple[ExamTask, ...]:
    # The deadline of synthetic code is a signal; in another thread all code would seem to fail.
    assert threading.current_thread() is threading.main_thread(), "tasks are drawn in the main thread"
    # A text as seed is hashed by its bytes: the same everywhere.
    random = Random(f"{seed} {split}")
    draw = SPLITS[split]
    source = TaskSource(random, load_manifest(), names="heldout", families=draw.families, kinds=draw.kinds)
    tasks: list[ExamTask] = []
    while len(tasks) < size:
        repair = source.make()
        if cannot_be_known(repair) and _can_be_run(repair):
            tasks.append(ExamTask(f"{split}-{len(tasks) + 1:03}", split, random.randrange(NUM_STYLES), repair))
    return tuple(tasks)


_TEST_DATA = re.compile("[a-f]+")
"""Test data holds strings of these letters, in training too; such an identifier would not be new."""
_MESSAGE_WORDS = frozenset(
    """
    a access all an argument arguments as associated at attribute be between but by callable can cannot concatenate
    convert division exceeded expected float found function given has have hashable in index indices instance instances
    int integer integers invalid is item iterable key list literal local long maximum method missing modulo multiple
    must name no non not object of on only operand or out pack positional range referenced required sequence slice step
    str string subscriptable supported takes than the to too tuple type unhashable unpack unsupported value values
    variable was were where with zero
    """.split()  # noqa: SIM905
)
"""What Python's error messages are made of: training has seen these words where programs went wrong."""


def cannot_be_known(task: RepairTask) -> bool:
    """Whether the line that repairs the task cannot occur in training: it has a held-out identifier."""
    line = set(re.findall(r"\w+", task.bugs[0].fixed_line))
    return bool(line & task.identifiers) and not any(map(_stands_elsewhere, task.identifiers))


def _stands_elsewhere(name: str) -> bool:
    """Whether training has the word for another reason than as an identifier."""
    return name in _MESSAGE_WORDS or _TEST_DATA.fullmatch(name) is not None


def _can_be_run(task: RepairTask) -> bool:
    """Whether no package hides a module of the standard library from pytest, which runs in the repository."""
    return not {path.partition("/")[0] for path in task.files} & sys.stdlib_module_names


def _tests(task: RepairTask) -> tuple[str, ...]:
    hidden = {path.removesuffix(".py") + "_hidden.py": names for path, names in task.suites.items()}
    return tuple(f"{path}::test_{name}" for path, names in [*task.suites.items(), *hidden.items()] for name in names)
