"""The profile for clusters without a way out: the one registry that it names is nowhere, and nothing is asked of it."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from agent.types import VerdictKind
from deploy.chart.__main__ import CHART
from deploy.cluster.cluster import Cluster
from deploy.images.services import REPOSITORY
from evals.runner import Sampling, request_of
from evals.types import EvalTask
from tests.helm.release import Release, ended

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]  # the first makes the images

REGISTRY = "registry.example.internal"
PLACES = {
    "api.image": "agent",
    "orchestrator.image": "agent",
    "modelServer.image": "model-server",
    "sandbox.image": "sandboxd",
    "sandbox.taskImage": "task",
}


@pytest.fixture
def airgapped(loaded: Cluster) -> Iterator[Release]:
    """Installed where nodes have all images under that registry's name, by digest, and fetch what they lack."""
    digests = {name: loaded.digest(_image(name)) for name in set(PLACES.values())}
    for name, digest in digests.items():
        loaded.tag(_image(name), f"{REGISTRY}/mimo-coder/{name}@{digest}")
    given = (
        f"--values={CHART}/values-airgapped.yaml",
        "--set=global.pullPolicy=IfNotPresent",
        *(f"--set={place}.digest={digests[name]}" for place, name in PLACES.items()),
    )
    release = Release(loaded, "apart", "apart", given)
    release.install("--create-namespace")
    yield release
    release.helm("uninstall", "--wait")


async def test_a_task_is_done_where_no_image_can_be_fetched(
    airgapped: Release, exercise: EvalTask, tmp_path: Path
) -> None:
    place = await airgapped.put(exercise, tmp_path)
    async with airgapped.client() as client:
        submitted = await client.submit(request_of(exercise, place, Sampling(), None))
        done = await ended(client, submitted.id)
    assert done.verdict is not None, done
    assert done.verdict.kind is VerdictKind.VERIFIED
    events = [
        json.loads(airgapped.cluster.kubectl("get", "events", f"--namespace={name}", "--output=json"))
        for name in (airgapped.namespace, airgapped.sandboxes)
    ]
    assert not [each["message"] for page in events for each in page["items"] if each["reason"] == "Pulling"]
    assert [each for each in events[1]["items"] if each["reason"] == "Pulled"], "sandboxes were pods"


def _image(name: str) -> str:
    return f"{REPOSITORY}/{name}:{version('mimo-coder')}"
