"""Work trees kept outside the sandbox and put back: equal, cheap, and never half."""

import random
from pathlib import Path

import pytest

from sandbox.checkpoints.rewindable import Rewindable
from sandbox.checkpoints.store import CheckpointStore, Freed
from sandbox.errors import CheckpointDamaged, SandboxError, SandboxRejected, UnknownCheckpoint
from sandbox.types import Capability, Command, Resources, SandboxSpec
from tests.conformance.sandbox.conftest import SMALL

pytestmark = pytest.mark.anyio

# Says all there is to say of a tree, and not by our own means.
DESCRIBE = r"""
import hashlib, os, stat
def describe(place):
    status = os.lstat(place)
    kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
    if kind == stat.S_IFDIR: os.chmod(place, 0o700)
    elif kind == stat.S_IFREG: os.chmod(place, 0o600)
    what = os.readlink(place) if kind == stat.S_IFLNK else ""
    if kind == stat.S_IFREG: what = hashlib.sha256(open(place, "rb").read()).hexdigest()
    print(place, oct(kind), oct(mode), status.st_mtime_ns if place != b"." else "", what)
    if kind == stat.S_IFDIR:
        for name in sorted(os.listdir(place)): describe(os.path.join(place, name))
    if kind != stat.S_IFLNK: os.chmod(place, mode)
describe(b".")
"""

# Makes so many random changes: files of all sizes, links, pipes, folders that nobody may enter, names of any bytes.
EDIT = r"""
import os, random, shutil, sys
chance = random.Random(int(sys.argv[1]))
def name():
    some = bytes(chance.choice(b"ab.-\n \xff") for _ in range(chance.randint(1, 4)))
    return b"dots" if some in (b".", b"..") else some
def is_link(place): return os.path.islink(place)
def folders():
    return [b"."] + [os.path.join(top, each) for top, inner, _ in os.walk(b".") for each in inner
                     if not is_link(os.path.join(top, each))]
def remove(path):
    if os.path.isdir(path) and not is_link(path): shutil.rmtree(path)
    elif os.path.lexists(path): os.unlink(path)
num_seen = -1
while num_seen != (num_seen := len(folders())):
    for folder in folders(): os.chmod(folder, 0o700)
for _ in range(int(sys.argv[2])):
    place = os.path.join(chance.choice(folders()), name())
    remove(place)
    match chance.randrange(6):
        case 0 | 1: open(place, "wb").write(chance.randbytes(chance.choice([0, 1, 300, 70_000, 300_000])))
        case 2: os.makedirs(place)
        case 3: os.symlink(chance.choice([b"nowhere", b"/etc/passwd", b"..", b"a"]), place)
        case 4: open(place, "w").write("same everywhere")
        case 5: os.mkfifo(place) if sys.argv[3:] else None
for folder in reversed(folders()[1:]):
    for each in os.listdir(folder):
        each = os.path.join(folder, each)
        if os.path.isfile(each) and not is_link(each): os.chmod(each, chance.choice([0o644, 0o755, 0o000, 0o444]))
    os.chmod(folder, chance.choice([0o755, 0o700, 0o555, 0o000]))
    if chance.random() < 0.3: os.utime(folder, ns=(5, chance.randrange(10**18)))
"""


@pytest.fixture
def rewindable(sandbox, only_with) -> Rewindable:
    only_with(Capability.CHECKPOINTS)
    assert isinstance(sandbox, Rewindable)
    return sandbox


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path)


@pytest.fixture
def describe(rewindable, say):
    async def describe() -> str:
        await rewindable.write("/tmp/describe.py", DESCRIBE.encode())
        said: str = await say("python3 /tmp/describe.py")
        return said

    return describe


@pytest.mark.parametrize("seed", range(4))
async def test_any_tree_comes_back_after_any_edit(seed, rewindable, store, say, describe):
    await rewindable.write("/tmp/edit.py", EDIT.encode())
    await say(f"python3 /tmp/edit.py {seed} 60")
    saved = []
    for number in range(3):
        saved.append((await rewindable.checkpoint(store), _without_pipes(await describe())))
        await say(f"python3 /tmp/edit.py {seed * 100 + number} 40 pipes")
    for checkpoint, description in random.Random(seed).sample(saved, 3):
        await rewindable.restore(store, checkpoint)
        assert await describe() == description
        assert await rewindable.checkpoint(store) == checkpoint


async def test_another_sandbox_goes_on_where_the_first_one_was(backend, rewindable, store, say, describe):
    await say(
        "git init -q . && echo one > file && git add . && git commit -qm first && mkdir empty && echo x > ignored"
    )
    await say("echo ignored > .gitignore; ln -s file link; chmod 600 file; truncate -s 3M sparse")
    checkpoint, description = await rewindable.checkpoint(store), await describe()
    await rewindable.close()
    other = await backend.acquire(SMALL)
    try:
        assert isinstance(other, Rewindable)
        await other.restore(store, checkpoint)
        assert await other.checkpoint(store) == checkpoint
    finally:
        await other.close()
    assert description.count("\n") > 20


