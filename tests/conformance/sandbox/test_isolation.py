"""What a command must not see, reach or do."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.types import Backend, Capability, Command, Sandbox, SandboxSpec, Signalled
from tests.conformance.sandbox.conftest import SMALL

pytestmark = pytest.mark.anyio

PROBE = Path(__file__).with_name("probe.py")


@pytest.fixture(scope="module")
async def sandbox(backend: Backend) -> AsyncIterator[Sandbox]:
    """One for all these tests: they look, and leave it as it was."""
    sandbox = await backend.acquire(SMALL)
    yield sandbox
    await sandbox.close()


@pytest.fixture
async def probe(sandbox: Sandbox, say):
    """Ask the sandboxed `probe.py` about one thing."""
    await sandbox.write("/workspace/probe.py", PROBE.read_bytes())
    return lambda name, *arguments: say(" ".join(("python -I probe.py", name, *arguments)))


async def test_the_network_is_only_the_sandboxs_own(probe, backend: Backend):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert await probe("connect", "127.0.0.1", str(port)) == "ConnectionRefusedError\n"
    nowhere = {f"OSError: {why}\n" for why in ("Network is unreachable", "Cannot assign requested address")}
    for address in ("192.0.2.1", "169.254.169.254", "2001:db8::1"):
        assert await probe("connect", address, "80") in nowhere
    assert await probe("resolve", "example.org") == "gaierror\n"
    assert await probe("serve") == "served\n"
    assert await probe("interfaces") == ("lo\n" if Capability.NO_DEVICE in backend.capabilities else "lo eth0\n")


async def test_sockets_of_the_host_are_out_of_reach(probe):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0mimo-test-of-abstract-names")
        server.listen()
        assert await probe("abstract", "mimo-test-of-abstract-names") == "ConnectionRefusedError\n"
    assert await probe("family", "40") == "Address family not supported by protocol\n"  # vsock: to the hypervisor
    assert await probe("family", "38") == "Address family not supported by protocol\n"  # kernel cryptography
    assert await probe("family", "17") == "Address family not supported by protocol\n"  # raw frames


async def test_files_of_the_host_are_out_of_sight(say, run, backend: Backend, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for path in (tmp_path, "/etc/shadow", "/etc/ssh", "/run/docker.sock", "/var/lib", Path.home() / ".ssh"):
        assert (await run(f"test -e {path}")).code == 1, path
    plain = Capability.PLAIN_ROOT in backend.capabilities
    names = set((await say("cd /; ls -A")).split())
    assert names <= {
        "bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "mnt", "proc", "root", "run", "sbin", "tmp",
        "usr", "var", "workspace", *(Path(prefix).parts[1] for prefix in (sys.prefix, sys.base_prefix)),
        *(() if plain else ("sys", "sandboxd", ".dockerenv")),
    }  # fmt: skip
    devices = {"fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"}
    assert set((await say("ls -A /dev")).split()) == devices | (set() if plain else {"mqueue", "ptmx", "pts", "tty"})
    assert (await say("ls -A /home")) == "sandbox\n"


async def test_of_roots_home_only_a_python_installation_in_it_is_seen(say, only_with):
    only_with(Capability.HOST)
    seen = (await say("find /root -mindepth 1 -maxdepth 1")).split()
    places = [prefix for prefix in (sys.prefix, sys.base_prefix) if prefix.startswith("/root/")]
    assert set(seen) == {"/".join(place.split("/")[:3]) for place in places}


async def test_processes_of_the_host_are_out_of_sight(say):
    commands = (await say("ps -e -o comm=")).split()
    assert commands[0] == "sandboxd"
    assert len(commands) < 8, commands


@pytest.mark.parametrize("name", ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"])
async def test_every_namespace_is_the_sandboxs_own(say, only_with, name):
    if name in _NAMESPACES:
        only_with(_NAMESPACES[name])
    inside = await say(f"readlink /proc/self/ns/{name}")
    assert inside.startswith(f"{name}:[")
    assert inside.strip() != _namespace_of_the_host(name)


async def test_everything_but_the_work_folders_is_read_only(run, backend: Backend):
    prefix = [sys.prefix] if Capability.HOST in backend.capabilities else []
    for path in ("/", "/usr", "/usr/bin", "/etc", "/home", "/root", "/var", "/dev", "/mnt", "/run", *prefix):
        outcome = await run(f"touch {path}/new")
        assert outcome.code == 1, path
        assert b"Read-only" in outcome.output or b"Permission denied" in outcome.output, path
    for path in ("/workspace", "/tmp", "/var/tmp", "/home/sandbox", "/dev/shm"):
        assert (await run(f"touch {path}/new")).code == 0, path


async def test_no_alarm_of_the_kernels_can_be_set(run, only_with):
    only_with(Capability.PLAIN_ROOT)
    assert b"Read-only file system" in (await run("echo some 150000 2000000 > /proc/pressure/cpu")).output


async def test_the_kernel_cannot_be_configured_from_inside(run, say):
    for path in ("sys/kernel/core_pattern", "sys/kernel/hostname", "sysrq-trigger", "sys/vm/drop_caches"):
        assert (await run(f"echo x > /proc/{path}")).code != 0, path
    assert await say("cat /proc/keys /proc/timer_list") == ""


async def test_the_user_has_no_privilege_and_cannot_get_one(say, run, backend: Backend):
    status = dict(line.split(":\t", 1) for line in (await say("cat /proc/self/status")).splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    if Capability.OWN_ID in backend.capabilities:
        assert "0" not in status["Uid"].split()
    else:
        assert status["Uid"].split() == ["1000"] * 4
        assert await say("id -un") == "sandbox\n"
    assert (await run("chown 0 /workspace")).code != 0
    if Capability.PLAIN_ROOT in backend.capabilities:
        assert await say("grep -E ' (/workspace|/) ' /proc/self/mounts | grep -c nosuid") == "2\n"


async def test_on_the_host_a_command_is_the_service_itself_or_a_user_that_nobody_is(say, only_with):
    only_with(Capability.OWN_USERS)
    marker = str(9_000_000 + os.getpid())
    pid = (await say(f"sleep {marker} > /dev/null 2>&1 & echo $!")).strip()
    async with asyncio.timeout(60):
        while not (users := _users_on_the_host(f"sleep\0{marker}\0".encode())):  # noqa: ASYNC110  # nobody tells us
            await asyncio.sleep(0.01)
    assert users == {os.geteuid()} or min(users) >= 65_536
    await say(f"kill {pid}")


def _users_on_the_host(command: bytes) -> set[int]:
    """Who the processes with this command line run as, seen from outside."""
    users = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            if (folder / "cmdline").read_bytes() == command:
                status = (folder / "status").read_text()
                users |= set(map(int, status.partition("\nUid:\t")[2].partition("\n")[0].split()))
    return users


@pytest.mark.parametrize(
    "call",
    [
        "mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "ptrace", "process_vm_readv", "bpf",
        "perf_event_open", "keyctl", "add_key", "userfaultfd", "io_uring_setup", "kexec_load", "init_module",
        "open_by_handle_at", "open_tree", "fsopen", "mount_setattr", "pidfd_getfd", "kcmp", "reboot", "swapon",
        "io_setup",
    ],
)  # fmt: skip
async def test_calls_that_reach_into_the_kernel_are_refused(probe, call):
    assert await probe("syscall", call) == "EPERM\n"


async def test_namespaces_are_refused_however_they_are_asked_for(probe, run):
    assert await probe("clone_newuser") == "EPERM\n"
    assert await probe("clone3") == "ENOSYS\n"
    assert (await run("unshare -Ur true")).code != 0
    assert (await run("mount -t tmpfs x /tmp")).code != 0


@pytest.mark.parametrize(
    ("family", "kind", "number"),
    [(2, 1, 132), (2, 5, 132), (2, 6, 33), (2, 1, 262), (10, 2, 136), (16, 3, 4), (16, 3, 16)],
)
async def test_no_protocol_is_there_for_which_the_kernel_loads_a_module(probe, family, kind, number):
    assert await probe("protocol", str(family), str(kind), str(number)) == "Protocol not supported\n"


async def test_a_crash_is_no_business_of_the_hosts(run):
    """Where the host pipes cores to a program of its own, only a bound of one byte keeps that from running."""
    outcome = await run("ulimit -c 0; ulimit -c unlimited; grep core /proc/self/limits; kill -SEGV $$")
    assert isinstance(outcome, Signalled)
    assert " ".join(outcome.output.decode().split()) == "Max core file size 1 1 bytes"


async def test_nobody_goes_before_others(run, say):
    for line in (
        "nice -n -5 true",
        "chrt --fifo 1 true",
        "ionice -c realtime true",
        "echo -1 > /proc/self/oom_score_adj",
    ):
        outcome = await run(line)
        assert b"denied" in outcome.output or b"not permitted" in outcome.output, (line, outcome)
    assert int(await say("cat /proc/self/oom_score_adj")) >= 0


async def test_no_mount_is_passed_on_to_the_host(say):
    assert await say("grep -c shared: /proc/self/mountinfo || true") == "0\n"


async def test_terminal_injection_and_the_32_bit_door_are_closed(probe):
    assert await probe("tiocsti") == "EPERM\n"
    assert await probe("line_discipline") == "EPERM\n"
    assert await probe("int80") in ("EPERM\n", "no such door\n")
    assert await probe("prlimit_of_init") == "EPERM\n"


async def test_the_first_process_is_closed_to_its_user(run, say):
    for path in ("mem", "environ", "fd/0", "root/etc", "cwd/etc"):
        assert (await run(f"head -c1 /proc/1/{path}")).code != 0, path
    await run("kill -9 1; kill -STOP 1; kill -TERM 1; kill -CHLD 1; kill -INT 1")
    assert await say("echo alive") == "alive\n"


async def test_the_environment_is_clean(say):
    names = {line.partition("=")[0] for line in (await say("env")).splitlines()}
    assert names == {
        "HOME", "LANG", "LOGNAME", "PAGER", "PATH", "PWD", "PYTHONDONTWRITEBYTECODE", "SHLVL", "TERM", "USER", "_",
    }  # fmt: skip


async def test_a_command_has_three_descriptors_and_a_session_of_its_own(say):
    assert await say("exec ls /proc/self/fd") == "0\n1\n2\n3\n"  # the fourth is ls's own, on the folder
    first, second = (await say("ps -o sid= -p $$ | tr -d ' '; echo $$")).split()
    assert first == second
    assert await say("tty || true") == "not a tty\n"


async def test_sandboxes_do_not_see_each_other(backend: Backend, sandbox: Sandbox, run):
    other = await backend.acquire(SandboxSpec())
    await sandbox.write("/tmp/mine", b"mine")
    await run("nohup sleep 4711 > /dev/null 2>&1 &")
    line = "ls -A /workspace /dev/shm; ls -A /tmp | grep -c mine; ps -e -o args | grep -c '[s]leep 4711'"
    outcome = await other.exec(Command(line, "a", 10))
    assert outcome.output == b"/dev/shm:\n\n/workspace:\n0\n0\n"
    await other.close()


_NAMESPACES = {"user": Capability.OWN_USERS, "cgroup": Capability.OWN_GROUPS}


def _namespace_of_the_host(name: str) -> str:
    return str(Path(f"/proc/self/ns/{name}").readlink())
