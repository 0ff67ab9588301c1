"""Images for sandboxes without a container engine: what runs in them, and that they are what Docker makes of them."""

import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest

from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.errors import ImageMismatch, UnknownImage
from sandbox.images.store import ImageStore
from sandbox.types import Backend, Command, Exited, SandboxSpec
from tests.conformance.sandbox import dockerd
from tests.conformance.sandbox.makers import made_by
from tests.unit.test_sandbox_images import in_tar, saved

pytestmark = pytest.mark.anyio


def _programs(*names: str) -> bytes:
    """A layer of these programs of this machine, with their libraries, and a few files of its own."""
    found = [shutil.which(name) or "" for name in names]
    linked = subprocess.run(["ldd", *found], capture_output=True, text=True, check=True).stdout
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", dereference=True) as tar:
        for program in found:
            tar.add(program, f"bin/{Path(program).name}")
        for library in sorted({word for word in linked.split() if word.startswith("/") and not word.endswith(":")}):
            tar.add(library, library)
        for name, target in {"tmp": "/scratch", "trap": "/etc/passwd", "etc/resolv.conf": "/run/nothing"}.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        member = tarfile.TarInfo("scratch")
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
        for name, mode, owner in (
            ("etc/everybodys", 0o644, 0),
            ("etc/roots", 0o600, 0),
            ("etc/ours", 0o600, 1000),
            ("etc/hosts", 0o644, 0),
        ):
            member = tarfile.TarInfo(name)
            member.mode, member.uid, member.gid = mode, owner, owner
            tar.addfile(member)
    return out.getvalue()


