"""Docker Compose starts what the compose file says, and that does a task."""

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from deploy import compose
from deploy.images.services import build_services
from evals.repository import write_repository
from evals.runner import Sampling, request_of
from evals.suite import eval_task, nano_heldout
from tests.conformance.sandbox import dockerd
from tests.conformance.sandbox.dockerd import Machine

pytestmark = pytest.mark.timeout(1200)  # the first test makes and loads images of 2 GB

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy" / "compose.yaml"
IMAGES = ("agent", "model-server", "task")
HEALTHY_S = 300.0
ASKED = """
import sys, httpx
path, key, *body = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
method, content = ("POST", body[0]) if body else ("GET", None)
answer = httpx.request(method, f"http://127.0.0.1:8080{path}", content=content, headers=headers, timeout=60)
sys.exit(answer.text) if answer.is_error else print(answer.text)
"""


@dataclass(frozen=True, slots=True)
class Composed:
    """The services of the compose file on a machine, as its variables say."""

    machine: Machine
    variables: dict[str, str]

    def compose(self, *command: str, **variables: str) -> str:
        told = {**self.variables, **variables}
        return said(self.machine, str(compose.program()), "--file", str(COMPOSE), *command, **told)

    def running(self) -> list[Any]:
        """What Compose says of each service that runs."""
        return [json.loads(line) for line in self.compose("ps", "--format", "json").splitlines()]

    def healthy(self) -> list[Any]:
        """The same, once all are healthy."""
        give_up = time.monotonic() + HEALTHY_S
        while {service["Health"] for service in self.running()} != {"healthy"}:
            assert time.monotonic() < give_up, self.compose("logs", "--tail=50")
            time.sleep(0.5)
        return self.running()

    def api(self, path: str, *body: str) -> Any:
        """What the API answers to a caller on the machine."""
        asking = (sys.executable, "-c", ASKED, path, self.variables["MIMO_API_KEY"], *body)
        return json.loads(said(self.machine, *asking))


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    if reason := dockerd.missing() or compose.missing():
        pytest.skip(reason)
    with dockerd.machine() as started:
        yield started


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repositories")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def service(machine: Machine, repositories: Path) -> Iterator[Composed]:
    """All of it, started as the documentation says, on a daemon with the images."""
    load(machine, build_services(ROOT / "build" / "images", IMAGES).values())
    said(machine, "install", "--directory", "--owner=10001", "--group=10001", "--mode=700", "/var/lib/mimo-coder")
    variables = {
        "MIMO_API_KEY": secrets.token_hex(32),
        "MIMO_MODEL_API_KEY": secrets.token_hex(32),
        "DOCKER_GID": said(machine, "stat", "--format=%g", "/var/run/docker.sock").strip(),
        "MIMO_REPOSITORIES": str(repositories),
    }
    composed = Composed(machine, variables)
    composed.compose("up", "--detach")
    yield composed
    composed.compose("down")
    assert composed.compose("ps", "--all", "--quiet") == ""


@pytest.fixture(scope="module")
def task(service: Composed, repositories: Path) -> str:
    """One that has ended, by its id."""
    exercise = eval_task(next(iter(nano_heldout("heldout_names", 1))))
    asyncio.run(write_repository(exercise, repositories / exercise.id))
    request = request_of(exercise, Path("/repositories", exercise.id), Sampling(), None)
    asked = {**request.model_dump(mode="json", exclude_none=True), "image": "mimo-coder/task:0.1.0"}
    submitted = service.api("/v1/tasks", json.dumps(asked))["id"]
    while service.api(f"/v1/tasks/{submitted}")["status"] not in ("succeeded", "failed"):
        time.sleep(0.5)
    return str(submitted)


def said(machine: Machine, *command: str, **variables: str) -> str:
    done = machine.run(*command, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(machine: Machine, archives: Iterable[Path]) -> None:
    with closing(docker.DockerClient(base_url=machine.address, timeout=300)) as client:
        for archive in archives:
            with archive.open("rb") as content:
                client.images.load(content)


def test_a_task_ends_with_a_verified_patch(service: Composed, task: str) -> None:
    assert service.api(f"/v1/tasks/{task}")["verdict"]["kind"] == "verified"


def test_every_service_becomes_healthy(service: Composed) -> None:
    assert {each["Service"] for each in service.healthy()} == {"api", "orchestrator", "model-server"}


@pytest.mark.parametrize("name", ["api", "orchestrator", "model-server"])
def test_nothing_of_the_service_is_the_superuser_or_can_become_it(service: Composed, name: str) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in service.compose("exec", "-T", name, "cat", "/proc/1/status").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split()[0] == "10001"
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("name", ["MIMO_API_KEY", "MIMO_MODEL_API_KEY", "DOCKER_GID"])
def test_what_nobody_can_guess_has_to_be_said(machine: Machine, name: str) -> None:
    variables = dict.fromkeys({"MIMO_API_KEY", "MIMO_MODEL_API_KEY", "DOCKER_GID"} - {name}, "1")
    done = machine.run(str(compose.program()), "--file", str(COMPOSE), "config", **variables)
    assert done.returncode != 0
    assert name in done.stderr


def test_a_worker_that_is_stopped_while_it_starts_ends_by_itself(service: Composed) -> None:
    service.compose("up", "--detach", "--no-deps", "--force-recreate", "orchestrator")
    service.compose("stop", "orchestrator")
    stopped = json.loads(service.compose("ps", "--all", "--format", "json", "orchestrator"))
    assert stopped["ExitCode"] != 137, "it was killed"


def test_tasks_outlive_another_version_put_in_place_of_the_service(service: Composed, task: str) -> None:
    before = service.running()
    for name in IMAGES:
        said(service.machine, "docker", "tag", f"mimo-coder/{name}:0.1.0", f"mimo-coder/{name}:newer")
    service.compose("up", "--detach", MIMO_VERSION="newer")
    after = service.healthy()
    assert {each["Image"] for each in after} == {"mimo-coder/agent:newer", "mimo-coder/model-server:newer"}
    assert not {each["ID"] for each in before} & {each["ID"] for each in after}
    assert service.api(f"/v1/tasks/{task}")["verdict"]["kind"] == "verified"
