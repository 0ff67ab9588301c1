"""``mimo doctor``: whether what a task needs is there, each thing tried and not only looked for."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.text import Text

from agent.cli.failure import ExitCode, Failure
from agent.cli.settings import load
from agent.cli.terminal import Terminal, printable
from agent.config import ModelSettings
from agent.conformance import Finding, examine
from agent.git import git
from agent.model import open_model
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.errors import SandboxError
from sandbox.types import Command, Exited, SandboxSpec

_MIN_FREE_BYTES = 1024**3
_COMMAND_S = 30.0


class _Trouble(Exception):
    """Something does not work; the message says what, and what to do."""


@dataclass(frozen=True, slots=True)
class _Examination:
    name: str
    look: Callable[[], Awaitable[str]]
    """What was found; raises :class:`_Trouble`."""


async def doctor(
    model: ModelSettings | None,
    backend: str,
    sandbox: SandboxSettings,
    home: Path,
    environment: Mapping[str, str],
    terminal: Terminal,
) -> ExitCode:
    """Look at everything; a line for each.

    Args:
        model: the endpoint to ask; None where the embedded model would be started.
    """
    findings: list[Finding] = []
    for examination in (
        _Examination("python", _python),
        _Examination("git", _git),
        _Examination("home", lambda: _home(home)),
        _Examination("configuration", lambda: _configuration(environment)),
        _Examination(f"sandbox ({backend})", lambda: _sandbox(backend, sandbox)),
    ):
        try:
            finding = Finding(examination.name, True, await examination.look())
        except _Trouble as trouble:
            finding = Finding(examination.name, False, str(trouble))
        findings.append(_shown(finding, terminal))
    async for finding in _model(model):
        findings.append(_shown(finding, terminal))
    return ExitCode.DONE if all(finding.passed for finding in findings) else ExitCode.FAILED


def _shown(finding: Finding, terminal: Terminal) -> Finding:
    mark = ("✓ ", "green") if finding.passed else ("✗ ", "red")
    line = Text.assemble(mark, f"{finding.name:<18} ", printable(finding.detail))
    terminal.out.print(line, soft_wrap=True, highlight=False)
    return finding


async def _python() -> str:
    return sys.version.split()[0]


async def _git() -> str:
    if shutil.which("git") is None:
        raise _Trouble("not found; install git")
    return (await git("version", cwd=Path("/"))).decode().strip()


async def _home(home: Path) -> str:
    return await asyncio.to_thread(_write_to, home)


def _write_to(home: Path) -> str:
    try:
        home.mkdir(parents=True, exist_ok=True)
        trial = home / ".doctor"
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        raise _Trouble(f"{home} cannot be written ({error.strerror}); set MIMO_HOME to a folder that can") from error
    free = shutil.disk_usage(home).free
    if free < _MIN_FREE_BYTES:
        raise _Trouble(f"{home} has {free // 1024**2} MiB left; make room")
    return f"{home}, {free // 1024**3} GiB free"


async def _configuration(environment: Mapping[str, str]) -> str:
    try:
        load(environment)
    except Failure as failure:
        raise _Trouble(failure.message) from failure
    return "can be read"


async def _sandbox(name: str, settings: SandboxSettings) -> str:
    try:
        backend = open_backend(name, settings)
        try:
            sandbox = await backend.acquire(SandboxSpec())
            outcome = await sandbox.exec(Command("echo works", request_id="doctor", timeout_s=_COMMAND_S))
            await sandbox.close()
        finally:
            await backend.close()
    except SandboxError as error:
        raise _Trouble(str(error)) from error
    if not isinstance(outcome, Exited) or outcome.output != b"works\n":
        raise _Trouble(f"a command did not run: {outcome}")
    maker = ", made by bubblewrap" if name == "local" and settings.local.maker == "bubblewrap" else ""
    return f"a command ran in it{maker}"


async def _model(settings: ModelSettings | None) -> AsyncIterator[Finding]:
    """What of the endpoint is as the agent needs it; this stops where it gives no answer."""
    if settings is None:
        yield Finding("model", True, "the embedded one would be started; --model-url names another")
        return
    async with open_model(settings.model_copy(update={"retries": 0})) as model:
        async for finding in examine(model):
            yield replace(finding, name=f"model {finding.name}")
