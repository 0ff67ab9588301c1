"""File calls are made for the service, on paths and of content that a hostile program has laid out."""

import asyncio
import io
import tarfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.archive import unpack_hostile
from sandbox.errors import SandboxRejected
from sandbox.types import Command, Sandbox
from tests.security.conftest import Acquire, line, run, tried

pytestmark = pytest.mark.anyio

_SWAPPING_S = 1.0


@pytest.fixture
async def sandbox(acquire: Acquire) -> Sandbox:
    return await acquire()


_Entry = tuple[str, bytes, dict[str, object]]


def _tar(*entries: _Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, fields in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


async def _while_swapping(sandbox: Sandbox, attempt: str, target: str, act: Callable[[], Awaitable[object]]) -> None:
    """Do it again and again while a program exchanges `/workspace/swapped` for a link to ``target``, and back."""
    swapping = asyncio.create_task(tried(sandbox, attempt, target, _SWAPPING_S))
    while not swapping.done():
        with suppress(SandboxRejected, OSError):
            await act()
    assert await swapping == {"swapped": "done"}


@pytest.mark.parametrize("call", ["upload", "upload below", "write"])
async def test_what_is_put_into_a_sandbox_goes_nowhere_a_link_leads(call: str, sandbox: Sandbox) -> None:
    files: list[_Entry] = [(f"swapped/{number}", b"escaped", {}) for number in range(50)]
    calls: dict[str, Callable[[], Awaitable[None]]] = {
        "upload": lambda: sandbox.upload(_tar(*files)),
        "upload below": lambda: sandbox.upload(_tar(("file", b"escaped", {})), "/workspace/swapped"),
        "write": lambda: sandbox.write("/workspace/swapped/file", b"escaped"),
    }
    await run(sandbox, "mkdir /tmp/elsewhere")
    await _while_swapping(sandbox, "links.folder", "/tmp/elsewhere", calls[call])
    assert (await run(sandbox, "ls -A /tmp/elsewhere")).output == b""


async def test_no_call_reads_what_a_link_leads_to(sandbox: Sandbox) -> None:
    await sandbox.write("/tmp/elsewhere/secret", b"the secret")
    read: list[bytes] = []

    async def act() -> None:
        read.append(await sandbox.download("/workspace"))
        read.append(await sandbox.read("/workspace/swapped"))

    await _while_swapping(sandbox, "links.file", "/tmp/elsewhere/secret", act)
    assert read
    assert not [data for data in read if b"the secret" in data]


@pytest.mark.parametrize(
    "entries",
    [
        [("../tmp/escaped", b"x", {})],
        [("/tmp/escaped", b"x", {})],
        [("a/../../tmp/escaped", b"x", {})],
        [("to", b"", {"type": tarfile.SYMTYPE, "linkname": "/tmp"}), ("to/escaped", b"x", {})],
        [("to", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})],
        [("memory", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 1})],
    ],
    ids=["up", "absolute", "up again", "through a link", "hard link", "device"],
)
async def test_an_archive_that_leads_elsewhere_is_refused_in_the_sandbox(
    entries: list[_Entry], prison: Sandbox
) -> None:
    with pytest.raises((SandboxRejected, OSError)):
        await prison.upload(_tar(*entries))
    outcome = await run(prison, "ls -d /tmp/escaped /workspace/memory; stat -c %h /etc/passwd")
    assert outcome.output.splitlines()[-1] == b"1"
    assert outcome.output.count(b"No such file") == 2


async def test_an_uploaded_file_has_nobodys_rights(prison: Sandbox) -> None:
    await prison.upload(_tar(("rights", b"x", {"mode": 0o6755, "uid": 0, "gid": 0, "uname": "root"})))
    assert (await run(prison, "[ -O rights ] && stat -c %a rights")).output == b"755\n"


def _outside_of(folder: Path) -> list[Path]:
    return [path for path in folder.parent.iterdir() if path != folder]


async def test_what_comes_out_of_a_sandbox_stays_where_it_is_put(sandbox: Sandbox, tmp_path: Path) -> None:
    """Names that lead out, links that point at the host, and names that are no text."""
    await run(
        sandbox,
        "ln -s /etc/passwd passwd; ln -s ../../../../../../etc up; ln -s / root; mkfifo pipe; touch -- '-rf' '..x' '*';"
        "touch $'new\\nline' $'caf\\xe9' $'\\e[2J'; mkdir '...' ; chmod 6777 '*'; truncate -s 4M hole",
    )
    inside = tmp_path / "inside"
    inside.mkdir()
    unpack_hostile(await sandbox.download(), inside)
    assert _outside_of(inside) == []
    assert (inside / "passwd").is_symlink()
    assert (inside / "*").stat().st_mode & 0o7000 == 0


async def test_a_file_of_any_length_costs_no_more_than_was_allowed(sandbox: Sandbox) -> None:
    await run(sandbox, "truncate -s 1T hole; ln -s /dev/zero zero; mkfifo pipe")
    for path in ("hole", "zero", "pipe"):
        with pytest.raises(SandboxRejected):
            await sandbox.read(f"/workspace/{path}", max_bytes=1000)
    with pytest.raises(SandboxRejected):
        await sandbox.download(max_bytes=1_000_000)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/shadow",
        "a\0b",
        "x" * 300,
        "y" * 5000,
        "d/" * 3000,
        "caf\udce9",
        "new\nline",
        "\x1b]0;title\x07",
        "-rf",
    ],
    ids=["up", "nul", "long", "longer", "deep", "no text", "two lines", "terminal", "option"],
)
async def test_a_name_is_a_name_or_is_refused(name: str, prison: Sandbox) -> None:
    path = f"/workspace/{name}"
    try:
        await prison.write(path, b"mine")
    except (SandboxRejected, OSError):
        return
    assert await prison.read(path) == b"mine"
    outcome = await prison.exec(Command('cat -- "$NAME"', f"name-{name!r}"[:60], 20, env={"NAME": name}))
    assert outcome.output == b"mine"


async def test_no_name_hides_a_second_command(prison: Sandbox) -> None:
    with pytest.raises(SandboxRejected):
        await run(prison, "echo one\0echo two")
    with pytest.raises(SandboxRejected):
        await prison.exec(Command("true", "two", 10, env={"A": "b\0LD_PRELOAD=/tmp/x.so"}))
    with pytest.raises(SandboxRejected):
        await prison.exec(Command("true", "three", 10, cwd="/workspace\0/tmp"))
    assert (await run(prison, line("kernel.bpf"))).output.count(b"EPERM") == 2
