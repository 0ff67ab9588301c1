"""A release of the chart on a real cluster, and what its user does with it."""

import base64
import json
import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio

from agent.api.schemas import EventView, TaskView
from agent.cli.client import Client, ServiceProblem, ServiceUnreachable
from agent.git import git
from agent.types import TaskRequest
from deploy.chart.__main__ import CHART
from deploy.cluster import programs
from deploy.cluster.cluster import Cluster
from evals.repository import write_repository
from evals.types import EvalTask

_PATIENTLY = ("--wait", "--timeout=280s")


class HelmError(Exception):
    """Helm says no, with these words."""


def helm(*arguments: str, kubeconfig: Path | None = None) -> str:
    """What it says.

    Raises:
        HelmError: with what it complains about.
    """
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig or os.devnull)}
    command = [str(programs.build()["helm"]), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HelmError(done.stderr)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Release:
    cluster: Cluster
    name: str
    namespace: str
    given: tuple[str, ...] = ()
    """What it is told beside the small profile."""

    @property
    def sandboxes(self) -> str:
        """The namespace of its sandboxes."""
        return f"{self.name}-sandboxes"

    def install(self, *arguments: str) -> str:
        return self._apply("install", *arguments)

    def upgrade(self, *arguments: str) -> str:
        return self._apply("upgrade", *arguments)

    def helm(self, command: str, *arguments: str) -> str:
        return helm(command, self.name, f"--namespace={self.namespace}", *arguments, kubeconfig=self.cluster.kubeconfig)

    def _apply(self, command: str, *arguments: str) -> str:
        profile = f"--values={CHART}/values-dev.yaml"
        return self.helm(command, str(CHART), profile, *self.given, *_PATIENTLY, *arguments)

    def is_installed(self) -> bool:
        listed = helm("list", f"--namespace={self.namespace}", "--short", kubeconfig=self.cluster.kubeconfig)
        return self.name in listed.split()

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def get(self, *arguments: str, namespace: str | None = None) -> Mapping[str, Any]:
        where = f"--namespace={namespace or self.namespace}"
        found: dict[str, Any] = json.loads(self.cluster.kubectl(where, "get", "--output=json", *arguments))
        return found

    def pods(self, component: str) -> list[str]:
        """The names of its pods that are not about to end."""
        mine = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        return _living(self.get("pods", f"--selector={mine}"))

    def sandbox_pods(self) -> list[str]:
        return _living(self.get("pods", namespace=self.sandboxes))

    def kill(self, *pods: str, namespace: str | None = None) -> None:
        """As when their node is lost: nobody may end anything in order."""
        where = f"--namespace={namespace or self.namespace}"
        self.cluster.kubectl(where, "delete", "pod", "--grace-period=0", "--force", *pods)

    def keys(self) -> Mapping[str, str]:
        data: Mapping[str, str] = self.get("secret", f"{self.name}-keys")["data"]
        return {name: base64.b64decode(value).decode() for name, value in data.items()}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Of its API, at the address of the service."""
        address = self.get("service", f"{self.name}-api")["spec"]["clusterIP"]
        # Its pod may be away for a minute.
        async with Client(f"http://{address}:8080", api_key=self.keys()["api-key"], reconnect_s=4.0) as client:
            yield client

    async def put(self, exercise: EvalTask, folder: Path) -> Path:
        """Put the repository of a task where the service finds it; ``folder`` is for a copy of it here."""
        await write_repository(exercise, folder / exercise.id)
        history = (await git("fast-export", "--all", cwd=folder / exercise.id)).decode()
        inside = f"/data/checkouts/{exercise.id}"
        line = f"git init -q {inside} && cd {inside} && git fast-import --quiet && git reset -q --hard main"
        api = ("exec", "--stdin", f"deploy/{self.name}-api", "--container=api", "--")
        self.kubectl(*api, "sh", "-c", line, stdin=history)
        return Path(inside)


async def until(client: Client, task_id: str, kind: str) -> EventView:
    """The first event of that kind."""
    watching = cast(AsyncGenerator[EventView, None], client.watch(task_id))
    async with aclosing(watching) as events:
        async for event in events:
            if event.type == kind:
                return event
    raise AssertionError(f"the task ended without {kind}")


@contextmanager
def perhaps_away() -> Iterator[None]:
    """What is asked in this may find no answer: the API's pods or its store may just be made anew."""
    try:
        yield
    except ServiceUnreachable:
        pass
    except ServiceProblem as problem:
        if not problem.retryable:
            raise


async def answers(client: Client) -> None:
    """Wait until the API does."""
    for _ in range(400):
        with perhaps_away():
            await client.list(limit=1)
            return
        await anyio.sleep(0.5)
    raise AssertionError("the API does not come back")


async def submitted(client: Client, request: TaskRequest) -> TaskView:
    """The task, whoever has to be waited for; twice where the answer to the first was lost."""
    while True:
        with perhaps_away():
            return await client.submit(request)
        await answers(client)


async def ended(client: Client, task_id: str) -> TaskView:
    """The task when it has ended. A pod of the API that is on its way out may have been the one that answered."""
    while True:
        with perhaps_away():
            async for _ in client.watch(task_id):
                pass
            return await client.show(task_id)
        await answers(client)


def _living(pods: Mapping[str, Any]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods["items"] if "deletionTimestamp" not in pod["metadata"]]
