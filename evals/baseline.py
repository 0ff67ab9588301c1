"""What a program without a model reaches: try every single-place edit until the visible tests pass.

It sees what the agent sees, and has one advantage: its list of edits is the one bugs are made from.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from agent.rate import Rate, rate
from evals.report import interval, percent
from evals.suite import ExamTask
from evals.synthesis.bugs import edits
from evals.synthesis.tasks import Case, Endless, Function, RepairTask, first_failure


@dataclass(frozen=True, slots=True)
class Enumeration:
    """One task, tried by enumeration."""

    resolved: bool
    """The first candidate that passes the visible tests passes the hidden ones too."""
    survived: bool
    """A candidate passes the visible tests."""
    num_candidates: int
    """Tried, up to and with the one that passed."""


class BaselineSplit(BaseModel):
    """One split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enumeration: Rate
    mean_candidates: float
    """Edits tried per task, until one passed or none was left."""
    survivors: int
    """Tasks for which an edit passed the visible tests, right or not."""
    random_edit: Rate
    """One random edit of a failing function instead of all."""


def measure(tasks: Iterable[ExamTask], seed: int = 0) -> BaselineSplit:
    """Both baselines on the tasks of a split. Runs candidates in this process, in its main thread."""
    repairs = [task.repair for task in tasks]
    tried = [enumerate_edits(repair) for repair in repairs]
    random = Random(seed)
    return BaselineSplit(
        enumeration=rate(result.resolved for result in tried),
        mean_candidates=round(sum(result.num_candidates for result in tried) / max(len(tried), 1), 2),
        survivors=sum(result.survived for result in tried),
        random_edit=rate(edit_at_random(repair, random) for repair in repairs),
    )


def show(splits: Mapping[str, BaselineSplit], console: Console) -> None:
    """A table for people."""
    table = Table(box=None, header_style="bold")
    for heading in ("split", "enumeration", "rate", "95 %", "edits tried", "one random edit"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in splits.items():
        found, by_chance = split.enumeration, split.random_edit
        table.add_row(
            name,
            f"{found.resolved}/{found.total}",
            percent(found.rate),
            interval(found),
            f"{split.mean_candidates:.1f}",
            f"{by_chance.resolved}/{by_chance.total}",
        )
    console.print(table)


def enumerate_edits(task: RepairTask) -> Enumeration:
    """Every edit of every function in modules with failing tests, in the order of the files."""
    num_candidates = 0
    for functions in _failing_modules(task):
        sources = _sources(task.files[functions[0].path])
        failing = {f.name for f in functions if not _passes(sources[f.name], f.name, f.visible)}
        for function in functions:
            source = sources[function.name]
            for edit in edits(source):
                num_candidates += 1
                candidate = edit.apply(source)
                # An edit of one function leaves the tests of the others as they are.
                if failing <= {function.name} and _passes(candidate, function.name, function.visible):
                    resolved = _passes(candidate, function.name, function.hidden)
                    return Enumeration(resolved, survived=True, num_candidates=num_candidates)
    return Enumeration(resolved=False, survived=False, num_candidates=num_candidates)


def edit_at_random(task: RepairTask, random: Random) -> bool:
    """Whether one random edit of a function whose test fails resolves the task."""
    broken = [
        (function, source)
        for functions in _failing_modules(task)
        for function in functions
        if not _passes(source := _sources(task.files[function.path])[function.name], function.name, function.visible)
    ]
    function, source = random.choice(broken)
    options = edits(source)
    return bool(options) and _passes(random.choice(options).apply(source), function.name, function.cases)


def _failing_modules(task: RepairTask) -> Iterable[list[Function]]:
    for names in task.suites.values():
        functions = [task.functions[name] for name in names]
        sources = _sources(task.files[functions[0].path])
        if not all(_passes(sources[function.name], function.name, function.visible) for function in functions):
            yield functions


def _sources(module: str) -> dict[str, str]:
    """Function name -> its source, as it stands in the file."""
    lines = module.split("\n")
    nodes = [node for node in ast.parse(module).body if isinstance(node, ast.FunctionDef)]
    return {node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) + "\n" for node in nodes}


def _passes(source: str, name: str, cases: tuple[Case, ...]) -> bool:
    try:
        return first_failure(source, name, cases) is None
    except Endless:
        return False
