"""Weights that are not on a volume yet: fetched by the pod that needs them, or by a Job, or out of an image."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.chart.__main__ import ROOT
from deploy.cluster.cluster import Cluster, missing, start
from deploy.images import archive
from deploy.images.archive import Tree
from deploy.images.services import build_services
from tests.helm import engine
from tests.helm.release import Release
from tests.helm.rendered import render

pytestmark = [pytest.mark.timeout(1800)]  # the first makes the images, or compiles a container runtime

OTHER = "f" * 40
"""A commit that the hub does not have."""
IN_VAIN = 3
"""With which the program that fetches says that it need not be tried again."""
PATIENCE = "--timeout=280s"


def values(namespace: str, **weights: Any) -> dict[str, Any]:
    """Of a release with an engine and a hub of the tests."""
    server = {
        "engine": "sglang",
        "sglang": {**engine.SGLANG, "env": engine.PATHS, "extraVolumeMounts": [engine.MOUNT]},
        "extraVolumes": [engine.VOLUME],
        "weights": {**engine.WEIGHTS, "env": {"HF_ENDPOINT": f"http://hub.{namespace}.svc:8080"}, **weights},
        "compileCache": {"source": "none"},
    }
    return {"modelServer": server, "extraObjects": [engine.engine(namespace), *engine.hub(namespace)]}


def released(cluster: Cluster, name: str, folder: Path, **weights: Any) -> Release:
    """One that is not installed yet, in a namespace of its name that admits what "baseline" does."""
    engine.give_gpus(cluster)
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=baseline")
    file = folder / "values.json"
    file.write_text(json.dumps(values(name, **weights)))
    return Release(cluster, name, name, (f"--values={file}",))


@pytest.fixture
def fetched(loaded: Cluster, tmp_path: Path) -> Iterator[Release]:
    """Installed with a commit that the hub has not."""
    release = released(loaded, "fetched", tmp_path, source="download", revision=OTHER)
    release.install("--wait=hookOnly")
    yield release
    release.helm("uninstall", "--wait")


def test_a_pod_says_what_it_cannot_fetch_and_serves_what_it_can(fetched: Release) -> None:
    """It may ask before there is a hub, which ends otherwise than in vain."""
    ended = "{.status.initContainerStatuses[0].lastState.terminated"
    pod = f"pod/{fetched.name}-model-server-0"
    fetched.kubectl("wait", "--for=create", PATIENCE, pod)
    fetched.kubectl("wait", f"--for=jsonpath={ended}.exitCode}}={IN_VAIN}", PATIENCE, pod)
    reason = fetched.kubectl("get", pod, f"--output=jsonpath={ended}.message}}")
    assert f"{engine.REPOSITORY} has no commit {OTHER}: name one that it has in modelServer.weights.revision" in reason
    fetched.upgrade(f"--set=modelServer.weights.revision={engine.REVISION}")
    assert answers_a_chat(fetched)


def test_a_job_that_fetches_in_vain_ends_at_once_and_its_log_says_why(loaded: Cluster) -> None:
    name = "vain"
    made = render(values(name, source="job", revision=OTHER), "dev", arguments=(f"--namespace={name}",))
    [job] = made.of("Job")
    objects = [each for each in made.objects if each["metadata"]["name"] in ("hub", "mimo-weights")]
    release = Release(loaded, "mimo", name)
    loaded.kubectl("create", "namespace", name)
    loaded.apply(*objects)
    release.kubectl("wait", "--for=condition=Ready", PATIENCE, "pod/hub")
    loaded.apply(job)
    release.kubectl("wait", "--for=condition=Failed", PATIENCE, "jobs", "--all")
    [pod] = release.get("pods", f"--selector=job-name={job['metadata']['name']}")["items"]
    log = release.kubectl("logs", pod["metadata"]["name"])
    assert f"{engine.REPOSITORY} has no commit {OTHER}" in log
    release.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def with_image_volumes() -> Iterator[Cluster]:
    """A cluster of its own, whose container runtime makes volumes out of images."""
    if reason := missing():
        pytest.skip(reason)
    images = build_services(ROOT / "build" / "images", ("agent", "model-server", "sandboxd", "task"))
    with tempfile.TemporaryDirectory(prefix="mimo-cluster-") as folder:
        cluster = start(Path(folder, "state"), name="images", with_us=True, has_image_volumes=True)
        for archived in images.values():
            cluster.load(archived)
        yield cluster
        cluster.stop()


def test_a_model_server_answers_with_weights_out_of_an_image_and_waits_for_one_that_is_not_there(
    with_image_volumes: Cluster, tmp_path: Path
) -> None:
    cluster = with_image_volumes
    weights = weights_image(cluster, tmp_path)
    release = released(cluster, "image", tmp_path, source="image", image=f"{weights[:-4]}0000")
    release.install("--wait=hookOnly")
    pod = f"pod/{release.name}-model-server-0"
    release.kubectl("wait", "--for=create", PATIENCE, pod)
    reason = "{.status.initContainerStatuses[0].state.waiting.reason}"
    release.kubectl("wait", f"--for=jsonpath={reason}=ErrImageNeverPull", PATIENCE, pod)
    assert f"{weights[-12:-4]}0000" in release.kubectl("describe", pod)
    release.upgrade(f"--set=modelServer.weights.image={weights}")
    assert answers_a_chat(release)


def weights_image(cluster: Cluster, folder: Path) -> str:
    """Make an image with the small model's checkpoint, give it to the node, and name it by its digest."""
    checkpoint = ROOT / "model_server" / "checkpoints" / engine.CHECKPOINT
    files = {f"{engine.CHECKPOINT}/{file.name}": file for file in checkpoint.iterdir() if file.is_file()}
    name = "docker.io/mimo-coder/weights"
    layer = archive.write_layer(folder / "layer", Tree(files))
    archive.write(folder / "weights.tar", f"{name}:1", [layer], {})
    cluster.load(folder / "weights.tar")
    pinned = f"{name}@{cluster.digest(f'{name}:1')}"
    cluster.tag(f"{name}:1", pinned)
    return pinned


def answers_a_chat(release: Release) -> bool:
    address = release.get("service", f"{release.name}-model-server")["spec"]["clusterIP"]
    question = {"model": engine.CHECKPOINT, "messages": [{"role": "user", "content": "Say it."}], "max_tokens": 8}
    answer = httpx.post(
        f"http://{address}:9001/v1/chat/completions",
        json=question,
        headers={"Authorization": f"Bearer {release.keys()['model-api-key']}"},
        timeout=280,
        trust_env=False,
    )
    return bool(answer.raise_for_status().json()["usage"]["completion_tokens"])
