"""Local sandboxes and the kernel's control groups, of the version at hand and, in a virtual machine, of version 2."""

import asyncio
import contextlib
import io
import os
import sys
from pathlib import Path

import pytest

from deploy.vm.machine import missing, run
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.types import Resources, SandboxSpec
from tests.conformance.sandbox.makers import MAKERS, made_by

pytestmark = pytest.mark.anyio

_GROUPS = Path("/sys/fs/cgroup")
_VM_TIMEOUT_S = 1500.0
_CHOSEN = (
    "test_a_local_sandbox_is_in_a_group_with_its_bounds",
    "test_a_fork_bomb_runs_into_the_bound_and_is_gone_at_the_deadline",
    "test_a_process_that_takes_all_memory_is_ended",
    "test_processes_that_take_all_memory_together_are_ended",
    "test_of_two_commands_the_one_that_takes_too_much_memory_is_ended_and_the_other_goes_on",
)


def _groups_with(memory_bytes: int) -> list[Path]:
    """Those of sandboxes whose bound of memory is just this."""
    found = []
    for folder, _, files in os.walk(_GROUPS):
        for bound in {"memory.max", "memory.limit_in_bytes"} & set(files):
            with contextlib.suppress(OSError):  # others' groups go meanwhile
                if "/mimo-sandbox-" in folder and Path(folder, bound).read_text().strip() == str(memory_bytes):
                    found.append(Path(folder))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="control groups need the superuser, or what he lets others have")
@pytest.mark.parametrize("maker", MAKERS)
async def test_a_local_sandbox_is_in_a_group_with_its_bounds(maker: str) -> None:
    backend = open_backend("local", SandboxSettings(namespaces="root", local=made_by(maker)))
    try:
        sandbox = await backend.acquire(SandboxSpec(resources=Resources(memory_mib=203, disk_mib=101)))
        (group,) = _groups_with(304 * 2**20)
        assert (group / "cgroup.procs").read_text(), "nothing of the sandbox is in it"
        await sandbox.close()
        async with asyncio.timeout(60):
            while group.exists():  # noqa: ASYNC110  # nobody tells us
                await asyncio.sleep(0.01)
    finally:
        await backend.close()


@pytest.mark.skipif(bool(missing()), reason=f"a virtual machine needs {missing()}")
@pytest.mark.timeout(_VM_TIMEOUT_S + 60)
def test_bounds_hold_under_version_2_of_control_groups() -> None:
    """Where the kernel here has version 1. The machine has version 2 alone."""
    made_by("bubblewrap")
    chosen = f"(local-root or local-bubblewrap or is_in_a_group) and ({' or '.join(_CHOSEN)})"
    files = (str(Path(__file__).relative_to(Path.cwd())), "tests/conformance/sandbox/test_limits.py")
    output = io.StringIO()
    code = run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "--color=no", "-k", chosen, *files],
        timeout_s=_VM_TIMEOUT_S,
        output=output,
    )
    assert code == 0, output.getvalue()
    assert f"{len(MAKERS) * len(_CHOSEN)} passed" in output.getvalue()
