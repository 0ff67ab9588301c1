"""The program that fetches weights for the chart, from a stand-in for the hub: what it calls done is all there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.chart.__main__ import CHART
from tests.disk import small_disk

REPOSITORY, FIRST, SECOND = "XiaomiMiMo/mimo-v2-nano", "1" * 40, "2" * 40
HUB = Path(__file__).with_name("hub.py")
IN_VAIN = 3
"""The exit code by which the Job is told not to try again."""


@dataclass(frozen=True, slots=True)
class Hub:
    """One that has a single commit."""

    address: str

    def fetch(self, revision: str, folder: Path, repository: str = REPOSITORY) -> "Fetched":
        done = subprocess.run(
            [sys.executable, str(CHART / "files" / "download.py"), repository, revision, str(folder)],
            env={**os.environ, "HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        mark = folder / ".revision"
        return Fetched(done.returncode, done.stdout + done.stderr, mark.read_text() if mark.exists() else None)


@dataclass(frozen=True, slots=True)
class Fetched:
    code: int
    said: str
    revision: str | None
    """What whoever waits for weights takes them for."""


@contextmanager
def hub(folder: Path, revision: str, **files: str | None) -> Iterator[Hub]:
    """One with these files; ``None`` is one that cannot be fetched. Its folder is new."""
    folder.mkdir()
    for name, content in files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_text(content)
    program = [sys.executable, str(HUB), str(folder), REPOSITORY, revision, "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield Hub(f"http://127.0.0.1:{process.stdout.readline().split()[1]}")
        finally:
            process.terminate()


def test_a_commit_is_fetched_once(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    with hub(tmp_path / "hub", FIRST, config="{}", model="numbers") as first:
        fetched = first.fetch(FIRST, weights)
        assert (fetched.code, fetched.revision) == (0, FIRST), fetched.said
        assert (weights / "model").read_text() == "numbers"
    again = first.fetch(FIRST, weights)
    assert (again.code, again.revision) == (0, FIRST), "without the hub"
    assert f"has {FIRST} already" in again.said


def test_another_commit_takes_the_place_of_the_first(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    with hub(tmp_path / "hub", FIRST, config="{}", model="numbers") as first:
        first.fetch(FIRST, weights)
    with hub(tmp_path / "newer", SECOND, config="{}", model="NUMBERS") as second:
        fetched = second.fetch(SECOND, weights)
    assert (fetched.code, fetched.revision) == (0, SECOND), fetched.said
    assert (weights / "model").read_text() == "NUMBERS"


def test_what_lies_there_is_not_taken_for_a_commit_while_the_hub_is_away(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    with hub(tmp_path / "hub", FIRST, model="numbers") as first:
        first.fetch(FIRST, weights)
    fetched = first.fetch(SECOND, weights)
    assert fetched.code not in (0, IN_VAIN), fetched.said
    assert fetched.revision is None
    assert f"fetching {REPOSITORY} at {SECOND} from {first.address}" in fetched.said


def test_a_file_of_the_commit_before_is_not_taken_for_one_that_the_hub_could_not_give(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    with hub(tmp_path / "hub", FIRST, config="{}", model="numbers") as first:
        first.fetch(FIRST, weights)
    with hub(tmp_path / "broken", SECOND, config="{ }", model=None) as broken:
        fetched = broken.fetch(SECOND, weights)
    assert fetched.code not in (0, IN_VAIN), fetched.said
    assert fetched.revision is None
    with hub(tmp_path / "mended", SECOND, config="{ }", model="NUMBERS") as mended:
        fetched = mended.fetch(SECOND, weights)
    assert (fetched.code, fetched.revision) == (0, SECOND), fetched.said
    assert (weights / "model").read_text() == "NUMBERS"


def test_a_commit_or_a_repository_that_the_hub_does_not_have_is_named_and_not_asked_for_again(tmp_path: Path) -> None:
    with hub(tmp_path / "hub", FIRST, model="numbers") as first:
        no_commit = first.fetch(SECOND, tmp_path / "weights")
        no_repository = first.fetch(FIRST, tmp_path / "weights", "XiaomiMiMo/other")
    assert (no_commit.code, no_repository.code) == (IN_VAIN, IN_VAIN)
    assert (
        f"{REPOSITORY} has no commit {SECOND}: name one that it has in modelServer.weights.revision" in no_commit.said
    )
    assert f"{first.address} has no XiaomiMiMo/other" in no_repository.said
    assert no_commit.revision is no_repository.revision is None


def test_a_volume_that_is_too_small_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, hub(tmp_path / "hub", FIRST, model="0" * 3_000_000) as first:
        fetched = first.fetch(FIRST, disk / "weights")
        assert fetched.code == IN_VAIN
        assert "0.003 GB are to be fetched, and the volume has 0.002 GB left" in fetched.said
        assert not (disk / "weights" / "model").exists()
        assert fetched.revision is None


def test_what_is_there_already_needs_no_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, hub(tmp_path / "hub", FIRST, model="0" * 1_500_000) as first:
        assert first.fetch(FIRST, disk / "weights").revision == FIRST
        (disk / "weights" / ".revision").unlink()
        again = first.fetch(FIRST, disk / "weights")
    assert again.revision == FIRST, again.said
