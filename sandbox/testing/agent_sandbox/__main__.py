"""Stands in for the agent-sandbox controller: ``python -m sandbox.testing.agent_sandbox --namespace NAMESPACE``.

Installs the definitions, says ``ready``, and ends with its standard input.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from sandbox.config import KubernetesSettings
from sandbox.kubernetes.cluster import Cluster, Refusal
from sandbox.testing.agent_sandbox.controller import Controller
from sandbox.testing.agent_sandbox.definitions import VERSION, definitions

_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.testing.agent_sandbox", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, help="How to reach the cluster, as its administrator.")
    parser.add_argument("--namespace", required=True, help="Whose claims are served.")
    given = parser.parse_args(argv)
    settings = KubernetesSettings(kubeconfig=given.kubeconfig, namespace=given.namespace)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings))


async def _serve(settings: KubernetesSettings) -> None:
    cluster = Cluster(settings)
    for definition in definitions():
        await _install(cluster, definition)
    serving = asyncio.create_task(Controller(cluster, settings.namespace).run())
    print("ready", flush=True)  # noqa: T201  # for whoever started it
    until = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait({serving, until}, return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    await cluster.close()


async def _install(cluster: Cluster, definition: dict[str, object]) -> None:
    """Have the cluster serve it."""
    spec = definition["spec"]
    assert isinstance(spec, dict), spec
    with contextlib.suppress(Refusal):  # it is there
        await cluster.ask("POST", _DEFINITIONS, body=definition)
    while True:
        try:
            await cluster.ask("GET", f"/apis/{spec['group']}/{VERSION}/{spec['names']['plural']}")
            return
        except Refusal:
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()
