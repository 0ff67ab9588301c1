"""An image in a file or folder: what ``docker save`` writes, or an image layout (OCI image specification, 1.1).

Whoever made it may be hostile. What is named by its SHA-256 is compared with it, and a file inside is only ever read.
"""

import gzip
import hashlib
import platform
import sys
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sandbox.errors import ImageMismatch, SandboxRejected

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, ZstdFile
else:
    from backports.zstd import ZstdError, ZstdFile

_MAX_JSON = 16 * 1024 * 1024
_MAX_DEPTH = 4
"""Lists of images inside one another."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Platform(_Document):
    architecture: str = ""
    os: str = ""


class _Descriptor(_Document):
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    platform: _Platform | None = None
    annotations: dict[str, str] = {}


class _Index(_Document):
    """A manifest, or a list of them."""

    manifests: tuple[_Descriptor, ...] = ()
    config: _Descriptor | None = None
    layers: tuple[_Descriptor, ...] = ()


class _Saved(_Document):
    """One image of ``manifest.json``, as ``docker save`` writes it."""

    config: str = Field(alias="Config")
    names: tuple[str, ...] | None = Field(alias="RepoTags")
    layers: tuple[str, ...] = Field(alias="Layers")


class _Runtime(_Document):
    env: tuple[str, ...] | None = Field(None, alias="Env")


class _Layers(_Document):
    digests: tuple[str, ...] = Field(alias="diff_ids")


class _Config(_Document):
    config: _Runtime | None = None
    rootfs: _Layers


@dataclass(frozen=True, slots=True)
class Layer:
    """A file that holds a layer, and the SHA-256 of what is in it once it is no longer compressed."""

    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class Contents:
    """One image."""

    id: str
    """SHA-256 of its configuration, as ``docker images`` shows it."""
    digests: tuple[str, ...]
    """Others by which it may be asked for: that of its manifest."""
    names: tuple[str, ...]
    env: tuple[str, ...]
    layers: tuple[Layer, ...]
    """From the lowest up."""


class ImageArchive(ABC):
    """Files by name."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Raises KeyError where there is none of that name."""

    def contents(self) -> Contents:
        """The one image in here, or the one for this machine.

        Raises:
            SandboxRejected: there is none, or more than one, or the files make no sense.
            ImageMismatch: a file is not what its digest says.
        """
        try:
            if (saved := self._text("manifest.json")) is not None:
                return self._saved(saved)
            if (index := self._text("index.json")) is not None:
                return self._layout(index)
        except ValidationError as error:
            raise SandboxRejected(f"the image is damaged: {error}") from error
        raise SandboxRejected("this is no image: it has neither manifest.json, as docker save writes, nor index.json")

    @contextmanager
    def layer(self, layer: Layer) -> Iterator[BinaryIO]:
        """What is in a layer. Read to its end, it has been compared with its digest.

        Raises:
            ImageMismatch: it is another.
        """
        with self._file(layer.file) as packed:
            hashing = _Hashing(_unpacked(packed))
            yield hashing  # type: ignore[misc]  # all of a file that reading needs
            hashing.finish(layer.digest)

    def _saved(self, text: bytes) -> Contents:
        images = TypeAdapter(list[_Saved]).validate_json(text)
        if len(images) != 1:
            raise SandboxRejected(f"the file holds {len(images)} images; save one alone")
        (image,) = images
        return self._contents(image.config, "", image.names or (), image.layers)

    def _layout(self, text: bytes) -> Contents:
        found = _Index.model_validate_json(text)
        names: tuple[str, ...] = ()
        digest = ""
        for _ in range(_MAX_DEPTH):
            if found.config is not None:
                files = tuple(map(_blob, found.layers))
                return self._contents(_blob(found.config), digest, names, files)
            chosen = _choose(found.manifests)
            names = tuple(chosen.annotations[key] for key in _NAME_KEYS if key in chosen.annotations)[:1] or names
            digest = chosen.digest
            found = _Index.model_validate_json(self._verified(_blob(chosen), digest))
        raise SandboxRejected("the image is damaged: lists of images without end")

    def _contents(self, config: str, digest: str, names: tuple[str, ...], files: tuple[str, ...]) -> Contents:
        text = self._text(config)
        if text is None:
            raise SandboxRejected(f"the image is damaged: {config} is missing")
        own = "sha256:" + hashlib.sha256(text).hexdigest()
        if own.removeprefix("sha256:") not in config:  # the file is called by its digest
            raise ImageMismatch(f"the image's configuration is {own}, not what its name {config} says")
        parsed = _Config.model_validate_json(text)
        if len(parsed.rootfs.digests) != len(files):
            raise SandboxRejected("the image is damaged: it has not as many layers as it says")
        env = (parsed.config.env if parsed.config else None) or ()
        layers = tuple(map(Layer, files, parsed.rootfs.digests))
        return Contents(own, (digest,) if digest else (), names, env, layers)

    def _verified(self, name: str, digest: str) -> bytes:
        text = self._text(name)
        if text is None:
            raise SandboxRejected(f"the image is damaged: {name} is missing")
        own = "sha256:" + hashlib.sha256(text).hexdigest()
        if own != digest:
            raise ImageMismatch(f"{name} is {own}")
        return text

    def _text(self, name: str) -> bytes | None:
        try:
            with self.open(name) as file:
                text = file.read(_MAX_JSON + 1)
        except KeyError:
            return None
        if len(text) > _MAX_JSON:
            raise SandboxRejected(f"the image is damaged: {name} has no end")
        return text

    def _file(self, name: str) -> IO[bytes]:
        try:
            return self.open(name)
        except KeyError as error:
            raise SandboxRejected(f"the image is damaged: {name} is missing") from error


