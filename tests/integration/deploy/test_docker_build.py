"""Docker makes of our Dockerfile, over a base of this machine's own, what is made without Docker."""

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from sandbox import program
from tests.conformance.sandbox import dockerd

pytestmark = pytest.mark.timeout(900)  # Go compiles its own library first

ROOT = Path(__file__).parents[3]
LEFT_OUT = {"api", "doc", "misc", "test", "testdata"}
"""Of Go, what no build needs."""


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    if reason := dockerd.missing():
        pytest.skip(reason)
    with dockerd.running() as address, closing(docker.DockerClient(base_url=address, timeout=600)) as made:
        yield made


def test_docker_builds_the_sandboxd_that_we_build(client: docker.DockerClient, tmp_path: Path) -> None:
    if (shell := shutil.which("busybox")) is None:
        pytest.skip("not installed: busybox (Debian: busybox-static)")
    bring_base(client, Path(shell))
    image, _ = client.images.build(
        path=str(ROOT),
        dockerfile="deploy/images/sandboxd.Dockerfile",
        buildargs={"BASE": "golang:local", "VERSION": "7.7.7"},
        network_mode="none",
        pull=False,
    )
    ours = tmp_path / "sandboxd"
    program.build(ours)
    assert hashlib.sha256(brought(client, image.id)).digest() == hashlib.sha256(ours.read_bytes()).digest()
    assert image.labels["org.opencontainers.image.version"] == "7.7.7"
    assert image.attrs["Config"]["Entrypoint"] == ["/sandboxd"]


def bring_base(client: docker.DockerClient, shell: Path) -> None:
    """An image with this machine's Go and a shell, and nothing else."""
    go = subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True, cwd="/").stdout.strip()
    with tempfile.TemporaryFile() as written:
        with tarfile.open(fileobj=written, mode="w", dereference=True) as archive:
            archive.add(shell, "bin/sh")
            archive.add(go, "usr/local/go", filter=needed)
            folder = tarfile.TarInfo("tmp")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            archive.addfile(folder)
        written.seek(0)
        client.api.import_image_from_data(
            written, repository="golang", tag="local", changes=["ENV PATH=/usr/local/go/bin:/bin HOME=/tmp"]
        )


def needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(member.name).name in LEFT_OUT else member


def brought(client: docker.DockerClient, image: str | None) -> bytes:
    """The program in the image."""
    container = client.containers.create(str(image))
    chunks, _ = container.get_archive("/sandboxd")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        file = archive.extractfile("sandboxd")
        assert file is not None
        return file.read()
