"""Commands: what they print, how they end, what they leave."""

import asyncio
import signal

import pytest

from sandbox.errors import SandboxLost, SandboxRejected
from sandbox.types import (
    Backend,
    Command,
    Exited,
    OutputLimit,
    Sandbox,
    SandboxSpec,
    Signalled,
    TimedOut,
)

pytestmark = pytest.mark.anyio

WAIT_FOR = "for i in $(seq 100); do {} && exit 0; sleep 0.05; done; exit 1"


async def test_output_and_error_come_in_the_order_they_were_written(run):
    outcome = await run("echo one; echo two >&2; echo three; exit 7")
    assert isinstance(outcome, Exited)
    assert (outcome.code, outcome.output, outcome.total_bytes) == (7, b"one\ntwo\nthree\n", 14)
    assert outcome.run_s > 0


async def test_a_command_reads_its_input_and_sees_its_variables_and_folder(run):
    outcome = await run("pwd; echo $WHO; cat", stdin=b"bytes \xff\x00", env={"WHO": "nano"}, cwd="/tmp")
    assert outcome.output == b"/tmp\nnano\nbytes \xff\x00"


async def test_input_that_is_not_read_does_not_hold_anything_up(run):
    assert (await run("true", stdin=bytes(2_000_000))).code == 0
    assert (await run("wc -c", stdin=bytes(2_000_000))).output == b"2000000\n"


async def test_a_command_that_closes_its_input_runs_on(run):
    outcome = await run("exec 0<&-; sleep 0.2; echo still here", stdin=bytes(2_000_000))
    assert (outcome.code, outcome.output) == (0, b"still here\n")


async def test_the_end_of_input_is_seen_whatever_else_begins_and_ends_meanwhile(run):
    first, second = await asyncio.gather(run("sleep 0.1"), run("sleep 0.4; wc -c", stdin=bytes(2_000_000)))
    assert (first.code, second.output) == (0, b"2000000\n")


async def test_output_that_is_not_text_is_kept_as_it_is(run):
    assert (await run(r"printf '\xff\xfe\x00caf\xe9'")).output == b"\xff\xfe\x00caf\xe9"


async def test_a_program_that_is_not_there_is_the_commands_own_failure(run):
    outcome = await run("no-such-program --now")
    assert isinstance(outcome, Exited)
    assert outcome.code == 127
    assert b"no-such-program: command not found" in outcome.output


async def test_a_command_ended_by_a_signal_says_which(run):
    outcome = await run("kill -SEGV $$")
    assert isinstance(outcome, Signalled)
    assert outcome.signal == signal.SIGSEGV


async def test_shells_are_fresh_but_files_stay(say):
    await say("cd /tmp; X=1; echo kept > /workspace/file")
    assert await say('echo "$PWD $X $(cat file)"') == "/workspace  kept\n"


async def test_a_line_longer_than_one_argument_may_be_is_run(say):
    line = "# " + "x" * 300_000 + "\necho $0 is still the shell; cat < /dev/null"
    assert "is still the shell" in await say(line)


async def test_commands_run_side_by_side(run):
    first, second = await asyncio.gather(
        run("echo a > a; until [ -e b ]; do sleep 0.01; done"),
        run("until [ -e a ]; do sleep 0.01; done; echo b > b"),
    )
    assert (first.code, second.code) == (0, 0)


NONSENSE: list[dict[str, object]] = [
    {"line": "echo \0"},
    {"cwd": "relative"},
    {"cwd": "/workspace/../etc"},
    {"cwd": "/no/such/folder"},
    {"timeout_s": 0.0},
    {"timeout_s": float("nan")},
    {"env": {"A=B": "c"}},
    {"env": {"A": "\ud800"}},
    {"output_limit_bytes": -1},
    {"stdin": bytes(5_000_000)},
    {"line": "x" * 600_000},
]


async def test_a_command_that_makes_no_sense_is_rejected_and_the_sandbox_goes_on(run):
    for wrong in NONSENSE:
        with pytest.raises(SandboxRejected):
            await run(**{"line": "true", **wrong})
    assert (await run("true")).code == 0


# --- request ids ---------------------------------------------------------------------------------------------------


async def test_a_repeated_request_runs_once(sandbox):
    command = Command("echo ran >> log; cat log", request_id="same", timeout_s=10)
    first = await sandbox.exec(command)
    assert await sandbox.exec(command) is first
    assert await sandbox.read("/workspace/log") == b"ran\n"


async def test_a_request_repeated_while_it_runs_waits_for_the_same_run(sandbox):
    command = Command("sleep 0.1; echo ran >> log", request_id="same", timeout_s=10)
    first, second = await asyncio.gather(sandbox.exec(command), sandbox.exec(command))
    assert first is second
    assert await sandbox.read("/workspace/log") == b"ran\n"


async def test_a_caller_that_gives_up_can_ask_again(sandbox):
    command = Command("sleep 0.2; echo ran >> log", request_id="same", timeout_s=10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sandbox.exec(command), 0.05)
    assert isinstance(await sandbox.exec(command), Exited)
    assert await sandbox.read("/workspace/log") == b"ran\n"


