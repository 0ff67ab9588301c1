"""The chart's small profile on a real cluster: it works, it survives, it changes, it goes."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from agent.types import Status, VerdictKind
from deploy.cluster.errors import ClusterError
from evals.runner import Sampling, request_of
from evals.types import EvalTask
from tests.helm.release import HelmError, Release, answers, ended, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]  # the first makes the images
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
KINDS = (
    *("pods", "pods/exec", "pods/log", "pods/portforward", "pods/ephemeralcontainers", "secrets", "configmaps"),
    *(
        "events",
        "services",
        "serviceaccounts",
        "serviceaccounts/token",
        "persistentvolumeclaims",
        "nodes",
        "namespaces",
    ),
    *("rbac.authorization.k8s.io/roles", "rbac.authorization.k8s.io/rolebindings", "apps/deployments", "batch/jobs"),
    "admissionregistration.k8s.io/validatingadmissionpolicies",
)
API_IS_READY = '{.status.containerStatuses[?(@.name=="api")].ready}'
MAY_IN_SANDBOXES = {("pods", verb) for verb in ("create", "delete", "list", "watch")} | {("events", "list")}


async def test_a_task_sent_to_rest_ends_in_a_patch_made_in_a_pod(
    release: Release, exercise: EvalTask, place: Path
) -> None:
    async with release.client() as client:
        submitted = await client.submit(request_of(exercise, place, Sampling(), None))
        await until(client, submitted.id, "run.provisioned")
        assert release.sandbox_pods()
        done = await ended(client, submitted.id)
        assert done.status is Status.SUCCEEDED, done
        assert done.verdict is not None
        assert done.verdict.kind is VerdictKind.VERIFIED
        assert (await client.diff(submitted.id)).patch


def test_its_own_tests_pass(release: Release) -> None:
    assert "Phase:          Succeeded" in release.helm("test", "--timeout=200s")


async def test_a_run_goes_on_when_the_pod_of_api_and_worker_is_killed(
    release: Release, exercise: EvalTask, place: Path
) -> None:
    await succeeds_although(release, exercise, place, lambda: release.kill(*release.pods("api")))


async def test_a_run_goes_on_when_its_sandbox_is_killed(release: Release, exercise: EvalTask, place: Path) -> None:
    await succeeds_although(
        release, exercise, place, lambda: release.kill(*release.sandbox_pods(), namespace=release.sandboxes)
    )


async def test_tasks_are_done_again_after_the_model_was_killed(
    release: Release, exercise: EvalTask, place: Path
) -> None:
    """The run itself may end with an error of the model: it is away for longer than a worker asks again."""
    async with release.client() as client:
        submitted = await client.submit(request_of(exercise, place, Sampling(), None))
        await until(client, submitted.id, "run.provisioned")
        release.kill(*release.pods("model-server"))
        assert (await ended(client, submitted.id)).status in (Status.SUCCEEDED, Status.FAILED)
    release.kubectl("rollout", "status", f"statefulset/{release.name}-model-server", "--timeout=200s")
    await succeeds_although(release, exercise, place, lambda: None)


async def test_an_upgrade_in_mid_run_loses_neither_run_nor_keys(
    release: Release, exercise: EvalTask, place: Path
) -> None:
    keys, before = release.keys(), release.pods("api")
    await succeeds_although(release, exercise, place, lambda: release.upgrade("--set=orchestrator.concurrency=3"))
    assert release.keys() == keys
    assert release.pods("api") != before


async def test_a_worker_whose_sandboxes_are_open_is_not_ready_while_the_api_takes_tasks(
    release: Release, exercise: EvalTask, place: Path
) -> None:
    """The network plugin of the test cluster minds no policies."""
    release.upgrade("--set=sandbox.settings.network=policy", "--wait=hookOnly")
    pod = await says_of_sandboxes(release, "lets tcp:")
    release.kubectl("wait", f"--for=jsonpath={API_IS_READY}=true", f"pod/{pod}", "--timeout=120s")
    assert ready(release, pod) == {"api"}
    async with release.client() as client:
        task = await client.submit(request_of(exercise, place, Sampling(), None))
        assert (await client.show(task.id)).status is Status.QUEUED
        release.upgrade()
        assert ready(release, *release.pods("api")) == {"api", "orchestrator"}
        done = await ended(client, task.id)
    assert done.verdict is not None, done
    assert done.verdict.kind is VerdictKind.VERIFIED


async def test_tasks_for_whose_sandboxes_there_is_no_room_wait_and_all_are_done(
    release: Release, exercise: EvalTask, place: Path
) -> None:
    release.upgrade("--set=sandbox.bounds.pods=2,orchestrator.concurrency=4")
    async with release.client() as client:
        asked = [await client.submit(request_of(exercise, place, Sampling(), None)) for _ in range(4)]
        done = [await ended(client, task.id) for task in asked]
        logs = [(await client.events(task.id)).events for task in asked]
    assert {task.verdict and task.verdict.kind for task in done} == {VerdictKind.VERIFIED}, done
    waits = [event.body["detail"] for log in logs for event in log if event.type == "run.parked"]
    assert any("exceeded quota" in wait for wait in waits), waits


def test_a_failed_upgrade_is_rolled_back(release: Release) -> None:
    missing = "--set=api.image.tag=missing"
    with pytest.raises(HelmError):
        release.upgrade(missing, "--rollback-on-failure", "--timeout=20s")
    release.kubectl("rollout", "status", f"deployment/{release.name}-api", "--timeout=200s")
    assert ":missing" not in release.kubectl("get", f"deployment/{release.name}-api", "--output=yaml")


@pytest.mark.parametrize("component", ["api", "orchestrator", "model-server"])
def test_an_account_may_do_what_the_documentation_says_and_nothing_else(release: Release, component: str) -> None:
    expected = MAY_IN_SANDBOXES if component == "orchestrator" else set()
    assert allowed(release, f"{release.name}-{component}", release.sandboxes) == expected
    assert allowed(release, f"{release.name}-{component}", release.namespace) == set()


def test_the_account_of_the_worker_cannot_make_another_pod_than_a_sandbox(release: Release) -> None:
    container = {"name": "main", "image": "mimo-coder/task:0.1.0"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mine"}, "spec": {"containers": [container]}}
    worker = f"--as=system:serviceaccount:{release.namespace}:{release.name}-orchestrator"
    with pytest.raises(ClusterError, match="forbidden"):
        release.cluster.kubectl(
            "create", f"--namespace={release.sandboxes}", worker, "--filename=-", stdin=json.dumps(pod)
        )


async def test_uninstalled_it_leaves_no_sandbox_but_the_data(release: Release, exercise: EvalTask, place: Path) -> None:
    async with release.client() as client:
        submitted = await client.submit(request_of(exercise, place, Sampling(), None))
        await until(client, submitted.id, "run.provisioned")
        release.helm("uninstall", "--wait", "--timeout=200s")
    release.cluster.kubectl("wait", "--for=delete", "--timeout=120s", f"namespace/{release.sandboxes}")
    release.kubectl("wait", "--for=delete", "--timeout=120s", "pods", "--all")  # Helm waits for what it made itself
    left = release.kubectl("get", "all,persistentvolumeclaims,configmaps", "--output=name").split()
    assert left == [f"persistentvolumeclaim/{release.name}-data", "configmap/kube-root-ca.crt"]


async def succeeds_although(release: Release, exercise: EvalTask, place: Path, disturb: Callable[[], object]) -> None:
    """A task comes to a verified end although something happens when its agent has begun."""
    async with release.client() as client:
        submitted = await client.submit(request_of(exercise, place, Sampling(), None))
        await until(client, submitted.id, "run.provisioned")
        disturb()
        await answers(client)
        done = await ended(client, submitted.id)
    assert done.verdict is not None, done
    assert done.verdict.kind is VerdictKind.VERIFIED


async def says_of_sandboxes(release: Release, wanted: str) -> str:
    """The pod with API and worker as soon as the worker does so."""
    async with httpx.AsyncClient(timeout=60) as http:
        while True:
            for name in release.pods("api"):
                with suppress(httpx.HTTPError, ClusterError, KeyError):  # it goes, or has no address yet
                    address = release.get("pod", name)["status"]["podIP"]
                    if wanted in (await http.get(f"http://{address}:9002/readyz")).json()["checks"]["sandboxes"]:
                        return name
            await asyncio.sleep(0.5)


def ready(release: Release, pod: str) -> set[str]:
    """Its containers that are."""
    return {each["name"] for each in release.get("pod", pod)["status"]["containerStatuses"] if each["ready"]}


def allowed(release: Release, account: str, namespace: str) -> set[tuple[str, str]]:
    """What the API server lets that account do there, of everything that is worth asking."""
    asked = [(kind, verb) for kind in KINDS for verb in VERBS]
    reviews = [review(f"system:serviceaccount:{release.namespace}:{account}", namespace, *each) for each in asked]
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    line = '--output=jsonpath={.status.allowed}{"\\n"}'
    said = release.cluster.kubectl("create", "--filename=-", line, stdin=everything).split()
    return {each for each, answer in zip(asked, said, strict=True) if answer == "true"}


def review(user: str, namespace: str, kind: str, verb: str) -> dict[str, object]:
    group, _, resource = kind.rpartition("/") if "." in kind or kind.startswith(("apps/", "batch/")) else ("", "", kind)
    name, _, part = resource.partition("/")
    what = {"group": group, "resource": name, "subresource": part, "verb": verb, "namespace": namespace}
    spec = {"user": user, "resourceAttributes": what}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
