"""The compose file is one, and what it starts does a task."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest
import yaml
from jsonschema import Draft7Validator

from deploy.images.services import build_services
from evals.repository import write_repository
from evals.runner import Sampling, request_of
from evals.suite import eval_task, nano_heldout
from tests.conformance.sandbox import dockerd
from tests.integration.deploy import composed
from tests.integration.deploy.composed import Composed

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]  # the first test makes and loads images of 2 GB

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy" / "compose.yaml"
SCHEMA = ROOT / "tests" / "data" / "compose-spec.json"
"""Of github.com/compose-spec/compose-go 2.4.1, Apache-2.0."""
PLACE = "/var/lib/mimo-coder"
SOCKET = "/var/run/docker.sock"
DONE = """
import json, sys, time, httpx
with httpx.Client(base_url="http://127.0.0.1:8080", headers={"Authorization": "Bearer for-callers"}, timeout=60) as api:
    answer = api.post("/v1/tasks", json=json.loads(sys.argv[1]))
    assert answer.status_code == 202, answer.text
    while (task := api.get("/v1/tasks/" + answer.json()["id"]).json())["status"] not in ("succeeded", "failed"):
        time.sleep(0.2)
    print(json.dumps(task))
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not in the folder for temporary files, where a container has a file system of its own."""
    made = Path(tempfile.mkdtemp(prefix="mimo-compose-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Composed]:
    """All of it, started as the compose file says, on a daemon with the images."""
    if reason := dockerd.missing():
        pytest.skip(reason)
    images = build_services(ROOT / "build" / "images", ["agent", "model-server", "task"])
    (folder / "sandboxes").mkdir()
    os.chown(folder / "sandboxes", 10001, 10001)
    (folder / "repositories").mkdir()
    (folder / "sandbox.toml").write_text(moved((ROOT / "deploy" / "sandbox.toml").read_text(), folder))
    with dockerd.running() as address:
        socket = address.removeprefix("unix://")
        variables = {
            "MIMO_API_KEY": "for-callers",
            "MIMO_MODEL_API_KEY": "for-the-model",
            "DOCKER_GID": str(Path(socket).stat().st_gid),
            "MIMO_REPOSITORIES": str(folder / "repositories"),
        }
        text = moved(COMPOSE.read_text(), folder).replace(f"- {SOCKET}:", f"- {socket}:")
        load(address, images.values())
        with composed.running(address, text, variables, folder) as started:
            yield started


def moved(text: str, folder: Path) -> str:
    return text.replace(PLACE, str(folder / "sandboxes"))


def load(address: str, archives: Iterable[Path]) -> None:
    with closing(docker.DockerClient(base_url=address, timeout=300)) as client:
        for archive in archives:
            with archive.open("rb") as content:
                client.images.load(content)


def test_the_compose_file_is_as_its_specification_says() -> None:
    Draft7Validator(json.loads(SCHEMA.read_text())).validate(yaml.safe_load(COMPOSE.read_text()))


async def test_a_task_ends_with_a_verified_patch(service: Composed, folder: Path) -> None:
    exercise = eval_task(next(iter(nano_heldout("heldout_names", 1))))
    await write_repository(exercise, folder / "repositories" / exercise.id)
    request = request_of(exercise, Path("/repositories", exercise.id), Sampling(), None)
    asked = {**request.model_dump(mode="json", exclude_none=True), "image": "mimo-coder/task:0.1.0"}
    task = json.loads(service.run("api", "python", "-P", "-c", DONE, json.dumps(asked)))
    assert task["verdict"]["kind"] == "verified", task


@pytest.mark.parametrize("name", ["api", "orchestrator", "model-server"])
def test_nothing_of_the_service_is_the_superuser_or_can_become_it(service: Composed, name: str) -> None:
    status = dict(
        line.split(":\t", 1) for line in service.run(name, "cat", "/proc/1/status").splitlines() if ":\t" in line
    )
    assert status["Uid"].split()[0] == "10001"
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