class TarArchive(ImageArchive):
    """An image in a tar file."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(name)  # of the archive: nothing is read that is not in it
        if file is None:
            raise KeyError(name)
        return file


class FolderArchive(ImageArchive):
    """An image layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def open(self, name: str) -> IO[bytes]:
        place = (self._folder / name).resolve()
        if not place.is_relative_to(self._folder) or not place.is_file():
            raise KeyError(name)
        return place.open("rb")


@contextmanager
def open_archive(path: Path) -> Iterator[ImageArchive]:
    """An image file or folder.

    Raises:
        SandboxRejected: it is neither.
    """
    if path.is_dir():
        yield FolderArchive(path)
        return
    try:
        tar = tarfile.open(path)  # noqa: SIM115  # closed below; only this may fail so
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SandboxRejected(f"{path} is no image file: {error}") from error
    with tar:
        yield TarArchive(tar)


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile | ZstdFile) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._file.read(size)
        except (gzip.BadGzipFile, zlib.error, ZstdError, EOFError) as error:
            raise SandboxRejected(f"the image is damaged: {error}") from error
        self._hash.update(data)
        return data

    def finish(self, digest: str) -> None:
        while self.read(1024 * 1024):
            pass
        own = "sha256:" + self._hash.hexdigest()
        if own != digest:
            raise ImageMismatch(f"a layer of the image is {own}, not {digest}")


def _unpacked(file: IO[bytes]) -> IO[bytes] | gzip.GzipFile | ZstdFile:
    """What is in it, by the first bytes that each format has."""
    magic = file.read(4)
    file.seek(0)
    if magic == b"\x28\xb5\x2f\xfd":
        return ZstdFile(file)
    return gzip.GzipFile(fileobj=file) if magic[:2] == b"\x1f\x8b" else file


def _choose(manifests: tuple[_Descriptor, ...]) -> _Descriptor:
    here = _ARCHITECTURES.get(platform.machine(), platform.machine())
    fitting = [each for each in manifests if each.platform in (None, _Platform(architecture=here, os="linux"))]
    if len(fitting) != 1:
        raise SandboxRejected(
            f"of {len(manifests)} images in the file {len(fitting)} are for this machine; save one alone"
        )
    return fitting[0]


def _blob(descriptor: _Descriptor) -> str:
    return "blobs/" + descriptor.digest.replace(":", "/")
