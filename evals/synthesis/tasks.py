"""Repair tasks: a small repository, one or more broken lines, visible and hidden tests, a statement.

Every task was executed when it was made. A function is accepted if all its tests pass before the bug and at least one
visible test fails with it; values come from running the function, never from a formula beside it.
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from types import FrameType
from typing import Any

from evals.synthesis.bugs import BugKind, Edit, edits
from evals.synthesis.families import TEMPLATES, Family, composed
from evals.synthesis.names import NameSource, Split

_VISIBLE_CASES = 3
_HIDDEN_CASES = 8
_COMPOSED_SHARE = 0.45
_LETTERS = "abcdxytri"
_DEADLINE_S = 0.05
"""Processor time, not wall time: what is endless must not depend on how busy the machine is, or tasks would."""


@dataclass(frozen=True, slots=True)
class Case:
    """One call with what it must return, as source text."""

    arguments: str
    expected: str


@dataclass(frozen=True, slots=True)
class Function:
    """A correct function with its cases."""

    name: str
    family: str
    path: str
    source: str
    cases: tuple[Case, ...]

    @property
    def visible(self) -> tuple[Case, ...]:
        return self.cases[:_VISIBLE_CASES]

    @property
    def hidden(self) -> tuple[Case, ...]:
        return self.cases[_VISIBLE_CASES:]


@dataclass(frozen=True, slots=True)
class Failure:
    """A case a function gets wrong. ``got`` is the repr of ``value``, or the error where ``raised``."""

    case: Case
    got: str
    value: object
    raised: bool


class Endless(Exception):
    """Synthetic code did not end in time."""


@dataclass(frozen=True, slots=True)
class Bug:
    """A broken line, and the first visible case that fails because of it."""

    function: str
    family: str
    kind: BugKind
    path: str
    broken_line: str
    fixed_line: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class RepairTask:
    """A repository with bugs. ``files`` are what the agent sees, ``fixed`` the same without bugs, ``hidden_tests`` what
    grades. ``suites`` has the functions each test file covers, ``functions`` the correct ones by name."""

    files: dict[str, str]
    fixed: dict[str, str]
    hidden_tests: dict[str, str]
    bugs: tuple[Bug, ...]
    suites: dict[str, tuple[str, ...]]
    functions: dict[str, Function]
    identifiers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which families and bug kinds training never sees; fixed before the first training run."""

    heldout_families: frozenset[str]
    heldout_kinds: frozenset[BugKind]


def load_manifest() -> Manifest:
    fields = json.loads(files("evals.synthesis").joinpath("manifest.json").read_text("utf-8"))
    return Manifest(frozenset(fields["heldout_families"]), frozenset(BugKind(kind) for kind in fields["heldout_kinds"]))


