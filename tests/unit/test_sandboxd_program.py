"""The program that serves a sandbox from inside: its own tests, and what is promised of its build."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import program
from sandbox.errors import SandboxUnavailable
from tests.conformance.sandbox.names import missing

GO = shutil.which("go")
EMULATOR = shutil.which("qemu-aarch64-static")
needs_go = pytest.mark.skipif(GO is None, reason="not installed: go (Debian: golang-go)")


def _go(*arguments: str, architecture: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOARCH": architecture}
    return subprocess.run(
        ["go", *arguments], cwd=program.SOURCE, env=environment, capture_output=True, text=True, check=False
    )


@needs_go
def test_its_own_tests_pass() -> None:
    done = _go("test", ".")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_go
@pytest.mark.skipif(EMULATOR is None, reason="not installed: qemu-aarch64-static (Debian: qemu-user-static)")
def test_its_own_tests_pass_on_an_emulated_arm64() -> None:
    done = _go("test", f"-exec={EMULATOR}", ".", architecture="arm64")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_go
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_compiler_finds_nothing_to_object_to(architecture: str) -> None:
    done = _go("vet", ".", architecture=architecture)
    assert done.returncode == 0, done.stderr


@needs_go
def test_its_language_is_that_of_debians_compiler() -> None:
    assert _go("list", "-f", "{{.Module.GoVersion}}").stdout.strip() == "1.19"  # what Debian 12 has


@needs_go
def test_it_needs_nothing_but_the_standard_library() -> None:
    assert _go("list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}").stdout.split() == ["sandboxd"]


@needs_go
def test_two_builds_in_different_places_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two/deeper"):
        shutil.copytree(program.SOURCE, tmp_path / name / "source")
        program.build(tmp_path / name / "sandboxd", source=tmp_path / name / "source")
    assert (tmp_path / "one" / "sandboxd").read_bytes() == (tmp_path / "two" / "deeper" / "sandboxd").read_bytes()


@needs_go
def test_it_is_one_static_file_for_either_processor(tmp_path: Path) -> None:
    for architecture, machine in {"amd64": 62, "arm64": 183}.items():
        program.build(tmp_path / architecture, architecture)
        header = (tmp_path / architecture).read_bytes()[:64]
        assert int.from_bytes(header[18:20], "little") == machine
        assert (tmp_path / architecture).stat().st_size < 6_000_000
        assert b"ld-linux" not in (tmp_path / architecture).read_bytes()


@needs_go
def test_it_is_built_once() -> None:
    first = program.sandboxd(None)
    before = first.stat().st_mtime_ns
    assert program.sandboxd(None) == first
    assert first.stat().st_mtime_ns == before


@needs_go
@pytest.mark.parametrize("name", ["sandboxd", "egressd"])
def test_one_that_was_shipped_needs_no_go_and_none_is_taken_for_another(name: str, tmp_path: Path) -> None:
    if name == "egressd" and (reason := missing()):
        pytest.skip(reason)
    package = tmp_path / "sandbox"
    left_out = shutil.ignore_patterns("__pycache__", "sandboxd-*", "egressd-*")
    shutil.copytree(program.SOURCE.parent, package, ignore=left_out)
    ship = f"from sandbox import program; print(program.ship(program.SOURCE.with_name('{name}')))"
    find = f"import os; os.environ['PATH'] = ''; from sandbox.program import {name}; print({name}(None))"
    shipped = _python(ship, tmp_path)
    assert _python(find, tmp_path) == shipped
    assert os.access(shipped.strip(), os.X_OK)
    (package / name / "main.go").write_text("package main // changed since")
    assert "install Go" in _python(find, tmp_path)


def _python(line: str, folder: Path) -> str:
    """What a program says that finds our packages in ``folder``."""
    command = [sys.executable, "-P", "-c", line]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    return done.stdout or done.stderr


def test_a_machine_without_go_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="install Go"):
        program.sandboxd(None)


def test_a_program_of_the_settings_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="not a program that can be run"):
        program.sandboxd(tmp_path / "nothing")


@needs_go
def test_source_that_does_not_build_says_why(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module broken\n\ngo 1.19\n")
    (tmp_path / "main.go").write_text("package main\n\nfunc main() { nonsense() }\n")
    with pytest.raises(SandboxUnavailable, match="undefined: nonsense"):
        program.build(tmp_path / "out", source=tmp_path)
