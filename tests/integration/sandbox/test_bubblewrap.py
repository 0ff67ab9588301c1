"""Which bubblewrap makes sandboxes, and which is refused."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from deploy import bubblewrap
from sandbox.backends import open_backend
from sandbox.config import LocalSettings, SandboxSettings
from sandbox.errors import SandboxUnavailable
from sandbox.types import Command, SandboxSpec
from tests.conformance.sandbox.makers import made_by

pytestmark = pytest.mark.anyio

OLD = "0.09.0"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """One that works, and says that it is older than it is: as a distribution's own, where the repair was put into."""
    newest = made_by("bubblewrap").bubblewrap
    assert newest is not None
    program = tmp_path / "bwrap"
    program.write_bytes(newest.read_bytes().replace(bubblewrap.VERSION.encode(), OLD.encode()))
    program.chmod(0o755)
    return program


async def _acquire(local: LocalSettings, **settings: object) -> bytes:
    backend = open_backend("local", SandboxSettings.model_validate({"local": local, **settings}))
    try:
        sandbox = await backend.acquire(SandboxSpec())
        outcome = await sandbox.exec(Command("echo works", "a", 60))
        return outcome.output
    finally:
        await backend.close()


async def test_an_old_one_is_refused_with_the_flaw_it_has_and_what_to_do(old: Path) -> None:
    with pytest.raises(
        SandboxUnavailable, match=rf"is bubblewrap {OLD}, .* 0\.12\.0 .*CVE-2026-87766.*install a newer"
    ):
        await _acquire(LocalSettings(maker="bubblewrap", bubblewrap=old))


async def test_an_old_one_that_was_mended_makes_sandboxes_where_the_settings_say_so(old: Path) -> None:
    settings = LocalSettings(maker="bubblewrap", bubblewrap=old, oldest_bubblewrap=OLD)
    assert await _acquire(settings) == b"works\n"


async def test_one_that_runs_as_another_user_is_refused(old: Path) -> None:
    await asyncio.to_thread(old.chmod, 0o4755)
    with pytest.raises(SandboxUnavailable, match=re.escape(f"chmod ug-s {old}")):
        await _acquire(LocalSettings(maker="bubblewrap", bubblewrap=old, oldest_bubblewrap=OLD))


async def test_where_there_is_none_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxUnavailable, match=r"none/bwrap cannot be run \(No such file"):
        await _acquire(LocalSettings(maker="bubblewrap", bubblewrap=tmp_path / "none" / "bwrap"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"bwrap is not in PATH; install bubblewrap 0\.12\.0 or newer"):
        await _acquire(LocalSettings(maker="bubblewrap"))


async def test_a_program_that_is_no_bubblewrap_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho something else 1.2.3\n")
    program.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match="does not say which version of bubblewrap it is"):
        await _acquire(LocalSettings(maker="bubblewrap", bubblewrap=program))


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can be what no sandbox may be")
async def test_no_sandbox_of_its_is_the_superuser() -> None:
    with pytest.raises(SandboxUnavailable, match="would be the superuser"):
        await _acquire(made_by("bubblewrap"), namespaces="user")


async def test_what_it_says_when_it_cannot_make_one_is_passed_on(tmp_path: Path) -> None:
    """Here, for want of a folder that was there when the settings were read."""
    prefix = tmp_path / "python"
    prefix.symlink_to(tmp_path / "gone")
    (tmp_path / "gone").mkdir()
    os.rename(tmp_path / "gone", tmp_path / "else")  # noqa: PTH104
    with pytest.raises(SandboxUnavailable, match=r"\(bubblewrap: .*gone.*\).*--sandbox docker"):
        await _acquire(made_by("bubblewrap"), python_prefixes=(prefix,))
