"""Two API pods, two workers and two model servers behind the gateway, over the chart's own Postgres: what happens to a
pod happens to no run."""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from agent.api.schemas import TaskView
from agent.cli.client import Client
from agent.store.migrations import HEAD, upgrade
from agent.types import TaskRequest, VerdictKind
from deploy.cluster.cluster import Cluster
from evals.runner import Sampling, request_of
from evals.types import EvalTask
from tests.helm.release import HelmError, Release, answers, ended, submitted, until
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
    "database.migrations=hook",
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


@pytest.fixture(scope="module")
def guest(
    wide: tuple[Release, Path], exercise: EvalTask, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Release, Path]]:
    """A release over the database and the model of the other, with tables of the first release at its installation."""
    host, _ = wide
    guest = Release(host.cluster, "guest", "guest", tuple(f"--set={each}" for each in OF_OTHERS))
    guest.cluster.kubectl("create", "namespace", guest.namespace)
    keep_database(host, guest, "store", revision="0001")
    guest.kubectl(
        "create", "secret", "generic", "model", f"--from-literal=model-api-key={host.keys()['model-api-key']}"
    )
    guest.install()
    yield guest, asyncio.run(guest.put(exercise, tmp_path_factory.mktemp("repository")))
    guest.helm("uninstall", "--wait")


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
    request = request_of(exercise, place, Sampling(), None)
    async with release.client() as client:
        upgrading = asyncio.create_task(asyncio.to_thread(release.upgrade, *changed))
        lanes = await asyncio.gather(*(done_during(upgrading, client, request) for _ in range(NUM_TASKS)))
        await upgrading
    for done in chain.from_iterable(lanes):
        assert done.verdict is not None, (done.status, done.stop_reason, done.error)
        assert done.verdict.kind is VerdictKind.VERIFIED
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
    guest: tuple[Release, Path], exercise: EvalTask
) -> None:
    release, place = guest
    await all_succeed(release, exercise, place, lambda: None)


async def test_an_upgrade_whose_migration_fails_leaves_the_release_as_it_is(
    wide: tuple[Release, Path], guest: tuple[Release, Path], exercise: EvalTask
) -> None:
    keep_database(wide[0], guest[0], "newer", revision="9999")
    release, place = guest
    before = identities(release, "api") | identities(release, "orchestrator")
    with pytest.raises(HelmError):
        release.upgrade("--set=database.urlSecret=newer", "--timeout=20s")
    release.kubectl("wait", "--for=jsonpath={.status.failed}", "--timeout=200s", "job/guest-migrations")
    assert "schema revision 9999" in release.kubectl("logs", "--selector=batch.kubernetes.io/job-name=guest-migrations")
    assert identities(release, "api") | identities(release, "orchestrator") == before
    await all_succeed(release, exercise, place, lambda: None)


async def test_an_upgrade_brings_the_tables_up_to_date_before_any_pod_is_replaced(
    wide: tuple[Release, Path], guest: tuple[Release, Path], exercise: EvalTask
) -> None:
    """With pods that refuse older tables."""
    keep_database(wide[0], guest[0], "older", revision="0001")
    release, place = guest
    before = release.pods("api")
    release.upgrade("--set=database.urlSecret=older")
    # Until they are gone, a task may still come to them, and with it to the database that they know.
    release.kubectl("wait", "--for=delete", "--timeout=120s", *(f"pod/{name}" for name in before))
    await all_succeed(release, exercise, place, lambda: None)


def keep_database(host: Release, guest: Release, name: str, *, revision: str) -> None:
    """One of that name with tables of that revision, its address in a Secret of that name."""
    host.kubectl(*in_database("createdb", name))
    password, server = host.keys()["postgres-password"], f"{host.name}-postgres"
    address = host.get("service", server)["spec"]["clusterIP"]
    engine = create_engine(f"postgresql+psycopg://mimo:{password}@{address}/{name}")
    with engine.begin() as connection:
        upgrade(connection, min(revision, HEAD))
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    engine.dispose()
    url = f"url=postgresql://mimo:{password}@{server}.{host.namespace}.svc:5432/{name}"
    guest.kubectl("create", "secret", "generic", name, f"--from-literal={url}")


def in_database(*command: str) -> tuple[str, ...]:
    """Arguments of kubectl that run a program beside the database."""
    return ("exec", "--stdin", "wide-postgres-0", "--", command[0], "--username=mimo", *command[1:])


def identities(release: Release, component: str) -> set[str]:
    """Of its pods; those of a StatefulSet keep their names."""
    return {release.get("pod", name)["metadata"]["uid"] for name in release.pods(component)}


async def done_during(other: asyncio.Task[str], client: Client, request: TaskRequest) -> list[TaskView]:
    """Tasks, one after the other, until the other is over."""
    done: list[TaskView] = []
    while not (done and other.done()):
        task = await submitted(client, request)
        done.append(await ended(client, task.id))
    return done


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
