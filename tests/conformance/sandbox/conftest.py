"""One suite over every backend: a test here asks only for what `sandbox.types` promises."""

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio
import pytest

from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.types import Backend, Command, Outcome, Resources, Sandbox, SandboxSpec

SMALL = SandboxSpec(resources=Resources(memory_mib=192, processes=64, disk_mib=48))


def _backends() -> list[str]:
    # Only the superuser can make namespaces in both ways.
    return ["local-root", "local-user"] if os.geteuid() == 0 else ["local-user"]


@pytest.fixture(scope="session", params=_backends())
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    name, namespaces = request.param.split("-")
    backend = open_backend(name, SandboxSettings(namespaces=namespaces))
    yield backend
    anyio.run(backend.close)


@pytest.fixture
async def sandbox(backend: Backend) -> AsyncIterator[Sandbox]:
    sandbox = await backend.acquire(SMALL)
    yield sandbox
    await sandbox.close()


Run = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def run(sandbox: Sandbox) -> Run:
    """Run a line in ``sandbox`` under a request id of its own."""
    numbers = itertools.count()

    async def run(line: str, timeout_s: float = 30.0, **options: object) -> Outcome:
        command = Command(line=line, request_id=f"call-{next(numbers)}", timeout_s=timeout_s, **options)  # type: ignore[arg-type]
        return await sandbox.exec(command)

    return run


Say = Callable[[str], Awaitable[str]]


@pytest.fixture
def say(run: Run) -> Say:
    """Run a line that must succeed; its output as text."""

    async def say(line: str) -> str:
        outcome = await run(line)
        assert getattr(outcome, "code", None) == 0, outcome
        return outcome.output.decode()

    return say