class TaskSource:
    """Makes tasks of one split.

    ``families`` and ``kinds`` say whether the bugs use seen or held-out ones; the functions beside a broken one are
    always of seen families.
    """

    def __init__(
        self,
        random: Random,
        manifest: Manifest,
        *,
        names: Split = "train",
        families: Split = "train",
        kinds: Split = "train",
    ) -> None:
        self._random = random
        self._manifest = manifest
        self._names = NameSource(names, random)
        self._families = families
        self._kinds = kinds
        heldout = manifest.heldout_families
        self._seen = [family for family in TEMPLATES if family.name not in heldout]
        self._unseen = [family for family in TEMPLATES if family.name in heldout]

    def make(self, num_bugs: int = 1) -> RepairTask:
        """One task with ``num_bugs`` broken functions, all in one module."""
        while True:
            task = self._attempt(num_bugs)
            if task is not None:
                return task

    def _attempt(self, num_bugs: int) -> RepairTask | None:
        self._names.reset()
        package = self._names.draw()
        modules = [
            self._module(package, num_bugs if index == 0 else 0)
            for index in range(self._random.choice((1, 1, 2, 2, 3)))
        ]
        functions = modules[0][:num_bugs]
        broken = [self._break(function) for function in functions]
        bugs = [item[0] for item in broken if item is not None]
        if len(bugs) < num_bugs:
            return None
        sources = {function.name: item[1] for function, item in zip(functions, broken, strict=True) if item is not None}
        for module in modules:
            self._random.shuffle(module)
        self._random.shuffle(modules)
        task = self._assemble(package, modules, sources, tuple(bugs))
        text = task.files[bugs[0].path]
        return task if all(text.count(bug.broken_line) == 1 for bug in bugs) else None

    def _module(self, package: str, num_bugs: int) -> list[Function]:
        path = f"{package}/{self._names.draw()}.py"
        num_functions = max(self._random.choice((1, 1, 2, 2, 3)), num_bugs)
        return [self._function(path, broken=index < num_bugs) for index in range(num_functions)]

    def _assemble(
        self, package: str, modules: list[list[Function]], broken: dict[str, str], bugs: tuple[Bug, ...]
    ) -> RepairTask:
        files = {f"{package}/__init__.py": ""}
        fixed = dict(files)
        hidden: dict[str, str] = {}
        suites: dict[str, tuple[str, ...]] = {}
        for module in modules:
            path = module[0].path
            stem = path.removeprefix(f"{package}/").removesuffix(".py")
            tests = f"tests/test_{stem}.py"
            fixed[path] = _joined([function.source for function in module])
            files[path] = _joined([broken.get(function.name, function.source) for function in module])
            fixed[tests] = files[tests] = _tests(package, stem, [(f.name, f.visible) for f in module])
            hidden[f"tests/test_{stem}_hidden.py"] = _tests(package, stem, [(f.name, f.hidden) for f in module])
            suites[tests] = tuple(function.name for function in module)
        functions = {function.name: function for module in modules for function in module}
        return RepairTask(files, fixed, hidden, bugs, suites, functions, frozenset(self._names.used))

    def _function(self, path: str, *, broken: bool) -> Function:
        random = self._random
        while True:
            if broken and self._families == "heldout":
                family = random.choice(self._unseen)
            elif random.random() < _COMPOSED_SHARE:
                family = composed(random)
            else:
                family = random.choice(self._seen)
            function = self._instance(family, path)
            if function is not None:
                return function

    def _instance(self, family: Family, path: str) -> Function | None:
        random = self._random
        used = [letter for letter in _LETTERS if f"{{{letter}}}" in family.body or f"{{{letter}}}" in family.doc]
        values = {letter: self._names.draw() for letter in used}
        values |= {letter: str(random.randint(2, 9)) for letter in "KLM"}
        values["W"] = str(random.randint(1, 2))
        if family.name == "column":
            values["K"] = str(random.randint(0, 1))
        name = self._names.draw()
        parameters = ", ".join(values[letter] for letter in "abcd"[: len(family.arguments)])
        body = "\n".join(f"    {line}" for line in family.body.format(**values).split("\n"))
        source = f'def {name}({parameters}):\n    """{family.doc.format(**values)}"""\n{body}\n'
        cases = tuple(_cases(_compiled(source, name), family, random, int(values["K"])))
        enough = len(cases) == _VISIBLE_CASES + _HIDDEN_CASES and len({case.expected for case in cases}) > 1
        return Function(name, family.name, path, source, cases) if enough else None

    def _break(self, function: Function) -> tuple[Bug, str] | None:
        """A bug of an allowed kind that a visible case proves, with the broken source."""
        heldout = self._manifest.heldout_kinds
        options = [edit for edit in edits(function.source) if (edit.kind in heldout) == (self._kinds == "heldout")]
        kinds = sorted({edit.kind for edit in options})
        for _ in range(3 if options else 0):
            kind = self._random.choice(kinds)
            edit = self._random.choice([option for option in options if option.kind == kind])
            bug = _try_edit(function, edit)
            if bug is not None:
                return bug
        return None


def _try_edit(function: Function, edit: Edit) -> tuple[Bug, str] | None:
    source = edit.apply(function.source)
    try:
        failure = first_failure(source, function.name, function.visible)
    except Endless:
        return None
    if failure is None:
        return None
    fixed_line, broken_line = (text.split("\n")[edit.line].strip() for text in (function.source, source))
    return Bug(function.name, function.family, edit.kind, function.path, broken_line, fixed_line, failure), source


