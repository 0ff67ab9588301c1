"""A virtual machine for one command. QEMU emulates the processor, so all of it takes some ten times as long; with the
real one's help (KVM), machines that are virtual themselves were seen to stop."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from deploy.vm.kernel import Kernel, VmError, fetched

_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
}
_FILE_SERVER = Path("/usr/lib/qemu/virtiofsd")
"""Comes with Debian's QEMU."""
_MEMORY = "4G"
_ENDED = re.compile(r"^command ended with (\d+)\s*$")
_PASSED_ON = ("HOME", "PATH", "LANG")


def packages() -> list[str]:
    """The Debian packages that have to be installed before one can run."""
    absent = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if not _FILE_SERVER.exists():
        absent.add("qemu-system-x86")
    return sorted(absent)


def missing() -> str:
    """Why there can be none; "" where nothing is missing."""
    if os.uname().machine != "x86_64":
        return "an x86-64 machine"
    if os.geteuid() != 0:
        return "the superuser, whose files the virtual machine sees"
    if absent := packages():
        return f"the Debian packages {' '.join(absent)}"
    return "" if fetched() else "a kernel (python -m deploy.vm --fetch)"


def run(command: Sequence[str], *, timeout_s: float, output: TextIO) -> int:
    """Run a command in this folder and under this environment's home, path and language; its exit code.

    Args:
        output: gets what it prints, as it comes.

    Raises:
        VmError: something is missing, or the machine ended, or was ended after ``timeout_s``, before the command did.
    """
    if absent := missing():
        raise VmError(f"a virtual machine needs {absent}")
    kernel = fetched()
    assert kernel is not None, "missing() has looked"
    with tempfile.TemporaryDirectory(prefix="mimo-vm-") as folder:
        initrd = _initrd(kernel, _script(command, Path.cwd(), os.environ), Path(folder))
        with _files(Path(folder, "files.sock")) as socket:
            return _follow(_boot(kernel, initrd, socket), timeout_s, output)


def _script(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    variables = [f"export {name}={shlex.quote(environment[name])}" for name in _PASSED_ON if name in environment]
    lines = (
        "exec </dev/null >/dev/console 2>&1",
        *variables,
        f"cd {shlex.quote(str(folder))}",
        shlex.join(command),
        "code=$?",
        'echo; echo "command ended with $code"',
        "echo o >/proc/sysrq-trigger",
        "sleep 60",
    )
    return "\n".join(lines) + "\n"


def _initrd(kernel: Kernel, script: str, folder: Path) -> Path:
    """The files in memory that the machine begins with."""
    root = folder / "root"
    for name in ("bin", "modules", "proc", "dev", "below", "above", "files"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None, "missing() has looked"
    shutil.copy(busybox, root / "bin" / "busybox")
    for module in kernel.modules:
        shutil.copy(module, root / "modules" / module.name)
    (root / "modules" / "order").write_text("\n".join(module.name for module in kernel.modules))
    shutil.copy(Path(__file__).with_name("init.sh"), root / "init")
    (root / "init").chmod(0o755)
    (root / "command.sh").write_text(script)
    archive = folder / "initrd"
    names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*"))
    with archive.open("wb") as file:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=root, input=names.encode(), stdout=file, check=True)
    return archive


@contextmanager
def _files(socket: Path) -> Iterator[Path]:
    """Serves this machine's files at a socket."""
    options = ("source=/", "cache=always", "sandbox=chroot")
    command = [str(_FILE_SERVER), f"--socket-path={socket}", *(part for option in options for part in ("-o", option))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not socket.exists():
                if server.poll() is not None:
                    raise VmError(f"{_FILE_SERVER} ended with {server.returncode} before it served anything")
                time.sleep(0.05)
            yield socket
        finally:
            server.terminate()


def _boot(kernel: Kernel, initrd: Path, socket: Path) -> list[str]:
    devices = (
        ("-object", f"memory-backend-memfd,id=memory,size={_MEMORY},share=on"),
        ("-numa", "node,memdev=memory"),
        ("-chardev", f"socket,id=files,path={socket}"),
        ("-device", "vhost-user-fs-pci,chardev=files,tag=host"),
        ("-kernel", str(kernel.image)),
        ("-initrd", str(initrd)),
        ("-append", "console=ttyS0 loglevel=1 panic=-1 random.trust_cpu=on"),
        ("-net", "none"),
        ("-vga", "none"),
        ("-display", "none"),
        ("-serial", "stdio"),
    )
    options: Iterable[str] = (part for pair in devices for part in pair)
    return ["qemu-system-x86_64", "-m", _MEMORY, "-cpu", "max", "-no-reboot", *options]


def _follow(command: Sequence[str], timeout_s: float, output: TextIO) -> int:
    """Copy what the machine's console says, until it is off."""
    code = None
    watched = ["timeout", str(timeout_s), *command]
    with subprocess.Popen(
        watched, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as machine:
        assert machine.stdout is not None
        try:
            for line in machine.stdout:
                if found := _ENDED.match(line):
                    code = int(found[1])
                else:
                    output.write(line)
                    output.flush()
        finally:
            machine.terminate()
    if code is None:
        raise VmError(
            f"the virtual machine ended (exit code {machine.returncode}; 124: after {timeout_s:g} s) too early"
        )
    return code
