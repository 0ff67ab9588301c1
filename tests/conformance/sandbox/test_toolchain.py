"""What an agent works with: Python, pytest and git, as on the host."""

import sys

import pytest

from sandbox.types import Capability, Exited, TimedOut

pytestmark = pytest.mark.anyio

# The plugins of whoever runs these tests are no part of what is tested, and slow to load.
PYTEST = "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python -m pytest -q -p no:cacheprovider"


async def test_pytest_runs_and_its_exit_code_is_seen(sandbox, run):
    await sandbox.write("/workspace/calc.py", b"def add(a, b):\n    return a - b\n")
    await sandbox.write(
        "/workspace/test_calc.py", b"from calc import add\n\ndef test_add():\n    assert add(1, 2) == 3\n"
    )
    broken = await run(PYTEST, timeout_s=120)
    assert isinstance(broken, Exited)
    assert broken.code == 1
    assert b"1 failed" in broken.output
    await run("sed -i 's/a - b/a + b/' calc.py")
    mended = await run(PYTEST, timeout_s=120)
    assert mended.code == 0
    assert b"1 passed" in mended.output


async def test_tests_that_never_end_are_ended(sandbox, run):
    await sandbox.write("/workspace/test_loop.py", b"def test_loop():\n    print('begun')\n    while True: pass\n")
    outcome = await run(f"echo start; {PYTEST} -s", timeout_s=3.0)
    assert isinstance(outcome, TimedOut)
    assert outcome.output.startswith(b"start\n")


async def test_python_is_the_one_of_the_service(say, only_with):
    only_with(Capability.HOST)
    assert await say("python -c 'import sys; print(sys.prefix)'") == f"{sys.prefix}\n"
    assert await say("python -c 'import sys; print(sys.version)'") == f"{sys.version}\n"


async def test_python_can_use_several_processes_and_shared_memory(sandbox, say):
    await sandbox.write(
        "/workspace/pool.py",
        b"import multiprocessing\nif __name__ == '__main__':\n"
        b"    with multiprocessing.Pool(2) as pool:\n        print(pool.map(abs, [-1, -2]))\n",
    )
    assert await say("python pool.py") == "[1, 2]\n"


async def test_git_works_in_a_folder_of_anybodys(say):
    await say("git init -q && echo one > file && git add file && git commit -q -m first && echo two >> file")
    assert "+two" in await say("git diff")
    assert await say("git checkout -q file && git status --porcelain && git log --format=%s%n%an") == "first\nsandbox\n"
