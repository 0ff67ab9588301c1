"""Images in files, unpacked: layers over one another, nothing outside, and nothing that is not what its digest says."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from sandbox.errors import ImageMismatch, SandboxRejected, UnknownImage
from sandbox.images.store import ImageStore, StoredImage

Entry = tuple[str, object]


def _layer(*entries: Entry) -> bytes:
    """Files as bytes, links as ("link", target) or ("hard", target), folders as None; or a whole TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, what in entries:
            member = what if isinstance(what, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.mode = member.mode if isinstance(what, tarfile.TarInfo) else 0o644
            if what is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(what, tuple):
                member.type = tarfile.SYMTYPE if what[0] == "link" else tarfile.LNKTYPE
                member.linkname = what[1]
            elif isinstance(what, bytes):
                member.size = len(what)
            tar.addfile(member, io.BytesIO(what) if isinstance(what, bytes) else None)
    return out.getvalue()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def saved(*layers: bytes, name: str = "thing:1", digests: list[str] | None = None) -> dict[str, bytes]:
    """The files that ``docker save`` writes."""
    config = json.dumps(
        {
            "config": {"Env": ["FLAVOUR=plain"]},
            "rootfs": {"type": "layers", "diff_ids": digests or ["sha256:" + _sha(each) for each in layers]},
        }
    ).encode()
    files = {f"{number}/layer.tar": each for number, each in enumerate(layers)}
    manifest = [{"Config": f"{_sha(config)}.json", "RepoTags": [name], "Layers": list(files)}]
    return {"manifest.json": json.dumps(manifest).encode(), f"{_sha(config)}.json": config, **files}


def layout(*layers: bytes, pack: Callable[[bytes], bytes] = gzip.compress) -> dict[str, bytes]:
    """An image layout with compressed layers, and beside it an image for another processor."""
    files: dict[str, bytes] = {}

    def blob(data: bytes, **more: object) -> dict[str, object]:
        files[f"blobs/sha256/{_sha(data)}"] = data
        return {"digest": f"sha256:{_sha(data)}", "size": len(data), **more}

    config = json.dumps({"rootfs": {"diff_ids": ["sha256:" + _sha(each) for each in layers]}}).encode()
    manifest = {"config": blob(config), "layers": [blob(pack(each)) for each in layers]}
    here = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    choice = {
        "manifests": [
            blob(json.dumps(manifest).encode(), platform={"architecture": here, "os": "linux"}),
            {"digest": "sha256:" + "0" * 64, "size": 1, "platform": {"architecture": "s390x", "os": "linux"}},
        ]
    }
    annotations = {"org.opencontainers.image.ref.name": "laid-out:1"}
    files["index.json"] = json.dumps(
        {"manifests": [blob(json.dumps(choice).encode(), annotations=annotations)]}
    ).encode()
    return files


def in_tar(files: dict[str, bytes], folder: Path) -> Path:
    with tarfile.open(folder / "image.tar", "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder / "image.tar"


def in_folder(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / "image" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "image" / name).write_bytes(data)
    return folder / "image"


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def add(store: ImageStore, tmp_path: Path) -> Callable[..., StoredImage]:
    return lambda *layers: store.add(in_tar(saved(*layers), tmp_path))[0]


def test_an_image_is_found_by_its_names_its_digests_and_both(store: ImageStore, tmp_path: Path) -> None:
    image, names = store.add(in_tar(saved(_layer(("file", b"one"))), tmp_path))
    assert names == ("thing:1",)
    for reference in ("thing:1", image.id, f"thing:1@{image.id}"):
        assert store.find(reference) == image
    assert (image.tree / "file").read_bytes() == b"one"
    assert image.variables == {"FLAVOUR": "plain"}
    with pytest.raises(ImageMismatch, match=f"is here as {image.id}"):
        store.find(f"thing:1@sha256:{'0' * 64}")
    for unknown in ("thing", "thing:2", f"sha256:{'0' * 64}", "sha256:..", "../by-id", "x" * 5000):
        with pytest.raises(UnknownImage, match="docker save"):
            store.find(unknown)


@pytest.mark.parametrize("put", [in_tar, in_folder])
@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_an_image_layout_is_read_too(
    store: ImageStore,
    tmp_path: Path,
    put: Callable[[dict[str, bytes], Path], Path],
    pack: Callable[[bytes], bytes],
) -> None:
    image, names = store.add(put(layout(_layer(("file", b"one")), pack=pack), tmp_path))
    assert names == ("laid-out:1",)
    assert (image.tree / "file").read_bytes() == b"one"
    assert store.find(f"laid-out:1@{image.digests[0]}") == image


def test_a_name_given_to_another_image_is_that_ones_from_then_on(store: ImageStore, tmp_path: Path) -> None:
    first, _ = store.add(in_tar(saved(_layer(("file", b"one"))), tmp_path), ("mine",))
    second, names = store.add(in_tar(saved(_layer(("file", b"two"))), tmp_path), ("mine",))
    assert names == ("mine",)
    assert store.find("mine") == second != first
    assert store.names() == {"mine:latest": second.id}
    assert store.find(first.id) == first


def test_later_layers_hide_and_replace_what_is_below(add: Callable[..., StoredImage]) -> None:
    below = _layer(
        ("gone", b""), ("folder", None), ("folder/kept", b"1"), ("folder/gone", b""), ("emptied/old/er", b""),
        ("file-to-folder", b""), ("folder-to-file/x", b""), ("link", ("link", "folder")),
    )  # fmt: skip
    above = _layer(
        (".wh.gone", b""), ("folder/.wh.gone", b""), ("emptied/new", b"2"), ("emptied/.wh..wh..opq", b""),
        ("file-to-folder", None), ("folder-to-file", b"3"), ("hard", ("hard", "folder/kept")), (".wh.never", b""),
    )  # fmt: skip
    tree = add(below, above).tree
    found = {str(each.relative_to(tree)) for each in tree.rglob("*")}
    assert found == {
        "folder", "folder/kept", "emptied", "emptied/new", "file-to-folder", "folder-to-file", "hard", "link",
    }  # fmt: skip
    assert (tree / "hard").samefile(tree / "folder" / "kept")


def test_a_link_on_the_way_leads_where_it_would_in_the_image(add: Callable[..., StoredImage], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = add(
        _layer(
            ("lib", ("link", "usr/lib")), ("usr/lib", None), ("out", ("link", str(outside))), ("up", ("link", "../.."))
        ),
        _layer(("lib/x", b"1"), (f"{str(outside).lstrip('/')}/here", b""), ("out/y", b"2"), ("up/z", b"3")),
    ).tree
    assert (tree / "usr/lib/x").read_bytes() == b"1"
    assert (tree / str(outside).lstrip("/") / "y").read_bytes() == b"2"
    assert (tree / "z").read_bytes() == b"3"
    assert list(outside.iterdir()) == []


def test_what_the_sandboxs_user_may_do_everybody_may_and_nobody_gets_more(add: Callable[..., StoredImage]) -> None:
    def member(name: str, mode: int, uid: int, kind: bytes = tarfile.REGTYPE) -> Entry:
        made = tarfile.TarInfo(name)
        made.mode, made.uid, made.gid, made.type = mode, uid, uid, kind
        return name, made

    tree = add(
        _layer(
            member("roots", 0o4755, 0), member("secret", 0o600, 0), member("mine", 0o700, 1000),
            member("mine-too", 0o640, 1000), member("device", 0o666, 0, tarfile.CHRTYPE),
        )
    ).tree  # fmt: skip
    modes = {each.name: each.stat().st_mode & 0o7777 for each in tree.iterdir()}
    assert modes == {"roots": 0o755, "secret": 0o600, "mine": 0o707, "mine-too": 0o646}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        pytest.param(("../outside", b""), "outside", id="upwards"),
        pytest.param(("a/../../outside", b""), "outside", id="up in the middle"),
        pytest.param(("hard", ("hard", "../../outside")), "outside", id="a hard link upwards"),
        pytest.param(("hard", ("hard", "etc/none")), "not there", id="a hard link to nothing"),
    ],
)
def test_a_layer_that_names_what_is_outside_is_rejected_and_nothing_is_left(
    add: Callable[..., StoredImage], tmp_path: Path, entry: Entry, why: str
) -> None:
    with pytest.raises(SandboxRejected, match=why):
        add(_layer(("file", b"")), _layer(entry))
    assert list((tmp_path / "images" / "by-id").iterdir()) == []


def test_what_is_not_what_its_digest_says_is_refused(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(ImageMismatch, match="a layer"):
        store.add(in_tar(saved(_layer(("file", b"one")), digests=["sha256:" + "0" * 64]), tmp_path))
    files = saved(_layer(("file", b"one")))
    config = next(name for name in files if name.endswith(".json") and name != "manifest.json")
    files[config] = files[config].replace(b"plain", b"other")
    with pytest.raises(ImageMismatch, match="configuration"):
        store.add(in_tar(files, tmp_path))
    files = layout(_layer(("file", b"one")))
    for name in [name for name in files if name.startswith("blobs")]:
        with pytest.raises((ImageMismatch, SandboxRejected)):
            store.add(in_tar(files | {name: files[name] + b" "}, tmp_path))
        with pytest.raises(SandboxRejected):
            store.add(in_tar({other: data for other, data in files.items() if other != name}, tmp_path))
    assert store.names() == {}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        pytest.param({}, "no image", id="nothing"),
        pytest.param({"manifest.json": b"{"}, "damaged", id="no JSON"),
        pytest.param({"manifest.json": b"[]"}, "0 images", id="no image in it"),
        pytest.param({"index.json": b'{"manifests": []}'}, "for this machine", id="an empty list"),
        pytest.param(saved(b"\x28\xb5\x2f\xfd rest"), "damaged", id="a layer that zstd did not compress"),
        pytest.param(saved(zstd.compress(_layer())[:-1]), "damaged", id="a layer of zstd that is cut off"),
        pytest.param(saved(b"no archive"), "damaged", id="a layer that is none"),
        pytest.param(saved(b"\x1f\x8b cut off"), "damaged", id="a compressed layer that is none"),
    ],
)
def test_a_file_that_is_no_image_says_why(store: ImageStore, tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    with pytest.raises(SandboxRejected, match=why):
        store.add(in_tar(files, tmp_path))


def test_a_file_that_is_no_archive_says_so(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(SandboxRejected, match="no image file"):
        store.add(tmp_path / "text")
