"""Docker makes of our Dockerfiles, over bases of this machine's own, what is made without Docker."""

import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import docker
import pytest
from docker.models.images import Image

from deploy.images import dockerfile, services
from sandbox import program
from tests.conformance.sandbox import dockerd
from tests.integration.deploy import bases

pytestmark = pytest.mark.timeout(1200)  # Go compiles its own library first

ROOT = Path(__file__).parents[3]
VERSION = "7.7.7"
BASES = {
    "agent": {"BASE": bases.PYTHON, "GO": bases.GOLANG},
    "egress-proxy": {"BASE": bases.GOLANG},
    "model-server": {"BASE": bases.PYTHON},
    "postgres": {"BASE": bases.DEBIAN},
    "router": {"BASE": bases.PYTHON},
    "sandboxd": {"BASE": bases.GOLANG},
    "task": {"BASE": bases.DEBIAN},
}
LONG = "MIMO_TEST_LONG_BUILDS"
"""Set where images are to be built too that take many minutes or fetch much."""
SELDOM = ("agent", "model-server")
OF_PYTHON = ("bash", "binutils", "ca-certificates", "g++", "git", "openssh-client")
"""What our Dockerfiles install over a base of Python."""
RUN = [
    ("agent", ["python", "-P", "-m", "agent.cli.app", "--help"], "mimo"),
    ("agent", ["git", "--version"], "git version"),
    ("model-server", ["python", "-P", "-m", "model_server", "--help"], "--checkpoint"),
    ("postgres", ["postgres", "--version"], "15."),
    ("router", ["python", "-P", "-m", "smg.cli", "--help"], ""),
    ("task", ["python", "-m", "pytest", "--version"], "pytest"),
]
"""What an image is asked, to see its program run, and what the answer has."""
LEFT_OPEN = re.compile(r"^opt/mimo/(bin|include|share)/|/(INSTALLER|RECORD|REQUESTED|direct_url.json)$")
"""What installers write each in their way."""
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    """A daemon that has the bases."""
    if reason := dockerd.missing() or bases.missing(*OF_PYTHON):
        pytest.skip(reason)
    if (shell := shutil.which("busybox")) is None:
        pytest.skip("not installed: busybox (Debian: busybox-static)")
    with dockerd.running() as address, closing(docker.DockerClient(base_url=address, timeout=900)) as made:
        bases.bring_golang(made, Path(shell))
        bases.bring_python(made, *OF_PYTHON)
        bases.bring_debian(made)
        yield made


def built(client: docker.DockerClient, name: str) -> Image:
    """The image that Docker makes; it remembers what it made before."""
    if name in SELDOM and LONG not in os.environ:
        pytest.skip(f"takes long, and fetches much: set {LONG}=1, or make images-docker")
    proxies = {variable: os.environ[variable] for variable in PROXIES if variable in os.environ}
    image, _ = client.images.build(
        path=str(ROOT),
        dockerfile=f"deploy/images/{name}.Dockerfile",
        buildargs={**proxies, **BASES[name], "VERSION": VERSION},
        network_mode="host",  # packages of Python, and a module of Go
        pull=False,
    )
    return image


def test_every_dockerfile_is_built_here() -> None:
    assert {services.file_of(name) for name in BASES} == {services.file_of(name) for name in services.NAMES}


@pytest.mark.parametrize("name", BASES)
def test_docker_reads_in_a_dockerfile_what_we_read(client: docker.DockerClient, name: str) -> None:
    settings = built(client, name).attrs["Config"]
    ours = dict(dockerfile.read(services.file_of(name), VERSION=VERSION).config)
    assert {*ours.pop("Env", ())} <= {*settings["Env"]}  # type: ignore[misc]
    assert {key: settings[key] for key in ours} == ours


@pytest.mark.parametrize(("name", "program"), [("sandboxd", program.sandboxd), ("egress-proxy", program.egressd)])
def test_docker_builds_the_program_that_we_build(
    client: docker.DockerClient, name: str, program: Callable[[Path | None], Path]
) -> None:
    [path] = built(client, name).attrs["Config"]["Entrypoint"]
    with inside(client, built(client, name), path) as files:
        member = files.extractfile(path.lstrip("/"))
        assert member is not None
        assert member.read() == program(None).read_bytes()


@pytest.mark.parametrize("name", ["agent", "router", "model-server"])
def test_docker_brings_the_packages_that_we_bring(client: docker.DockerClient, name: str, tmp_path: Path) -> None:
    with inside(client, built(client, name), "/opt/mimo") as files:
        theirs = {f"opt/{member.name}" for member in files if not member.isdir()}
    [archive] = services.build_services(ROOT / "build" / "images", [name]).values()
    ours = in_archive(archive)
    assert {name for name in ours ^ theirs if not LEFT_OPEN.search(name)} == set()


@pytest.mark.parametrize(("name", "command", "answer"), RUN)
def test_the_program_runs_as_nobody_special_over_a_root_that_cannot_be_written(
    client: docker.DockerClient, name: str, command: list[str], answer: str
) -> None:
    said = client.containers.run(
        built(client, name),
        command[1:],
        entrypoint=command[:1],
        user="10001:10001",
        read_only=True,
        network_mode="none",
        cap_drop=["ALL"],
        tmpfs={"/tmp": "mode=1777"},
        remove=True,
        stderr=True,
    )
    assert answer in said.decode()


@contextmanager
def inside(client: docker.DockerClient, image: Image, path: str) -> Iterator[tarfile.TarFile]:
    """What an image has there, with names from the last part of the path on."""
    container = client.containers.create(image)
    chunks, _ = container.get_archive(path)
    with tempfile.TemporaryFile() as written:
        for chunk in chunks:
            written.write(chunk)
        written.seek(0)
        with tarfile.open(fileobj=written) as files:
            yield files


def in_archive(archive: Path) -> set[str]:
    """Names of files that an image has below /opt/mimo."""
    found = set[str]()
    with tarfile.open(archive) as image:
        about = image.extractfile("manifest.json")
        assert about is not None
        for blob in json.load(about)[0]["Layers"]:
            with tarfile.open(fileobj=image.extractfile(blob)) as layer:
                found |= {member.name for member in layer if member.name.startswith("opt/mimo/")}
    return found
