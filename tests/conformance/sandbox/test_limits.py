"""Bombs: each ends as the outcome that names it, and the sandbox is of use afterwards."""

import asyncio
import errno

import pytest

from sandbox.types import Capability, Command, Exited, OomKilled, Resources, SandboxSpec, TimedOut

pytestmark = pytest.mark.anyio


async def test_a_fork_bomb_runs_into_the_bound_and_is_gone_at_the_deadline(run, say):
    for timeout_s in (1.0, 15.0, 60.0):  # a slow machine takes longer to meet the bound
        outcome = await run("bomb() { bomb | bomb & }; bomb; sleep 100", timeout_s=timeout_s)
        assert isinstance(outcome, TimedOut)
        if b"Resource temporarily unavailable" in outcome.output:
            break
    else:
        pytest.fail(f"the bound was not met: {outcome}")
    assert int(await say("ps -e --no-headers | wc -l")) < 10


async def test_processes_left_over_from_a_command_do_not_keep_the_next_from_running(run, say):
    swarm = "import os, time\nwhile True:\n try:\n  os.fork() or time.sleep(4711)\n except OSError: os._exit(7)"
    assert (await run(f"python -c '{swarm}' > /dev/null")).code == 7
    assert await say("echo there is room") == "there is room\n"


async def test_more_commands_than_there_may_be_processes_wait_for_each_other(backend):
    sandbox = await backend.acquire(SandboxSpec(resources=Resources(memory_mib=192, processes=16, disk_mib=48)))
    commands = [Command("exec sleep 0.5", f"call-{number}", 300) for number in range(80)]
    outcomes = await asyncio.gather(*map(sandbox.exec, commands))
    assert {(type(outcome), getattr(outcome, "code", None)) for outcome in outcomes} == {(Exited, 0)}
    await sandbox.close()


async def test_a_process_that_takes_all_memory_is_ended(run, say):
    outcome = await run("python -c 'x = bytearray(2_000_000_000)'")
    # Where there is no control group, the process is refused what it asks for.
    assert isinstance(outcome, OomKilled) or b"MemoryError" in outcome.output
    assert await say("echo alive") == "alive\n"


async def test_processes_that_take_all_memory_together_are_ended(run, say):
    hog = "python -c 'import time; x = bytearray(90_000_000); time.sleep(60)'"
    outcome = await run(f"for i in 1 2 3 4; do {hog} & done; wait")
    assert isinstance(outcome, OomKilled)
    assert await say("echo alive") == "alive\n"


GROWING = "python -c 'import time; x = []\nwhile True: x.append(bytearray(4_000_000)); time.sleep(0.01)'"


async def test_of_two_commands_the_one_that_takes_too_much_memory_is_ended_and_the_other_goes_on(run, say):
    modest = "python -c 'import time; x = bytearray(30_000_000); time.sleep(60)'"
    other = asyncio.create_task(run(f"{modest} & until [ -e go ]; do sleep 0.02; done; kill $! && echo kept", 120))
    outcome = await run(f"{GROWING} & wait; sleep 60", timeout_s=100)
    await say("touch go")
    assert isinstance(outcome, OomKilled)
    assert (await other).output == b"kept\n"


async def test_what_a_command_left_is_ended_for_its_memory_and_the_next_command_is_not(run):
    await run(f"{GROWING} > /dev/null 2>&1 & echo $! > pid")
    outcome = await run("while kill -0 $(cat pid) 2> /dev/null; do sleep 0.02; done; echo gone", timeout_s=100)
    assert isinstance(outcome, Exited)
    assert outcome.output == b"gone\n"


async def test_a_full_disk_is_an_error_of_the_command_and_of_the_call_that_meet_it(run, sandbox, say):
    outcome = await run("dd if=/dev/zero of=/workspace/big bs=1M")
    assert isinstance(outcome, Exited)
    assert outcome.code != 0
    assert b"No space left on device" in outcome.output
    with pytest.raises(OSError, match="No space left") as caught:
        await sandbox.write("/workspace/small", bytes(200_000))
    assert caught.value.errno == errno.ENOSPC
    assert "small" not in await say("ls -A /workspace")
    await say("rm /workspace/big")
    await sandbox.write("/workspace/small", bytes(200_000))


async def test_files_without_end_are_an_error_of_the_command_that_makes_them(run, say, backend):
    endless = "import itertools, os\nfor n in itertools.count(): os.mknod(f'many/{n}')"
    outcome = await run(f'mkdir many; python -c "{endless}"', timeout_s=120)
    if Capability.BOUNDED_FILES in backend.capabilities:
        assert b"No space left on device" in outcome.output, outcome
        assert await say("rm -r many; echo room > file; cat file") == "room\n"
    else:
        # Without a control group, the kernel's own bound may be met first.
        assert isinstance(outcome, OomKilled) or b"No space left on device" in outcome.output, outcome
        assert await say("echo alive") == "alive\n"


async def test_the_bound_of_the_disk_is_for_all_folders_together(run, only_with):
    only_with(Capability.ONE_DISK)
    outcome = await run(
        "for d in /workspace /tmp /var/tmp /home/sandbox /dev/shm; do head -c 20000000 /dev/zero > $d/f || exit 9; done"
    )
    assert outcome.code == 9
