"""What a sandbox says of its tree is hostile, and a store of checkpoints keeps its word."""

import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sandbox.checkpoints import transfer
from sandbox.checkpoints.manifest import MAX_ENTRIES, Manifest
from sandbox.checkpoints.store import CheckpointStore
from sandbox.errors import CheckpointDamaged, SandboxError, SandboxRejected

ROOT = b"d 755 0 0 - .\0"
SUM = hashlib.sha256(b"content").hexdigest().encode()
FILE = b"f 644 7 5 " + SUM + b" file\0"


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        ROOT[:-1],
        FILE,
        ROOT + ROOT,
        ROOT + FILE + FILE,
        ROOT + b"d 755 0 0 - ..\0",
        ROOT + b"d 755 0 0 - a/../b\0",
        ROOT + b"d 755 0 0 - /etc\0",
        ROOT + b"d 755 0 0 - a//b\0",
        ROOT + b"d 755 0 0 - a/b\0",
        ROOT + FILE + b"d 755 0 0 - file/b\0",
        ROOT + b"l 777 0 0 - link\0to\0d 755 0 0 - link/b\0",
        ROOT + b"l 777 0 0 - link\0",
        ROOT + b"l 777 0 0 - link\0\0",
        ROOT + b"l 777 0 0 - link\0" + b"x" * 4096 + b"\0",
        ROOT + b"f 644 7 5 - file\0",
        ROOT + b"d 755 0 5 " + SUM + b" folder\0",
        ROOT + b"d 755 7 5 - folder\0",
        ROOT + b"f 644 -7 5 " + SUM + b" file\0",
        ROOT + b"f 99999 7 5 " + SUM + b" file\0",
        ROOT + b"p 644 0 0 - pipe\0",
        ROOT + b"d 755 0 0 - " + b"x" * 5000 + b"\0",
        ROOT + b"".join(b"d 755 0 0 - " + b"/".join([b"d"] * depth) + b"\0" for depth in range(1, 210)),
        ROOT + b"".join(b"d 755 0 0 - %d\0" % number for number in range(MAX_ENTRIES)),
    ],
    ids=str,
)
def test_a_listing_that_no_honest_sandbox_writes_is_rejected(listing):
    with pytest.raises(SandboxRejected, match="listing of the work tree"):
        Manifest.parse(listing)


@given(some.binary(max_size=200))
def test_no_bytes_break_the_reader_of_listings(data):
    with suppress(SandboxRejected):
        manifest = Manifest.parse(ROOT + data)
        assert Manifest.parse(manifest.encode()) == manifest


class _Sandbox:
    """Answers file calls as it is told; the last answer is repeated."""

    def __init__(self, *listings: bytes, files: bytes = b"") -> None:
        self._listings = list(listings)
        self._files = files

    async def __call__(self, op: str, data: bytes | memoryview, limit: int) -> AsyncIterator[bytes]:
        if op == "tree":
            yield self._listings.pop(0) if len(self._listings) > 1 else self._listings[0]
        elif op == "tree_out":
            for position in range(0, len(self._files), 3):
                yield self._files[position : position + 3]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path)


WHOLE = b"file\0\0\0\0\3con\0\0\0\4tent\0\0\0\0"


@pytest.mark.anyio
async def test_content_that_comes_in_pieces_is_kept_once(store, tmp_path):
    checkpoint = await transfer.save(_Sandbox(ROOT + FILE, files=WHOLE), store, 1000)
    assert [entry.path for entry in store.manifest(checkpoint).files] == [b"file"]
    assert b"".join(store.read(SUM.decode())) == b"content"
    assert await transfer.save(_Sandbox(ROOT + FILE, files=b"never asked for"), store, 1000) == checkpoint
    assert list((tmp_path / "unfinished").iterdir()) == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("files", "why"),
    [
        (b"", "changes while"),
        (WHOLE[:-1], "changes while"),
        (WHOLE[:-2] + b"\1", "changes while"),
        (WHOLE.replace(b"con", b"CON"), "changes while"),
        (WHOLE + WHOLE, "nobody asked for"),
        (WHOLE.replace(b"file", b"else"), "nobody asked for"),
        (b"\0" + WHOLE, "nobody asked for"),
        (b"x" * 5000, "nobody asked for"),
        (b"file\0\xff\xff\xff\xff", "no honest one"),
    ],
)
async def test_content_that_is_not_what_was_announced_is_not_kept(files, why, store, tmp_path):
    with pytest.raises(SandboxRejected, match=why):
        await transfer.save(_Sandbox(ROOT + FILE, files=files), store, 1000)
    assert store.checkpoints() == set()
    assert list((tmp_path / "unfinished").iterdir()) == []


@pytest.mark.anyio
async def test_a_tree_that_only_claims_to_be_restored_is_noticed(store):
    checkpoint = await transfer.save(_Sandbox(ROOT + FILE, files=WHOLE), store, 1000)
    await transfer.restore(_Sandbox(ROOT, ROOT + FILE), store, checkpoint)
    with pytest.raises(SandboxError, match="not what it should be"):
        await transfer.restore(_Sandbox(ROOT), store, checkpoint)


@pytest.mark.anyio
async def test_a_manifest_that_was_changed_on_disk_is_noticed(store, tmp_path):
    checkpoint = await transfer.save(_Sandbox(ROOT), store, 1000)
    (tmp_path / "manifests" / checkpoint).write_bytes(ROOT + FILE)
    with pytest.raises(CheckpointDamaged):
        store.manifest(checkpoint)


@pytest.mark.anyio
async def test_a_collection_waits_for_whoever_saves_and_takes_what_they_left(store, tmp_path):
    await transfer.save(_Sandbox(ROOT + FILE, files=WHOLE), store, 1000)
    (tmp_path / "unfinished" / "left").write_bytes(b"by a process that died")
    with store.locked():
        collecting = threading.Thread(target=store.collect, args=[()])
        collecting.start()
        collecting.join(0.1)
        assert collecting.is_alive()
        assert len(store.checkpoints()) == 1
    collecting.join()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "lock"]
