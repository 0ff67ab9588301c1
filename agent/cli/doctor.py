"""``mimo doctor``: whether what a task needs is there, each thing tried and not only looked for."""

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from agent.cli.failure import ExitCode, Failure
from agent.cli.settings import load
from agent.cli.terminal import Terminal, printable
from agent.config import ModelSettings
from agent.errors import ModelError
from agent.git import git
from agent.model import open_model
from agent.probe import probe
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
    code = ExitCode.DONE
    for examination in (
        _Examination("python", _python),
        _Examination("git", _git),
        _Examination("home", lambda: _home(home)),
        _Examination("configuration", lambda: _configuration(environment)),
        _Examination(f"sandbox ({backend})", lambda: _sandbox(backend, sandbox)),
        _Examination("model", lambda: _model(model)),
    ):
        try:
            mark, style, found = "✓", "green", await examination.look()
        except _Trouble as trouble:
            mark, style, found, code = "✗", "red", str(trouble), ExitCode.FAILED
        line = Text.assemble((f"{mark} ", style), f"{examination.name:<18} ", printable(found))
        terminal.out.print(line, soft_wrap=True, highlight=False)
    return code


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
    return "a command ran in it"


async def _model(settings: ModelSettings | None) -> str:
    if settings is None:
        return "the embedded one would be started; --model-url names another"
    try:
        async with open_model(settings.model_copy(update={"retries": 0})) as model:
            contract = await probe(model)
    except ModelError as error:
        raise _Trouble(f"{settings.url}: {error}") from error
    if not contract.keeps_reasoning:
        raise _Trouble(f"{settings.url}: {contract}")
    return f"{settings.name} at {settings.url}: {contract}"