async def test_what_has_not_changed_is_neither_kept_nor_fetched_again(rewindable, store, tmp_path, say):
    await say("for n in $(seq 50); do head -c 20000 /dev/urandom > file-$n; done")
    await rewindable.checkpoint(store)
    before = _contents(tmp_path)
    await say("cp file-1 copy; mv file-2 moved; echo new > file-3")
    await rewindable.checkpoint(store)
    assert {path: times for path, times in _contents(tmp_path).items() if path in before} == before
    assert len(_contents(tmp_path)) == len(before) + 1


async def test_a_large_file_goes_out_and_comes_back(rewindable, store, say):
    await say("head -c 20000000 /dev/urandom > large; sha256sum large > sum")
    checkpoint = await rewindable.checkpoint(store)
    await say("rm large; echo > sum")
    await rewindable.restore(store, checkpoint)
    await say("sha256sum -c sum")


async def test_a_tree_over_the_bound_is_not_kept(rewindable, store, say):
    await say("truncate -s 1001 file")
    with pytest.raises(SandboxRejected, match="holds 1001 bytes, more than 1000"):
        await rewindable.checkpoint(store, max_bytes=1000)
    assert store.checkpoints() == set()


async def test_a_tree_that_does_not_fit_is_not_taken_for_whole(backend, rewindable, store, say):
    await say("echo small > file")
    small = await rewindable.checkpoint(store)
    await say("head -c 40000000 /dev/urandom > large")
    full = await rewindable.checkpoint(store)
    other = await backend.acquire(SandboxSpec(resources=Resources(memory_mib=192, processes=64, disk_mib=16)))
    cat = Command(line="ls; cat file", request_id="cat", timeout_s=30)
    try:
        with pytest.raises(OSError, match="No space left"):
            await other.restore(store, full)
        with pytest.raises(SandboxError, match="not restored to its end"):
            await other.exec(cat)
        with pytest.raises(SandboxError, match="not restored to its end"):
            await other.checkpoint(store)
        await other.restore(store, small)
        assert (await other.exec(cat)).output == b"file\nsmall\n"
    finally:
        await other.close()


async def test_a_damaged_store_is_noticed_before_anything_changes(rewindable, store, tmp_path, say):
    await say("echo one > one; echo two > two")
    checkpoint = await rewindable.checkpoint(store)
    await say("echo edited > one; echo edited > two")
    damaged, lost = _contents(tmp_path)
    damaged.write_bytes(b"else")
    with pytest.raises(CheckpointDamaged, match="is damaged"):
        await rewindable.restore(store, checkpoint)
    damaged.unlink()
    lost.unlink()
    with pytest.raises(CheckpointDamaged, match="has lost"):
        await rewindable.restore(store, checkpoint)
    assert await say("cat one two") == "edited\nedited\n"


async def test_a_checkpoint_that_is_not_there_changes_nothing(rewindable, store, say):
    await say("echo kept > file")
    for unknown in ("", "..", "f" * 64):
        with pytest.raises(UnknownCheckpoint):
            await rewindable.restore(store, unknown)
    assert await say("cat file") == "kept\n"


async def test_a_collected_store_still_restores_what_was_kept(rewindable, store, say):
    await say("echo one > one; echo both > both")
    first = await rewindable.checkpoint(store)
    await say("rm one; echo two > two")
    second = await rewindable.checkpoint(store)
    assert store.collect({second}) == Freed(num_checkpoints=1, num_contents=1, num_bytes=4)
    assert store.checkpoints() == {second}
    with pytest.raises(UnknownCheckpoint):
        await rewindable.restore(store, first)
    await say("rm *")
    await rewindable.restore(store, second)
    assert await say("cat both two") == "both\ntwo\n"


async def test_a_tree_that_never_rests_is_refused(rewindable, store, run):
    await run("(while :; do date +%N > file; head -c 3000000 /dev/urandom > large; done) > /dev/null 2>&1 &")
    await run("until [ -s large ]; do sleep 0.01; done")
    with pytest.raises(SandboxRejected, match="changes while it is saved"):
        await _save_often(rewindable, store)


async def _save_often(rewindable: Rewindable, store: CheckpointStore) -> None:
    for _ in range(20):
        await rewindable.checkpoint(store)


def _without_pipes(description: str) -> str:
    return "".join(line for line in description.splitlines(keepends=True) if " 0o10000 " not in line)


def _contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("contents/??/*")}
