"""Two API pods and two workers over one Postgres: what happens to a pod happens to no run."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.types import VerdictKind
from deploy.cluster.cluster import Cluster
from evals.runner import Sampling, request_of
from evals.types import EvalTask
from tests.helm.forwarder import forwarder
from tests.helm.release import Release, answers, ended, until
from tests.postgres import postgres_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
NUM_TASKS = 2


@pytest.fixture(scope="module")
def wide(
    loaded: Cluster, exercise: EvalTask, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Release, Path]]:
    """An installation over a Postgres outside of the cluster, and the repository of the task in it."""
    host = loaded.layout.host
    with postgres_server() as server:
        store = urlsplit(server.new_database())
        socket = Path(parse_qs(store.query)["host"][0], ".s.PGSQL.5432")
        with forwarder(host, socket) as port:
            given = {
                "database.mode": "external",
                "database.urlSecret": "store",
                "database.cidrs": f"{{{host}/32}}",
                "data.accessMode": "ReadWriteMany",
                "api.replicas": "2",
                "orchestrator.replicas": "2",
            }
            release = Release(loaded, "wide", "wide", tuple(f"--set={name}={value}" for name, value in given.items()))
            release.cluster.kubectl("create", "namespace", "wide")
            url = f"postgresql://mimo@{host}:{port}{store.path}"
            release.kubectl("create", "secret", "generic", "store", f"--from-literal=url={url}")
            release.install()
            yield release, asyncio.run(release.put(exercise, tmp_path_factory.mktemp("repository")))
            release.helm("uninstall", "--wait")


async def test_all_runs_end_although_a_worker_is_killed(wide: tuple[Release, Path], exercise: EvalTask) -> None:
    release, place = wide
    await all_succeed(release, exercise, place, lambda: release.kill(release.pods("orchestrator")[0]))


async def test_all_runs_end_although_all_pods_are_replaced_by_an_upgrade(
    wide: tuple[Release, Path], exercise: EvalTask
) -> None:
    release, place = wide
    before = {*release.pods("orchestrator"), *release.pods("api")}
    changed = [f"--set={part}.podAnnotations.changed=yes" for part in ("api", "orchestrator")]
    await all_succeed(release, exercise, place, lambda: release.upgrade(*changed))
    assert not before & {*release.pods("orchestrator"), *release.pods("api")}


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