def first_failure(source: str, name: str, cases: tuple[Case, ...]) -> Failure | None:
    """The first case a function gets wrong, or None where every case passes.

    Raises:
        Endless: a call did not end in time.
    """
    call = _compiled(source, name)
    for case in cases:
        try:
            value = _called_in_time(call, case.arguments)
        except Endless:
            raise
        except Exception as error:  # noqa: BLE001 - the error of synthetic code is the result
            return Failure(case, f"{type(error).__name__}: {error}".splitlines()[0], None, raised=True)
        if repr(value) != case.expected:
            return Failure(case, repr(value), value, raised=False)
    return None


def _called_in_time(call: Callable[..., Any], arguments: str) -> Any:
    """The value of a call, tried twice: a pause of the interpreter (garbage collection) can use up the time once."""
    try:
        with _deadline():
            return call(*_values(arguments))
    except Endless:
        with _deadline():
            return call(*_values(arguments))


def _compiled(source: str, name: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(compile(source, "<synthetic>", "exec"), scope)  # noqa: S102 - our own templates
    function: Callable[..., Any] = scope[name]
    return function


def _values(arguments: str) -> list[Any]:
    values: list[Any] = eval(f"[{arguments}]")  # noqa: S307 - literals we made
    return values


def _cases(call: Callable[..., Any], family: Family, random: Random, constant: int) -> Iterator[Case]:
    seen: set[str] = set()
    wanted = _VISIBLE_CASES + _HIDDEN_CASES
    for _ in range(40):
        values = _arguments(family, random, constant)
        arguments = ", ".join(map(repr, values))
        if arguments in seen:
            continue
        seen.add(arguments)
        try:
            expected = repr(call(*values))
        except (IndexError, ValueError, ZeroDivisionError):
            continue
        if len(expected) > 40 or len(arguments) > 60:
            continue
        yield Case(arguments, expected)
        wanted -= 1
        if not wanted:
            return


def _arguments(family: Family, random: Random, constant: int) -> list[Any]:
    size = random.randint(3, 5)
    if family.name == "diagonal":
        return [[[random.randint(0, 9) for _ in range(3)] for _ in range(3)]]
    return [_argument(kind, random, size, constant) for kind in family.arguments]


def _argument(kind: str, random: Random, size: int, constant: int) -> Any:
    def text(low: int = 2, high: int = 5) -> str:
        return "".join(random.choice("abc") for _ in range(random.randint(low, high)))

    match kind:
        case "int":
            return random.choice((random.randint(-4, 12), constant, constant + 1, constant - 1))
        case "pos":
            return random.choice((random.randint(1, 9), constant))
        case "ints":
            pool = [random.randint(-4, 12), *(random.randint(0, 9) for _ in range(size - 1))]
            random.shuffle(pool)
            return pool
        case "str":
            return text(3, 6)
        case "strs":
            return [text(1, 4) for _ in range(size - 1)]
        case "pairs":
            return [(random.choice("ab"), random.randint(0, 9)) for _ in range(size - 1)]
        case "table":
            return {key: random.randint(0, 9) for key in random.sample("abcdef", 3)}
        case "grid":
            return [[random.randint(0, 9) for _ in range(3)] for _ in range(2)]
        case _:
            raise ValueError(f"unknown argument kind {kind}")


def _joined(sources: list[str]) -> str:
    return "\n\n".join(sources)


def _tests(package: str, stem: str, functions: list[tuple[str, tuple[Case, ...]]]) -> str:
    names = ", ".join(sorted(name for name, _ in functions))
    blocks = [f"from {package}.{stem} import {names}\n"]
    for name, cases in functions:
        lines = [f"    assert {name}({case.arguments}) == {case.expected}" for case in cases]
        blocks.append(f"def test_{name}():\n" + "\n".join(lines) + "\n")
    return _joined(blocks)


@contextmanager
def _deadline() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise Endless

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _DEADLINE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
