"""File calls: whole, bounded, and never through a link."""

import asyncio
import contextlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from sandbox.archive import pack, unpack_hostile
from sandbox.errors import SandboxRejected

pytestmark = pytest.mark.anyio


async def test_what_is_written_can_be_read_and_run(sandbox, say):
    await sandbox.write("/workspace/new/folder/file", b"\xff\x00bytes")
    assert await sandbox.read("/workspace/new/folder/file") == b"\xff\x00bytes"
    assert await say("[ -O new/folder/file ] && stat -c %a new/folder/file") == "644\n"


async def test_writing_replaces_the_file_and_keeps_its_mode(sandbox, say):
    await say("echo 'echo old' > tool; chmod 750 tool")
    await sandbox.write("/workspace/tool", b"echo new\n")
    assert await say("./tool; stat -c %a tool; ls -A") == "new\n750\ntool\n"


async def test_a_large_file_goes_in_and_out(sandbox):
    data = os.urandom(5_000_000)
    await sandbox.write("/workspace/large", data)
    assert await sandbox.read("/workspace/large") == data


async def test_a_call_whose_caller_gives_up_does_not_land_on_a_later_one(sandbox, say):
    for delay in (0, 0.001, 0.01, 0.1):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sandbox.write("/workspace/file", bytes(30_000_000)), delay)
    await sandbox.write("/workspace/file", b"whole")
    assert await say("cat file") == "whole"


async def test_reading_says_what_is_wrong(sandbox, run):
    await run("mkdir folder; mkfifo pipe; echo 12345 > file; chmod 0 file")
    with pytest.raises(FileNotFoundError):
        await sandbox.read("/workspace/missing")
    with pytest.raises(IsADirectoryError):
        await sandbox.read("/workspace/folder")
    with pytest.raises(PermissionError):
        await sandbox.read("/workspace/file")
    with pytest.raises(SandboxRejected, match="not a regular file"):
        await sandbox.read("/workspace/pipe")
    with pytest.raises(SandboxRejected, match="not a regular file"):
        await sandbox.read("/dev/zero")
    for path in ("relative", "/workspace/../etc/passwd", "/a\0b", "/" + "x" * 5000):
        with pytest.raises(SandboxRejected):
            await sandbox.read(path)


async def test_a_file_over_the_bound_is_rejected(sandbox):
    await sandbox.write("/workspace/file", bytes(1001))
    assert len(await sandbox.read("/workspace/file", max_bytes=1001)) == 1001
    with pytest.raises(SandboxRejected, match="larger than 1000"):
        await sandbox.read("/workspace/file", max_bytes=1000)


async def test_links_are_not_followed(sandbox, run, say):
    await run("mkdir real; echo secret > real/file; ln -s real/file link; ln -s real folder; ln -s /nowhere dangling")
    for path in ("link", "folder/file", "dangling"):
        with pytest.raises(SandboxRejected, match="symbolic link"):
            await sandbox.read(f"/workspace/{path}")
        with pytest.raises(SandboxRejected, match="symbolic link"):
            await sandbox.write(f"/workspace/{path}", b"overwritten")
    with pytest.raises(SandboxRejected, match="symbolic link"):
        await sandbox.read("/proc/self/root/etc/passwd")
    with pytest.raises(SandboxRejected, match="symbolic link"):
        await sandbox.upload(pack(Path(__file__).parent), "/workspace/folder")
    with pytest.raises(SandboxRejected, match="symbolic link"):
        await sandbox.download("/workspace/folder")
    assert await say("cat real/file; readlink link folder dangling") == "secret\nreal/file\nreal\n/nowhere\n"


async def test_writing_outside_the_writable_folders_fails(sandbox):
    for path in ("/etc/passwd", "/usr/bin/new", "/new", "/proc/sys/kernel/hostname"):
        with pytest.raises(OSError):  # noqa: PT011  # read-only, or not permitted: as the kernel sees fit
            await sandbox.write(path, b"")
    with pytest.raises(IsADirectoryError):
        await sandbox.write("/workspace", b"")
    with pytest.raises(NotADirectoryError):
        await sandbox.write("/etc/passwd/x", b"")


async def test_a_tree_goes_in_and_comes_out_the_same(sandbox, say, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    _make_tree(before)
    after.mkdir()
    await sandbox.upload(pack(before))
    assert await say("./run.sh; readlink link; [ -O run.sh ] && stat -c %a run.sh") == "ran\ndeep/er\n755\n"
    unpack_hostile(await sandbox.download(), after)
    assert pack(after) == pack(before)


async def test_an_upload_replaces_files_and_links_of_the_same_name(sandbox, say, tmp_path):
    (tmp_path / "file").write_text("new\n")
    await say("echo precious > other; ln -s other file")
    await sandbox.upload(pack(tmp_path))
    assert await say("cat file other") == "new\nprecious\n"


async def test_an_archive_that_is_none_is_rejected(sandbox):
    with pytest.raises(SandboxRejected):
        await sandbox.upload(b"no archive" * 200)


async def test_an_archive_that_points_outside_is_rejected(sandbox, say):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../tmp/escaped"), io.BytesIO(b""))
    with pytest.raises(SandboxRejected, match="outside"):
        await sandbox.upload(out.getvalue())
    assert "escaped" not in await say("ls -A /tmp")


async def test_a_tree_over_the_bound_is_rejected(sandbox, say):
    await say("head -c 200000 /dev/zero > file")
    with pytest.raises(SandboxRejected, match="larger than 100000"):
        await sandbox.download(max_bytes=100_000)


async def test_a_tree_made_to_break_its_archive_is_bounded(sandbox, run, say):
    await run("mkfifo pipe; mkdir closed; echo hidden > closed/file; chmod 0 closed/file closed; echo ok > file")
    data = await sandbox.download()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert sorted(tar.getnames()) == ["closed", "closed/file", "file"]
    await run('rm -rf *; python -c \'import os\nfor i in range(1000): os.mkdir("d"); os.chdir("d")\'')
    with pytest.raises(SandboxRejected, match="nested"):
        await sandbox.download()


def _make_tree(before: Path) -> None:
    (before / "deep" / "er").mkdir(parents=True)
    (before / "deep" / "er" / ("long name " * 20)).write_bytes(os.urandom(70_000))
    (before / "run.sh").write_text("echo ran\n")
    (before / "run.sh").chmod(0o755)
    (before / "link").symlink_to("deep/er")
    Path(os.fsdecode(os.fsencode(before) + b"/caf\xe9")).write_bytes(b"not UTF-8")
    (before / "empty").mkdir()
