"""Archives from hostile hands: what Python's own tar writer can be made to write, and worse."""

import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.archive import pack, unpack_hostile
from sandbox.errors import SandboxRejected


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("untouched")
    root = tmp_path / "root"
    root.mkdir()
    return root


def _tar(*entries: tuple[str, bytes, dict[str, object]], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data, fields in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


LINK = {"type": tarfile.SYMTYPE}


@pytest.mark.parametrize(
    "entries",
    [
        [("../outside/file", b"x", {})],
        [("a/../../outside/file", b"x", {})],
        [("/tmp/absolute", b"x", {})],
        [("", b"x", {})],
        [("link", b"", {**LINK, "linkname": "../outside"}), ("link/file", b"x", {})],
        [("link", b"", {**LINK, "linkname": "."}), ("link/link/file", b"x", {})],
        [("file", b"x", {}), ("file/below", b"x", {})],
        [("folder", b"", {"type": tarfile.DIRTYPE}), ("folder", b"x", {})],
        [("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "../outside/file"})],
        [("hard", b"", {"type": tarfile.LNKTYPE, "linkname": "inside"})],
        [("device", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
        [("device", b"", {"type": tarfile.BLKTYPE})],
        [("pipe", b"", {"type": tarfile.FIFOTYPE})],
        [("sparse", b"", {"type": tarfile.GNUTYPE_SPARSE})],
        [("unknown", b"", {"type": b"Z"})],
        [("link", b"", {**LINK, "linkname": ""})],
        [("/".join("d" * 300), b"x", {})],
        [("n" * 300, b"x", {})],
        [("n" * 5000, b"x", {})],
        [("folder", b"content", {"type": tarfile.DIRTYPE})],
    ],
    ids=lambda entries: entries[-1][0][:30] or "empty",
)
def test_what_no_work_tree_holds_is_rejected(root: Path, entries: list[tuple[str, bytes, dict[str, object]]]) -> None:
    with pytest.raises(SandboxRejected):
        unpack_hostile(_tar(*entries), root)
    assert os.listdir(root.parent / "outside") == ["file"]  # noqa: PTH208
    assert (root.parent / "outside" / "file").read_text() == "untouched"
    assert not Path("/tmp/absolute").exists()


def test_a_file_replaces_a_link_of_its_name_instead_of_following_it(root: Path) -> None:
    (root / "link").symlink_to("../outside/file")
    unpack_hostile(_tar(("link", b"new", {})), root)
    assert (root / "link").read_text() == "new"
    unpack_hostile(_tar(("x", b"", {**LINK, "linkname": "../outside/file"}), ("x", b"new", {})), root)
    assert (root / "x").read_text() == "new"
    assert (root.parent / "outside" / "file").read_text() == "untouched"


def test_links_stay_links_wherever_they_point(root: Path) -> None:
    unpack_hostile(_tar(("link", b"", {**LINK, "linkname": "/etc/passwd"})), root)
    assert (root / "link").readlink() == Path("/etc/passwd")


def test_modes_are_reduced_to_executable_or_not(root: Path) -> None:
    unpack_hostile(_tar(("suid", b"", {"mode": 0o6755}), ("plain", b"", {"mode": 0o666})), root)
    assert [(root / name).stat().st_mode & 0o7777 for name in ("suid", "plain")] == [0o755, 0o644]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_common_form_of_long_names_is_read(root: Path, form: int) -> None:
    name = "folder/" * 14 + "n" * 80
    unpack_hostile(_tar((name, b"data", {}), ("short", b"", {**LINK, "linkname": "t" * 90}), form=form), root)
    assert (root / name).read_bytes() == b"data"
    assert str((root / "short").readlink()) == "t" * 90


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:700],
        lambda data: data[:512],
        lambda data: b"x" + data[1:],
        lambda data: b"",
        lambda data: b"no archive at all" * 100,
    ],
    ids=["content cut", "only a header", "checksum", "empty", "text"],
)
def test_a_damaged_archive_is_rejected(root: Path, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SandboxRejected):
        unpack_hostile(damage(_tar(("file", b"x" * 300, {}))), root)


def test_sizes_are_bounded_before_anything_is_written(root: Path) -> None:
    huge = bytearray(_tar(("huge", b"", {})))
    huge[124:136] = b"\x80" + (2**60).to_bytes(11, "big")
    huge[148:156] = b" " * 8
    huge[148:156] = b"%06o\0 " % sum(huge[:512])
    with pytest.raises(SandboxRejected, match="more than"):
        unpack_hostile(bytes(huge), root)
    with pytest.raises(SandboxRejected, match="more than 9 bytes"):
        unpack_hostile(_tar(("a", b"12345", {}), ("b", b"12345", {})), root, max_bytes=9)
    with pytest.raises(SandboxRejected, match="more than 2 entries"):
        unpack_hostile(_tar(*((str(i), b"", {}) for i in range(3))), root, max_entries=2)


def test_an_extended_header_that_does_not_add_up_is_rejected(root: Path) -> None:
    for record in (b"99 path=x\n", b"0 path=x\n", b"path", b"1e1 path=x", b"17 GNU.sparse.major=1\n", b"9 size=1\n"):
        with pytest.raises(SandboxRejected):
            unpack_hostile(_tar(("x", record, {"type": b"x"}), ("file", b"", {})), root)


@settings(max_examples=40)
@given(st.binary(max_size=3000))
def test_any_bytes_are_unpacked_or_rejected(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SandboxRejected):
        unpack_hostile(data, Path(folder))


_NAMES = (
    st.binary(min_size=1, max_size=40)
    .filter(lambda name: b"/" not in name and b"\0" not in name)
    .filter(lambda name: name not in (b".", b".."))
)


@settings(max_examples=40)
@given(st.dictionaries(_NAMES, st.one_of(st.binary(max_size=2000), st.none()), max_size=8))
def test_what_is_packed_unpacks_the_same(files: dict[bytes, bytes | None]) -> None:
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        for name, data in files.items():
            place = Path(os.fsdecode(os.fsencode(first) + b"/" + name))
            if data is None:
                place.mkdir()
                (place / "inner").symlink_to("x" * 150)
            else:
                place.write_bytes(data)
        archive = pack(Path(first))
        unpack_hostile(archive, Path(second))
        assert pack(Path(second)) == archive


def test_python_reads_what_we_pack(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ("long" * 40)).write_bytes(b"data")
    (tmp_path / "link").symlink_to("target" * 30)
    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path))) as tar:
        assert sorted(tar.getnames()) == ["d", "d/" + "long" * 40, "link"]
        assert tar.getmember("link").linkname == "target" * 30
        file = tar.extractfile("d/" + "long" * 40)
        assert file is not None
        assert file.read() == b"data"
