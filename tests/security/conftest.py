"""The escape suite: programs that try to get out of a sandbox, and a host that notices.

What a program says of itself only proves that it tried. Whether it got out is asked of the host, after every test.
"""

import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from sandbox.archive import pack
from sandbox.types import Backend, Command, Outcome, Sandbox
from tests.conformance.sandbox import probe
from tests.conformance.sandbox.conftest import SMALL
from tests.conformance.sandbox.conftest import backend as backend
from tests.conformance.sandbox.conftest import docker_address as docker_address
from tests.conformance.sandbox.conftest import egress as egress
from tests.conformance.sandbox.conftest import egress_log as egress_log
from tests.conformance.sandbox.conftest import fenced_pods as fenced_pods
from tests.conformance.sandbox.conftest import names as names
from tests.security import host as outside
from tests.security.host import Host

_TOP = Path(__file__).parents[2]
_PLACE = "/tmp/programs"
_request_numbers = itertools.count()


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with outside.standing(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture(autouse=True)
def unharmed(host: Host) -> Iterator[None]:
    """Whatever a test tried, the host is as it was."""
    yield
    assert host.harm() == {}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The attempts, as an archive."""
    folder = tmp_path_factory.mktemp("attempts")
    for file in (*Path(__file__).with_name("attempts").glob("*.py"), Path(probe.__file__)):
        copy = Path(f"{folder}{_PLACE}", file.relative_to(_TOP))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return pack(folder / "tmp")


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The name of the backend, with how its namespaces are made: ``local-user``."""
    return str(request.node.callspec.params["backend"])


Acquire = Callable[[], Awaitable[Sandbox]]


@pytest.fixture(scope="module")
async def acquire(backend: Backend, programs: bytes) -> AsyncIterator[Acquire]:
    """Small sandboxes that have the programs."""
    made: list[Sandbox] = []

    async def acquire() -> Sandbox:
        sandbox = await backend.acquire(SMALL)
        made.append(sandbox)
        await sandbox.upload(programs, "/tmp")
        return sandbox

    yield acquire
    for sandbox in made:
        await sandbox.close()


@pytest.fixture(scope="module")
async def prison(acquire: Acquire) -> Sandbox:
    """One sandbox for all attempts that leave it as it was."""
    return await acquire()


async def run(sandbox: Sandbox, line: str, timeout_s: float = 60.0) -> Outcome:
    request_id = f"try-{next(_request_numbers)}"
    return await sandbox.exec(Command(line, request_id, timeout_s, env={"PYTHONPATH": _PLACE}))


def line(attempt: str, *arguments: object) -> str:
    """The command of an attempt, such as ``kernel.mount``."""
    program, _, name = attempt.partition(".")
    return " ".join((f"python3 -B -m tests.security.attempts.{program}", name, *map(str, arguments)))


async def tried(sandbox: Sandbox, attempt: str, *arguments: object) -> dict[str, str]:
    """What an attempt says: what it tried -> "done" or the name of an error."""
    outcome = await run(sandbox, line(attempt, *arguments))
    assert getattr(outcome, "code", None) == 0, outcome
    said: dict[str, str] = json.loads(outcome.output)
    assert said, "nothing was tried"
    return said


def on_the_host(attempt: str, *arguments: object) -> str:
    """What an attempt says that is no prisoner."""
    return subprocess.run(["bash", "-c", line(attempt, *arguments)], check=True, capture_output=True, text=True).stdout