@pytest.fixture(params=["root", "user", "bubblewrap"] if os.geteuid() == 0 else ["user", "bubblewrap"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    store = ImageStore(tmp_path / "images")
    store.add(in_tar(saved(_programs("sh", "cat", "id", "ls", "touch")), tmp_path))
    if request.param == "bubblewrap":
        settings = SandboxSettings(local=made_by("bubblewrap"), images=tmp_path / "images")
    else:
        settings = SandboxSettings(namespaces=request.param, images=tmp_path / "images")
    backend = open_backend("local", settings)
    yield backend
    await backend.close()


async def test_a_command_runs_in_the_image_and_sees_nothing_of_this_machine(backend: Backend) -> None:
    sandbox = await backend.acquire(SandboxSpec(image="thing:1"))
    outcome = await sandbox.exec(Command("echo $FLAVOUR $0; id -u; ls /; ls /dev; cat /etc/hosts", "a", 10))
    assert isinstance(outcome, Exited)
    words = outcome.output.decode().split()
    assert words[:3] == ["plain", "/bin/sh", "1000"]
    assert {"bin", "trap", "workspace", "proc", "dev"} <= set(words)
    assert not {"opt", "srv", "boot"} & set(words)
    assert "localhost" in words
    await sandbox.close()


async def test_the_image_is_read_only_and_the_same_for_the_next(backend: Backend) -> None:
    first = await backend.acquire(SandboxSpec(image="thing:1"))
    line = "touch /new; touch /etc/new; echo x > /etc/everybodys; touch /workspace/file /home/sandbox/file && echo made"
    outcome = await first.exec(Command(line, "a", 10))
    assert outcome.output.endswith(b"made\n")
    assert outcome.output.count(b"Read-only") + outcome.output.count(b"denied") == 3, outcome
    second = await backend.acquire(SandboxSpec(image="thing:1"))
    outcome = await second.exec(Command("ls /workspace /home/sandbox; cat /etc/everybodys", "a", 10))
    assert b"file\n" not in outcome.output
    assert b"x" not in outcome.output.split(b"\n")


async def test_what_every_sandbox_has_is_seen_instead_of_what_the_image_has_there(backend: Backend) -> None:
    """Such as an empty file, and a link that leads nowhere."""
    sandbox = await backend.acquire(SandboxSpec(image="thing:1"))
    outcome = await sandbox.exec(Command("cat /etc/hosts /etc/resolv.conf; ls /run", "a", 10))
    assert outcome.output == b"127.0.0.1 localhost sandbox\n::1 localhost sandbox\n"


async def test_links_of_the_image_lead_nowhere_outside(backend: Backend) -> None:
    before = (Path("/etc/passwd").read_bytes(), sorted(os.listdir("/etc")))  # noqa: ASYNC240, PTH208
    sandbox = await backend.acquire(SandboxSpec(image="thing:1"))
    assert await sandbox.read("/etc/everybodys") == b""
    outcome = await sandbox.exec(Command("cat /trap; touch /tmp/x && ls /scratch", "a", 10))
    assert b"No such file" in outcome.output
    assert outcome.output.endswith(b"\nx\n")
    assert not Path("/scratch").exists()  # noqa: ASYNC240
    assert (Path("/etc/passwd").read_bytes(), sorted(os.listdir("/etc"))) == before  # noqa: ASYNC240, PTH208


async def test_an_image_that_is_not_here_is_answered_with_how_to_bring_it_in(backend: Backend) -> None:
    with pytest.raises(UnknownImage, match=r"docker save example/none:2 .* python -m sandbox\.images add"):
        await backend.acquire(SandboxSpec(image="example/none:2"))


async def test_an_image_of_another_digest_is_refused(backend: Backend) -> None:
    with pytest.raises(ImageMismatch, match=r"is here as sha256:[0-9a-f]{64}, not as sha256:0"):
        await backend.acquire(SandboxSpec(image=f"thing:1@sha256:{'0' * 64}"))


def test_an_image_is_brought_in_from_the_command_line(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "sandbox.images", "--folder", str(tmp_path / "images")]
    image = in_tar(saved(_programs("true")), tmp_path)
    added = subprocess.run([*run, "add", str(image), "--name", "mine:2"], capture_output=True, text=True, check=True)
    listed = subprocess.run([*run, "list"], capture_output=True, text=True, check=True)
    assert added.stdout == listed.stdout
    assert listed.stdout.startswith("mine:2 sha256:")
    wrong = subprocess.run([*run, "add", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "none is not brought in" in wrong.stderr) == (1, True)


# --- against Docker ------------------------------------------------------------------------------------------------

CHANGES = """
set -e
cd /data
rm gone; rm -r folder; mkdir folder; echo new > folder/new
rm file-to-folder; mkdir file-to-folder; rm -r folder-to-file; echo file > folder-to-file
ln kept hard; ln -s kept soft; ln -sfn elsewhere link; echo changed >> changed; chmod 640 changed
mv moved renamed; touch "a name with spaces" ; chmod 4755 kept
"""
OF_DOCKER = {".dockerenv", "dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"}


@pytest.fixture(scope="module")
def api() -> Iterator[docker.APIClient]:
    if reason := dockerd.missing():
        pytest.skip(reason)
    with dockerd.running() as address:
        api = docker.APIClient(base_url=address)
        yield api
        api.close()


def test_the_unpacked_image_is_what_docker_exports(api: docker.APIClient, tmp_path: Path) -> None:
    layer = io.BytesIO(_programs("sh", "rm", "mkdir", "ln", "mv", "touch", "chmod"))
    with tarfile.open(fileobj=layer, mode="a") as tar:
        for name in ("gone", "folder/old", "file-to-folder", "folder-to-file/x", "kept", "link", "changed", "moved"):
            member = tarfile.TarInfo(f"data/{name}")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"below"))
    api.import_image_from_data(layer.getvalue(), repository="below", tag="1")
    container = api.create_container("below:1", ["/bin/sh", "-c", CHANGES], host_config={"NetworkMode": "none"})
    api.start(container)
    assert api.wait(container)["StatusCode"] == 0, api.logs(container)
    api.commit(container, "above", "1")
    (tmp_path / "image.tar").write_bytes(b"".join(api.get_image("above:1")))
    exported = b"".join(api.export(api.create_container("above:1", ["none"])))
    image, names = ImageStore(tmp_path / "images").add(tmp_path / "image.tar")
    assert names == ("above:1",)
    assert image.id == api.inspect_image("above:1")["Id"]
    theirs, ours = dict(_of_archive(exported)), dict(_of_tree(image.tree))
    assert {name for name in theirs if name not in ours} == set()
    assert {name: each for name, each in ours.items() if name not in OF_DOCKER and theirs[name] != each} == {}


def _of_archive(data: bytes) -> Iterator[tuple[str, object]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            name = member.name.strip("/")
            if name in OF_DOCKER or name.startswith(("dev/", "proc/", "sys/")):
                continue
            if member.isdir():
                yield name, ("d", member.mode & 0o770)
            elif member.issym():
                yield name, ("l", member.linkname)
            else:
                file = tar.extractfile(member)
                assert file is not None
                target = tar.getmember(member.linkname) if member.islnk() else member
                yield name, ("f", target.mode & 0o770, int(target.mtime), hashlib.sha256(file.read()).hexdigest())


def _of_tree(root: Path) -> Iterator[tuple[str, object]]:
    for place in sorted(root.rglob("*")):
        name, status = str(place.relative_to(root)), place.lstat()
        if stat.S_ISDIR(status.st_mode):
            yield name, ("d", status.st_mode & 0o770)
        elif stat.S_ISLNK(status.st_mode):
            yield name, ("l", str(place.readlink()))
        else:
            content = hashlib.sha256(place.read_bytes()).hexdigest()
            yield name, ("f", status.st_mode & 0o770, int(status.st_mtime), content)
