"""Runs a compose file's services on a Docker daemon that has neither Compose nor a network: they share one loopback."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import yaml
from docker.models.containers import Container

_VARIABLE = re.compile(r"\$\{(\w+)(?::[-?]([^}]*))?\}")
_READY_S = 180.0


class Composed:
    """The containers of the services, by name."""

    def __init__(self, client: Any, containers: Mapping[str, Container]) -> None:
        self.client = client
        self.containers = containers

    def run(self, service: str, *command: str) -> str:
        """What a command says in a service's container."""
        code, said = self.containers[service].exec_run(list(command))
        assert code == 0, said.decode()
        return str(said.decode())


@contextmanager
def running(address: str, text: str, variables: Mapping[str, str], folder: Path) -> Iterator[Composed]:
    """Start the services of a compose file, in order, each when those it waits for are ready; ``folder`` is its own."""
    services = yaml.safe_load(interpolated(text, variables))["services"]
    client = docker.DockerClient(base_url=address, timeout=300)
    containers: dict[str, Container] = {}
    hosts = dict.fromkeys(services, "127.0.0.1")
    try:
        # The first one is there for its network, in which the names of all of them mean loopback.
        containers[""] = client.containers.run(
            services["api"]["image"], ["sleep", "infinity"], detach=True, network_mode="none", extra_hosts=hosts
        )
        waiting = dict(services)
        while waiting:
            name = next(name for name in waiting if not set(waiting[name].get("depends_on", ())) & set(waiting))
            service = waiting.pop(name)
            containers[name] = client.containers.run(**_settings(service, containers[""], folder))
            _wait_for(containers[name], finishes=service["restart"] == "no")
        yield Composed(client, containers)
    finally:
        for container in containers.values():
            container.remove(force=True, v=True)
        client.close()


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """With the values of variables; those without a default have to be given."""

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        return variables[name] if name in variables or ":-" not in match[0] else default

    return _VARIABLE.sub(value, text).replace("$$", "$")


def _settings(service: Mapping[str, Any], first: Container, folder: Path) -> dict[str, Any]:
    """What the daemon is told."""
    health = service.get("healthcheck")
    return {
        "image": service["image"],
        "command": service.get("command"),
        "detach": True,
        "network_mode": f"container:{first.id}",
        "read_only": service["read_only"],
        "cap_drop": service["cap_drop"],
        "security_opt": service["security_opt"],
        "tmpfs": dict.fromkeys(service["tmpfs"], "mode=1777"),
        "environment": service.get("environment", {}),
        "group_add": service.get("group_add", []),
        "volumes": [_volume(volume, folder) for volume in service.get("volumes", ())],
        "healthcheck": health and {"test": health["test"], "interval": 10**9, "timeout": 30 * 10**9, "retries": 100},
    }


def _volume(text: str, folder: Path) -> str:
    return os.path.normpath(folder / text) if text.startswith("./") else text


def _wait_for(container: Container, *, finishes: bool) -> None:
    give_up = time.monotonic() + _READY_S
    while True:
        container.reload()
        state = container.attrs["State"]
        if state["Status"] == "exited":
            assert finishes, container.logs().decode()
            assert state["ExitCode"] == 0, container.logs().decode()
            return
        if not finishes and state.get("Health", {}).get("Status", "healthy") == "healthy":
            return
        assert time.monotonic() < give_up, container.logs().decode()
        time.sleep(0.1)
