"""The Docker daemon, over its HTTP API: the one module that knows the ``docker`` package.

Every call blocks and is made in a thread. Errors of the package become the sandbox's own here.
"""

import contextlib
import hashlib
import io
import os
import socket
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from sandbox.errors import ImageMismatch, SandboxError, SandboxUnavailable, UnknownImage

LABEL = "mimo.sandbox"
"""On every container of ours: when its lifetime is over, in seconds since 1970."""
FOLDER_LABEL = "mimo.sandbox.folder"
"""The folder on the host that goes with the container."""
_USUAL = "unix:///var/run/docker.sock"
_HOST_IMAGE = "mimo-sandbox-host"
_TIMEOUT_S = 60
_GONE_PATIENCE_S = 30.0
_START_PATIENCE_S = 120.0
_LATE_S = 60.0


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the daemon's, by the name that no other can take."""

    id: str
    env: dict[str, str]


@dataclass(frozen=True, slots=True)
class Container:
    """A container of ours."""

    name: str
    folder: str
    created_at: float
    """In seconds since 1970, as is what follows."""
    ends_at: float
    """When its lifetime is over; 0 where its label does not say."""
    has_ended: bool
    """It has, or it never began."""

    def is_over(self, now: float) -> bool:
        """The sandbox ends itself with its lease; this is for those that could not."""
        return now > self.ends_at + _LATE_S or (self.has_ended and now > self.created_at + _START_PATIENCE_S)


class Engine:
    """One Docker daemon."""

    def __init__(self, address: str | None) -> None:
        """Nothing is asked yet.

        Raises:
            SandboxUnavailable: the daemon does not answer, or does not let us in.
        """
        with _translated(address):
            known = docker.utils.kwargs_from_env() if address is None else {"base_url": address}
            _knock(known.get("base_url", _USUAL))
            self._api = docker.APIClient(version="auto", timeout=_TIMEOUT_S, max_pool_size=32, **known)
        self._address = address

    def close(self) -> None:
        self._api.close()

    def find(self, reference: str) -> Image:
        """The image of a name, ``name@sha256:...`` or ``sha256:...``; never fetched from anywhere.

        Raises:
            UnknownImage: the daemon does not have it.
            ImageMismatch: it has one of that name with another digest.
        """
        name, _, digest = reference.partition("@")
        with _translated(self._address):
            try:
                found = self._api.inspect_image(name)
            except ImageNotFound as error:
                raise UnknownImage(
                    f"Docker has no image {name!r} here; get it first, such as by: docker pull {reference}"
                ) from error
        digests = {found["Id"], *(each.partition("@")[2] for each in found.get("RepoDigests") or ())}
        if digest and digest not in digests:
            raise ImageMismatch(
                f"the image {name!r} is here as {', '.join(sorted(digests - {''}))}, not as {digest}; "
                f"get the right one, such as by: docker pull {reference}"
            )
        variables = (each.partition("=") for each in (found.get("Config") or {}).get("Env") or ())
        return Image(found["Id"], {variable: value for variable, _, value in variables})

    def host_image(self, folders: list[str], files: Mapping[str, str], links: Mapping[str, str]) -> Image:
        """An image of nothing but these; made where it is not there yet."""
        tree = _tree(folders, files, links)
        tag = hashlib.sha256(tree).hexdigest()[:24]
        with contextlib.suppress(UnknownImage):
            return self.find(f"{_HOST_IMAGE}:{tag}")
        with _translated(self._address):
            self._api.import_image_from_data(tree, repository=_HOST_IMAGE, tag=tag)
        return self.find(f"{_HOST_IMAGE}:{tag}")

    def start(self, name: str, config: Mapping[str, object]) -> None:
        with _translated(self._address):
            container = self._api.create_container_from_config(config, name)
            self._api.start(container["Id"])

    def remove(self, name: str) -> None:
        """End a container and wait until it is gone; quiet where it is gone already.

        Raises:
            SandboxError: it does not go.
        """
        give_up = time.monotonic() + _GONE_PATIENCE_S
        with _translated(self._address):
            while True:
                try:
                    self._api.remove_container(name, v=True, force=True)
                    return
                except NotFound:
                    return
                except APIError as error:
                    # 409: it is being removed right now; 500: a file system of it is still in use, for a moment.
                    if time.monotonic() > give_up:
                        raise SandboxError(
                            f"Docker does not remove the container {name}: {error.explanation}"
                        ) from error
                time.sleep(0.02)

    def is_running(self, name: str) -> bool:
        with _translated(self._address):
            try:
                return bool(self._api.inspect_container(name)["State"]["Running"])
            except NotFound:
                return False

    def last_words(self, name: str) -> str:
        """Why a container ended, as far as the daemon knows; "" where it is gone."""
        try:
            state = self._api.inspect_container(name)["State"]
        except (DockerException, requests.RequestException):
            return ""
        return f"{state.get('Status')}, exit code {state.get('ExitCode')} {state.get('Error', '')}".strip()

    def containers(self, folder: Path) -> list[Container]:
        """All of services that keep their sockets in ``folder``."""
        with _translated(self._address):
            containers = self._api.containers(all=True, filters={"label": LABEL})
        ours = [each for each in containers if Path(each["Labels"].get(FOLDER_LABEL, "")).parent == folder]
        return [
            Container(
                name=each["Names"][0].removeprefix("/"),
                folder=each["Labels"][FOLDER_LABEL],
                created_at=float(each["Created"]),
                ends_at=float(each["Labels"][LABEL]) if each["Labels"][LABEL].isdigit() else 0.0,
                has_ended=each["State"] in ("created", "exited", "dead"),
            )
            for each in ours
        ]


def _knock(address: str) -> None:
    """See that somebody listens: the package leaves a socket open where nobody does."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(address.removeprefix("unix://"))


def _tree(folders: list[str], files: Mapping[str, str], links: Mapping[str, str]) -> bytes:
    """A tar archive that is the same whenever its parts are."""
    out = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def add(path: str, **fields: object) -> tarfile.TarInfo:
            for parent in reversed(Path(path).parents):
                if str(parent) not in made and str(parent) != "/":
                    made.add(str(parent))
                    tar.addfile(_member(str(parent), type=tarfile.DIRTYPE, mode=0o755))
            made.add(path)
            return _member(path, **fields)

        for path in sorted(folders):
            if path not in made:
                tar.addfile(add(path, type=tarfile.DIRTYPE, mode=0o755))
        for path, text in sorted(files.items()):
            tar.addfile(add(path, size=len(text.encode()), mode=0o644), io.BytesIO(text.encode()))
        for path, target in sorted(links.items()):
            tar.addfile(add(path, type=tarfile.SYMTYPE, linkname=target))
    return out.getvalue()


def _member(path: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path.lstrip("/"))
    for name, value in fields.items():
        setattr(member, name, value)
    return member


@contextlib.contextmanager
def _translated(address: str | None) -> Iterator[None]:
    where = address or os.environ.get("DOCKER_HOST") or "its usual socket"
    try:
        yield
    except APIError as error:
        raise SandboxUnavailable(f"Docker at {where} refuses: {error.explanation or error}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise SandboxUnavailable(
            f"the Docker daemon at {where} does not answer ({_innermost(error)}); start it, see that this user may "
            "use it (group docker), or name another in the settings (sandbox.docker.address)"
        ) from error


def _innermost(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__
