"""Verdicts from checks that really run, in sandboxes the agent never touched."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.types import Check, Verdict, VerdictKind
from agent.verdict import reach_verdict
from sandbox.archive import pack
from sandbox.types import SandboxSpec
from tests.integration.agent_core.checkouts import Content, unpack, write
from tests.integration.agent_core.conftest import Desk

pytestmark = pytest.mark.anyio

RUN = "PYTHONPATH=. python -B -c 'from tests.test_calc import test_add as t; t()'"
FIXED = {"calc.py": "def add(a, b):\n    return a + b\n"}
BASE_PASSES = "python -B -c 'import calc'"


async def verdict(
    desk: Desk,
    tmp_path: Path,
    changes: Mapping[str, Content],
    *checks: str,
    timeout_s: float = 60.0,
    logs: dict[str, bytes] | None = None,
) -> Verdict:
    root = unpack(await desk.repository.archive(desk.base_tree), tmp_path / "left behind")
    write(root, changes)
    tree = await desk.repository.snapshot(pack(root), desk.base_tree)
    wanted = [Check(command=command, timeout_s=timeout_s) for command in checks]

    async def keep(name: str, data: bytes) -> None:
        if logs is not None:
            logs[name] = data

    return await reach_verdict(desk.backend, SandboxSpec(), desk.repository, desk.base_tree, tree, wanted, keep)


async def test_no_change_needs_no_check(desk: Desk, tmp_path: Path) -> None:
    assert (await verdict(desk, tmp_path, {}, RUN)).kind is VerdictKind.NO_CHANGE


async def test_a_change_without_checks_is_unverified(desk: Desk, tmp_path: Path) -> None:
    assert (await verdict(desk, tmp_path, FIXED)).kind is VerdictKind.UNVERIFIED


async def test_a_repair_that_passes_its_check_is_verified_with_evidence(desk: Desk, tmp_path: Path) -> None:
    reached = await verdict(desk, tmp_path, FIXED, f"{RUN} && echo fine", "git diff --stat; git log --oneline")
    assert reached.kind is VerdictKind.VERIFIED
    first, second = reached.evidence
    assert (first.exit_code, first.passed, first.passed_before, first.output) == (0, True, None, "fine\n")
    assert "calc.py" in second.output
    assert second.output.count("base") == 1
    assert len(first.tree) == 40
    assert first.duration_s > 0


async def test_a_change_that_repairs_nothing_is_unverified(desk: Desk, tmp_path: Path) -> None:
    reached = await verdict(desk, tmp_path, {"other.py": "1\n"}, RUN)
    assert (reached.kind, reached.evidence[0].passed_before) == (VerdictKind.UNVERIFIED, False)
    assert "AssertionError" in reached.evidence[0].output


async def test_some_passing_checks_make_it_partly_verified(desk: Desk, tmp_path: Path) -> None:
    reached = await verdict(desk, tmp_path, FIXED, RUN, "false")
    assert reached.kind is VerdictKind.PARTLY_VERIFIED


async def test_breaking_what_passed_before_is_a_regression(desk: Desk, tmp_path: Path) -> None:
    reached = await verdict(desk, tmp_path, {"calc.py": "syntax error"}, "true", BASE_PASSES)
    assert reached.kind is VerdictKind.REGRESSED
    assert [evidence.passed_before for evidence in reached.evidence] == [None, True]


async def test_weakened_tests_are_put_back_before_the_checks_run(desk: Desk, tmp_path: Path) -> None:
    reached = await verdict(desk, tmp_path, {"tests/test_calc.py": "def test_add(): pass\n"}, RUN)
    assert reached.kind is VerdictKind.UNVERIFIED


async def test_a_check_without_end_fails_and_says_so(desk: Desk, tmp_path: Path) -> None:
    reached = await verdict(desk, tmp_path, FIXED, "echo begun; sleep 600", timeout_s=1.0)
    (evidence,) = reached.evidence
    assert (evidence.exit_code, evidence.passed, evidence.passed_before) == (None, False, False)
    assert evidence.output.startswith("begun\n\n[timed out")


async def test_all_that_a_check_wrote_is_kept_also_what_it_wrote_before(desk: Desk, tmp_path: Path) -> None:
    logs: dict[str, bytes] = {}

    await verdict(desk, tmp_path, FIXED, "seq 2000", "cat calc.py; false", logs=logs)

    assert list(logs) == ["checks/1.log", "checks/2.log", "checks/2.before.log"]
    assert len(logs["checks/1.log"].split()) == 2000
    assert (b"a + b" in logs["checks/2.log"], b"a + b" in logs["checks/2.before.log"]) == (True, False)


async def test_evidence_keeps_the_end_of_a_long_output(desk: Desk, tmp_path: Path) -> None:
    reached = await verdict(desk, tmp_path, FIXED, "yes | head -c 9000; echo; echo last; printf '\\351'")
    output = reached.evidence[0].output
    assert len(output) == 4000
    assert output.endswith("last\n\N{REPLACEMENT CHARACTER}")