async def test_an_outcome_too_old_to_be_kept_is_refused_and_not_run_again(sandbox):
    def command(name: str) -> Command:
        line = f"echo {name} >> log; head -c 15000000 /dev/zero"
        return Command(line, request_id=name, timeout_s=60, output_limit_bytes=20_000_000)

    for name in ("a", "b", "c"):
        await sandbox.exec(command(name))
    with pytest.raises(SandboxRejected, match="no longer kept"):
        await sandbox.exec(command("a"))
    assert await sandbox.read("/workspace/log") == b"a\nb\nc\n"


# --- deadlines -----------------------------------------------------------------------------------------------------


async def test_at_the_deadline_the_output_so_far_is_kept_and_nothing_is_left_running(run, say):
    daemons = "trap '' TERM; (setsid sh -c 'trap \"\" TERM HUP; exec sleep 4711' &); nohup sleep 4711 & "
    outcome = await run(f"{daemons} echo so far; sleep 4711", timeout_s=0.5)
    assert isinstance(outcome, TimedOut)
    assert (outcome.output, outcome.timeout_s) == (b"so far\n", 0.5)
    assert await say("ps -e -o args | grep -c '[s]leep 4711' || true") == "0\n"


async def test_the_deadline_of_one_command_spares_what_another_left_running(run, say):
    await run("nohup sleep 1234 > /dev/null 2>&1 &")
    await run("(setsid sleep 4711 &); sleep 4711", timeout_s=0.3)
    assert await say("ps -e -o args | grep -o '^sleep .*'") == "sleep 1234\n"


async def test_a_background_process_outlives_its_command_and_what_it_prints_is_dropped(run, say):
    outcome = await run("(while :; do echo noise; sleep 0.01; done; touch never) & echo $! > pid")
    assert isinstance(outcome, Exited)
    await asyncio.sleep(0.1)
    await say("kill -0 $(cat pid) && kill $(cat pid)")


async def test_a_shell_that_ends_is_not_waited_for_on_behalf_of_a_flood_it_left(run):
    outcome = await run("yes & sleep 0.05; exit 3", timeout_s=20)
    assert getattr(outcome, "code", None) == 3 or isinstance(outcome, OutputLimit)


async def test_a_command_that_turns_on_the_process_above_it_takes_all_its_processes_along(run, say):
    outcome = await run("(setsid sleep 4711 &) ; kill -9 $PPID; sleep 4711", timeout_s=3.0)
    # Where the first process of the sandbox is what the shell sees above it, the signal does nothing.
    assert isinstance(outcome, Signalled | TimedOut)
    assert await say("ps -e -o args | grep -c '[s]leep 4711' || true") == "0\n"


async def test_orphans_are_reaped(say):
    await say("for i in $(seq 30); do (setsid true &) ; done")
    await say(WAIT_FOR.format("[ $(ps -e -o stat= | grep -c '^Z') = 0 ]"))


# --- output --------------------------------------------------------------------------------------------------------


async def test_a_flood_of_output_ends_the_command(run, say):
    outcome = await run("(setsid yes &); yes", output_limit_bytes=100_000)
    assert isinstance(outcome, OutputLimit)
    assert len(outcome.output) == outcome.limit_bytes == 100_000
    assert outcome.total_bytes > 100_000
    assert await say("ps -e -o args | grep -c '^yes' || true") == "0\n"


async def test_output_of_exactly_the_limit_is_no_flood(run):
    assert (await run("head -c 100000 /dev/zero", output_limit_bytes=100_000)).code == 0
    assert isinstance(await run("head -c 100001 /dev/zero", output_limit_bytes=100_000), OutputLimit)


# --- the end -------------------------------------------------------------------------------------------------------


async def test_a_closed_sandbox_is_lost_and_may_be_closed_again(backend: Backend):
    sandbox = await backend.acquire(SandboxSpec())
    running = asyncio.create_task(sandbox.exec(Command("sleep 60", "a", 60)))
    await sandbox.exec(Command("true", "b", 10))
    await asyncio.gather(sandbox.close(), sandbox.close())
    await sandbox.close()
    with pytest.raises(SandboxLost):
        await running
    calls = [sandbox.exec(Command("true", "c", 5)), sandbox.exec(Command("true", "b", 5))]
    for call in (*calls, sandbox.read("/x"), sandbox.write("/x", b""), sandbox.upload(b""), sandbox.download()):
        with pytest.raises(SandboxLost):
            await call


async def test_a_sandbox_ends_when_its_lifetime_is_over(backend: Backend):
    sandbox = await backend.acquire(SandboxSpec(lifetime_s=0.3))
    with pytest.raises(SandboxLost):
        await sandbox.exec(Command("sleep 60", "a", 60))
    await sandbox.close()


async def test_an_unknown_image_is_rejected(backend: Backend):
    with pytest.raises(SandboxRejected, match="no-such-image"):
        await backend.acquire(SandboxSpec(image="no-such-image"))


async def test_sandboxes_have_their_own_boot_ids(backend: Backend, sandbox: Sandbox):
    other = await backend.acquire(SandboxSpec())
    outcome = await other.exec(Command("true", "a", 10))
    assert outcome.boot_id == other.boot_id != sandbox.boot_id
    await other.close()
