"""Two API pods, two workers and two model servers behind the gateway, over the chart's own Postgres: what happens to a
pod happens to no run."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.types import VerdictKind
from deploy.cluster.cluster import Cluster
from evals.runner import Sampling, request_of
from evals.types import EvalTask
from tests.helm.release import Release, answers, ended, until
from tests.helm.test_installation import allowed

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]  # the first makes the images
NUM_TASKS = 2
GIVEN = (
    "database.mode=embedded",
    "data.accessMode=ReadWriteMany",
    *(f"{part}.replicas=2" for part in ("api", "orchestrator", "modelServer")),
    "router.enabled=true",
    "router.discovery=kubernetes",
    "sandbox.settings.network=fence",
    "sandbox.egress.allow_hosts={wide-api.wide.svc.cluster.local:8080}",
    "sandbox.egress.allow_addresses={10.0.0.0/8}",
)
OF_OTHERS = (
    "database.mode=external",
    "database.urlSecret=store",
    "database.cidrs={10.0.0.0/8}",
    "modelServer.engine=external",
    "modelServer.url=http://wide-router.wide.svc:30000/v1",
    "modelServer.cidrs={10.0.0.0/8}",
    "modelServer.model=mimo-v2-nano",
    "modelServer.key.existing=model",
)
ASKING = Path(__file__).with_name("asking.py")


@pytest.fixture(scope="module")
def wide(
    loaded: Cluster, exercise: EvalTask, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Release, Path]]:
    """An installation, and the repository of the task in it."""
    release = Release(loaded, "wide", "wide", tuple(f"--set={each}" for each in GIVEN))
    release.install("--create-namespace")
    yield release, asyncio.run(release.put(exercise, tmp_path_factory.mktemp("repository")))
    release.helm("uninstall", "--wait")


async def test_all_runs_end_although_a_worker_a_model_server_and_a_router_are_killed(
    wide: tuple[Release, Path], exercise: EvalTask
) -> None:
    release, place = wide
    parts = ("orchestrator", "model-server", "router")
    await all_succeed(release, exercise, place, lambda: release.kill(*(release.pods(part)[0] for part in parts)))


async def test_all_runs_end_although_all_pods_are_replaced_by_an_upgrade(
    wide: tuple[Release, Path], exercise: EvalTask
) -> None:
    release, place = wide
    parts = {"api": "api", "orchestrator": "orchestrator", "model-server": "modelServer", "router": "router"}
    before = {part: identities(release, part) for part in parts}
    changed = [f"--set={values}.podAnnotations.changed=yes" for values in parts.values()]
    await all_succeed(release, exercise, place, lambda: release.upgrade(*changed))
    for part, pods in before.items():
        assert not pods & identities(release, part), part


async def test_a_lost_database_comes_back_from_its_backup(
    wide: tuple[Release, Path], exercise: EvalTask, tmp_path: Path
) -> None:
    release, place = wide
    async with release.client() as client:
        submitted = await client.submit(request_of(exercise, place, Sampling(), None))
        before = await ended(client, submitted.id)
        release.kubectl("scale", "deployment/wide-orchestrator", "--replicas=0")
        copy = release.kubectl(*in_database("pg_dump", "--clean", "--if-exists", "mimo"))
        release.kubectl(
            *in_database("psql", "--quiet", "mimo", "--command=DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        )
        release.kubectl(*in_database("psql", "--quiet", "--set=ON_ERROR_STOP=1", "mimo"), stdin=copy)
        assert await client.show(submitted.id) == before
        release.kubectl("scale", "deployment/wide-orchestrator", "--replicas=2")
        again = await client.submit(request_of(exercise, place, Sampling(), None))
        assert (await ended(client, again.id)).verdict is not None


def test_sandboxes_reach_the_hosts_that_were_named_and_no_others(wide: tuple[Release, Path]) -> None:
    release, _ = wide
    named = "http://wide-api.wide.svc.cluster.local:8080/livez"
    other = "http://wide-router.wide.svc.cluster.local:30000/liveness"
    said = release.kubectl(
        *("exec", "--stdin", "deploy/wide-orchestrator", "--", "python", "-P", "-", named, other),
        stdin=ASKING.read_text(),
    )
    assert json.loads(said) == {named: 200, other: None}


def test_the_account_of_the_router_may_watch_its_pods_and_nothing_else(wide: tuple[Release, Path]) -> None:
    release, _ = wide
    assert allowed(release, "wide-router", release.namespace) == {("pods", verb) for verb in ("get", "list", "watch")}
    assert allowed(release, "wide-router", release.sandboxes) == set()


async def test_a_release_works_over_a_database_and_a_model_that_others_keep(
    wide: tuple[Release, Path], exercise: EvalTask, tmp_path: Path
) -> None:
    release, _ = wide
    release.kubectl(*in_database("createdb", "guest"))
    database = f"postgresql://mimo:{release.keys()['postgres-password']}@wide-postgres.wide.svc:5432/guest"
    guest = Release(release.cluster, "guest", "guest", tuple(f"--set={each}" for each in OF_OTHERS))
    guest.cluster.kubectl("create", "namespace", guest.namespace)
    for name, key, value in (("store", "url", database), ("model", "model-api-key", release.keys()["model-api-key"])):
        guest.kubectl("create", "secret", "generic", name, f"--from-literal={key}={value}")
    guest.install()
    place = await guest.put(exercise, tmp_path)
    async with guest.client() as client:
        submitted = await client.submit(request_of(exercise, place, Sampling(), None))
        done = await ended(client, submitted.id)
    assert done.verdict is not None, done
    assert done.verdict.kind is VerdictKind.VERIFIED
    guest.helm("uninstall", "--wait")


def in_database(*command: str) -> tuple[str, ...]:
    """Arguments of kubectl that run a program beside the database."""
    return ("exec", "--stdin", "wide-postgres-0", "--", command[0], "--username=mimo", *command[1:])


def identities(release: Release, component: str) -> set[str]:
    """Of its pods; those of a StatefulSet keep their names."""
    return {release.get("pod", name)["metadata"]["uid"] for name in release.pods(component)}


async def all_succeed(release: Release, exercise: EvalTask, place: Path, disturb: Callable[[], object]) -> None:
    """Several tasks come to a verified end although something happens when the first agent has begun."""
    async with release.client() as client:
        asked = [await client.submit(request_of(exercise, place, Sampling(), None)) for _ in range(NUM_TASKS)]
        await until(client, asked[0].id, "run.provisioned")
        disturb()
        await answers(client)
        for task in asked:
            done = await ended(client, task.id)
            assert done.verdict is not None, (done.status, done.stop_reason, done.error)
            assert done.verdict.kind is VerdictKind.VERIFIED
