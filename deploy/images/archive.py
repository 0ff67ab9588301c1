"""Archives of one image, which containerd, Docker and every reader of OCI layouts can load.

The layout is https://github.com/opencontainers/image-spec/blob/main/image-layout.md; ``manifest.json`` beside it is
for Docker. The same tree always gives the same bytes, and so the same digest.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Tree:
    """What is in a layer: path inside, without a slash in front -> its source.

    Attributes:
        files: copied from these files of the machine, links as links; owned by root.
        texts: written as they are, instead of a file of the same path.
        links: symbolic links -> their targets; instead of a file of the same path.
        folders: empty ones -> their modes.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layer:
    """A file that holds one, and the digest of its bytes, ``sha256:`` left out."""

    file: Path
    digest: str


def write_layer(file: Path, tree: Tree) -> Layer:
    """Write a tree into a file."""
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for path, mode in sorted(tree.folders.items()):
            tar.addfile(_member(path, kind=tarfile.DIRTYPE, mode=mode))
        for path, source in sorted(tree.files.items()):
            if path not in tree.texts and path not in tree.links:  # Docker refuses what is there twice
                _copy(tar, path, source)
        for path, text in sorted(tree.texts.items()):
            _add(tar, path, text.encode())
        for path, target in sorted(tree.links.items()):
            tar.addfile(_member(path, kind=tarfile.SYMTYPE, linkname=target))
    with file.open("rb") as content:
        return Layer(file, hashlib.file_digest(content, "sha256").hexdigest())


def write(archive: Path, name: str, layers: Sequence[Layer], config: Mapping[str, object]) -> None:
    """Write the image ``name`` (with a tag) with the settings of containers that ``config`` gives."""
    image = _image(layers, config)
    described = [_descriptor("layer.v1.tar", layer.digest, layer.file.stat().st_size) for layer in layers]
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("config.v1+json", _digest(image), len(image)),
            "layers": described,
        }
    )
    named = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {**_descriptor("manifest.v1+json", _digest(manifest), len(manifest)), "annotations": named}
    blobs = [_blob(layer.digest) for layer in layers]
    for_docker = {"Config": _blob(_digest(image)), "RepoTags": [name], "Layers": blobs}
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [index]}))
        _add(tar, "manifest.json", _json([for_docker]))
        _add(tar, _blob(_digest(image)), image)
        _add(tar, _blob(_digest(manifest)), manifest)
        for layer, blob in zip(layers, blobs, strict=True):
            with layer.file.open("rb") as content:
                tar.addfile(_member(blob, size=layer.file.stat().st_size), content)


def identity(layers: Sequence[Layer], config: Mapping[str, object]) -> str:
    """The digest that names an image of these layers and settings, whatever else it is called."""
    return _digest(_image(layers, config))


def _image(layers: Sequence[Layer], config: Mapping[str, object]) -> bytes:
    return _json(
        {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
        }
    )


def _copy(tar: tarfile.TarFile, path: str, source: Path) -> None:
    if source.is_symlink():
        tar.addfile(_member(path, kind=tarfile.SYMTYPE, linkname=str(source.readlink())))
        return
    status = source.stat()
    with source.open("rb") as content:
        # Who may run it, but not what makes a program run as somebody else.
        tar.addfile(_member(path, size=status.st_size, mode=status.st_mode & 0o755), content)


def _add(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    tar.addfile(_member(path, size=len(content)), io.BytesIO(content))


def _member(
    path: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, size: int = 0, linkname: str = ""
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.size, member.linkname = kind, mode, size, linkname
    return member


def _descriptor(kind: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": size}


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
