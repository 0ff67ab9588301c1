"""Decides whether a patch resolves its task, by tests the agent never saw, in a sandbox it never touched.

The patch is applied to the base commit, the base's own tests are restored, the hidden ones added, and all of them run.
What counts is the test program's report, test by test, together with its exit code. Nothing in the repository can
configure that program: it is told another configuration file, takes no ``conftest.py``, and does not look for modules
in the repository before it has started. What remains: the repaired code runs in the same process as its tests, so
code written to deceive this very grader could; a repair by mistake cannot.
"""

import secrets
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.errors import GitError
from agent.git import git
from agent.patch import TaskRepository
from agent.repository import prepare_repository
from agent.tools.bash import describe_ending
from evals.repository import write_repository
from evals.types import EvalTask, Failing, Grade
from sandbox.errors import SandboxRejected
from sandbox.types import Backend, Command, Exited, Sandbox, SandboxSpec

_DEADLINE_S = 300.0
_MAX_REPORT_BYTES = 4 * 1024 * 1024
_CONFIGURATION = "/tmp/grading/pytest.ini"  # noqa: S108 - the sandbox's own


async def grade(backend: Backend, task: EvalTask, patch: str) -> Grade:
    """Run all tests of ``task`` on its base commit with ``patch``.

    Raises:
        SandboxError: a sandbox could not be had or was lost; says nothing about the patch.
        GitError: the repository could not be made.
    """
    with TemporaryDirectory(prefix="mimo-grading-") as folder:
        archive = await _patched(task, patch, Path(folder))
    if archive is None:
        return Grade(False, Failing.DOES_NOT_APPLY, "the patch does not fit the base commit")
    sandbox = await backend.acquire(SandboxSpec())
    try:
        await sandbox.upload(archive)
        for path, text in task.answers.hidden_tests.items():
            await sandbox.write(f"/workspace/{path}", text.encode())
        return await _run(sandbox, task.answers.tests)
    finally:
        await sandbox.close()


async def _patched(task: EvalTask, patch: str, folder: Path) -> bytes | None:
    """The base commit with the patch and the base's tests, as an archive; None where the patch does not fit."""
    await write_repository(task, folder / "checkout")
    base = await prepare_repository(folder / "checkout", "HEAD", folder / "git")
    repository = TaskRepository(folder / "git")
    tree = base.tree
    if patch:
        # Git applies to an index of its own, where no file or link of the patch can reach anything.
        environment = {"GIT_DIR": str(folder / "git"), "GIT_INDEX_FILE": str(folder / "index")}
        await git("read-tree", base.tree, cwd=folder, environment=environment)
        try:
            await git(
                "apply",
                "--cached",
                "--whitespace=nowarn",
                "-",
                cwd=folder,
                environment=environment,
                stdin=patch.encode(),
            )
        except GitError:
            return None
        tree = (await git("write-tree", cwd=folder, environment=environment)).decode().strip()
    return await repository.archive(await repository.with_base_tests(tree, base.tree))


async def _run(sandbox: Sandbox, tests: tuple[str, ...]) -> Grade:
    # The name cannot be known before, and -P keeps the repository from being searched for pytest itself.
    report = f"/tmp/grading/{secrets.token_hex(8)}.xml"  # noqa: S108 - the sandbox's own
    await sandbox.write(_CONFIGURATION, b"[pytest]\npythonpath = /workspace\n")
    paths = " ".join(dict.fromkeys(test.partition("::")[0] for test in tests))
    line = (
        f"python -P -m pytest -q -c {_CONFIGURATION} --rootdir /workspace --noconftest -p no:cacheprovider "
        f"--junitxml {report} {paths}"
    )
    outcome = await sandbox.exec(Command(line, request_id="grade", timeout_s=_DEADLINE_S))
    if not isinstance(outcome, Exited):
        return Grade(False, Failing.ENDED, describe_ending(outcome))
    try:
        passed = _passed(await sandbox.read(report, _MAX_REPORT_BYTES))
    except (OSError, SandboxRejected, ET.ParseError) as error:
        return Grade(False, Failing.NO_EVIDENCE, f"exit code {outcome.code}, and no report: {error}")
    missing = [test for test in tests if not passed.get(test, False)]
    if missing:
        return Grade(False, Failing.TESTS_FAIL, ", ".join(missing[:5]))
    if outcome.code != 0:
        return Grade(False, Failing.EXIT_CODE, f"exit code {outcome.code}")
    return Grade(True)


def _passed(report: bytes) -> Mapping[str, bool]:
    """Test (``path::name``) -> whether it passed. A name reported twice must have passed twice."""
    passed: dict[str, bool] = {}
    # Bounded in size, and the parser refuses entities that grow.
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314
        test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        wrong = any(child.tag in ("failure", "error", "skipped") for child in case)
        passed[test] = passed.get(test, True) and not wrong
    return passed
