"""Right solutions resolve, nothing else does."""

from difflib import unified_diff

import pytest

from evals.grading import grade
from evals.suite import SPLITS, eval_task, nano_heldout
from evals.types import EvalTask, Failing
from sandbox.types import Backend

from .conftest import gold_patch

pytestmark = pytest.mark.anyio


@pytest.fixture
def task() -> EvalTask:
    return eval_task(nano_heldout("heldout_names", 1)[0])


@pytest.mark.parametrize("split", SPLITS)
async def test_the_right_solutions_resolve(backend: Backend, split: str) -> None:
    for task in map(eval_task, nano_heldout(split, 6)):
        graded = await grade(backend, task, gold_patch(task))
        assert graded.resolved, (task.id, graded)


@pytest.mark.parametrize("split", SPLITS)
async def test_no_patch_resolves_nothing(backend: Backend, split: str) -> None:
    for task in map(eval_task, nano_heldout(split, 2)):
        graded = await grade(backend, task, "")
        assert (graded.resolved, graded.failing) == (False, Failing.TESTS_FAIL), task.id


async def test_a_patch_that_does_not_fit_is_the_models_failure(backend: Backend, task: EvalTask) -> None:
    path, text = next((path, text) for path, text in task.files.items() if text)
    assert (await grade(backend, task, changed(path, text + "\n\n", "other\n"))).failing is Failing.DOES_NOT_APPLY
    assert (await grade(backend, task, "no diff at all\n")).failing is Failing.DOES_NOT_APPLY


async def test_a_repair_of_the_visible_cases_alone_does_not_resolve(backend: Backend) -> None:
    exam = nano_heldout("heldout_names", 1)[0]
    task, bug = eval_task(exam), exam.repair.bugs[0]
    function = exam.repair.functions[bug.function]
    lines = [f"def {bug.function}(*args):"]
    lines += [f"    if args == ({case.arguments},):\n        return {case.expected}" for case in function.visible]
    cheat = task.files[bug.path] + "\n\n" + "\n".join(lines) + "\n"
    graded = await grade(backend, task, changed(bug.path, task.files[bug.path], cheat))
    assert (graded.resolved, graded.failing) == (False, Failing.TESTS_FAIL)
    assert "hidden" in graded.detail


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("conftest.py", "def pytest_runtest_makereport(item, call):\n    raise SystemExit(0)\n"),
        ("pytest.py", "print('5 passed')\n"),
        ("pytest.ini", "[pytest]\naddopts = --collect-only\n"),
        ("sitecustomize.py", "import os\nos._exit(0)\n"),
        ("tests/conftest.py", "collect_ignore_glob = ['*']\n"),
    ],
)
async def test_files_that_would_steer_the_test_program_have_no_say(
    backend: Backend, task: EvalTask, path: str, text: str
) -> None:
    graded = await grade(backend, task, changed(path, "", text))
    assert (graded.resolved, graded.failing) == (False, Failing.TESTS_FAIL)


async def test_code_that_ends_the_test_program_leaves_no_evidence(backend: Backend, task: EvalTask) -> None:
    path = next(path for path in task.files if path.startswith("tests/"))
    module = next(path for path, text in task.files.items() if text and not path.startswith("tests/"))
    patch = changed(module, task.files[module], "import os\nos._exit(0)\n")
    patch += changed(path, task.files[path], "def test_nothing():\n    pass\n")
    graded = await grade(backend, task, patch)
    assert (graded.resolved, graded.failing) == (False, Failing.NO_EVIDENCE)


async def test_weakened_tests_are_restored(backend: Backend, task: EvalTask) -> None:
    patch = "".join(changed(path, text, "") for path, text in task.files.items() if path.startswith("tests/"))
    graded = await grade(backend, task, patch)
    assert (graded.resolved, graded.failing) == (False, Failing.TESTS_FAIL)


def changed(path: str, old: str, new: str) -> str:
    """A diff that changes, makes or empties one file."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    lines = unified_diff(before, after, f"a/{path}" if old else "/dev/null", f"b/{path}")
    return f"diff --git a/{path} b/{path}\n" + ("" if old else "new file mode 100644\n") + "".join(lines)
