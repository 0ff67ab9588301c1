"""A trial before any sandbox is handed out: what can be reached from inside one?

Network policies are accepted by clusters that do not enforce them, and nothing says so. So two sandboxes are made as
all others would be, and one of them tries the other and what an attacker would try.
"""

import asyncio
import secrets
import shlex
import socket
from urllib.parse import urlsplit

from sandbox.config import KubernetesSettings
from sandbox.errors import SandboxUnavailable
from sandbox.kubernetes.manifest import PROGRAM
from sandbox.kubernetes.sandbox import KubernetesSandbox
from sandbox.types import Command, Exited, Resources, SandboxSpec

_METADATA = ("tcp:169.254.169.254:80", "tcp:[fd00:ec2::254]:80")
"""Where clouds tell every machine its secrets."""
_LIFETIME_S = 120.0
_TRIAL_S = 20.0
_WHOLE_MAP = "0 0 4294967295"


def trial(image: str) -> SandboxSpec:
    """A small sandbox for the trial, of an image that is needed anyway."""
    return SandboxSpec(image=image, resources=Resources(memory_mib=64, disk_mib=16), lifetime_s=_LIFETIME_S)


def is_needed(settings: KubernetesSettings) -> bool:
    return settings.profile == "root" or not settings.accept_open_network


async def prove(
    one: KubernetesSandbox, neighbour: KubernetesSandbox, settings: KubernetesSettings, server: str
) -> None:
    """See that the one is held as the settings say, and reaches nothing unless they accept it.

    Args:
        server: address of the API server.

    Raises:
        SandboxUnavailable: it is not held so, or reaches something; says which setting decides.
    """
    if settings.profile == "root" and " ".join((await _say(one, "cat /proc/self/uid_map")).split()) == _WHOLE_MAP:
        raise SandboxUnavailable(
            "this cluster makes no user namespaces, so the superuser of a sandbox would be the node's own; use nodes "
            "that do, or set sandbox.kubernetes.profile to 'restricted'"
        )
    if settings.accept_open_network:
        return
    targets = [*_METADATA, *settings.outside, f"tcp:{neighbour.handle.address}", *await _addresses(server)]
    reached = (await _say(one, f"{PROGRAM} reach {shlex.join(targets)}")).split()
    if reached:
        raise SandboxUnavailable(
            f"from inside a sandbox, this cluster lets {', '.join(reached)} be reached "
            f"(sandbox.kubernetes.network is {settings.network!r}); set it to 'sealed' or 'fence', or have the cluster "
            "enforce its network policies; sandbox.kubernetes.accept_open_network serves all the same"
        )


async def _say(sandbox: KubernetesSandbox, line: str) -> str:
    outcome = await sandbox.exec(Command(line, secrets.token_hex(8), _TRIAL_S, cwd="/"))
    if not isinstance(outcome, Exited) or outcome.code != 0:
        raise SandboxUnavailable(f"the trial of the network did not come to its end: {outcome}")
    return outcome.output.decode(errors="replace")


async def _addresses(server: str) -> list[str]:
    """A sandbox knows no names, so they are looked up here."""
    parts = urlsplit(server)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    hosts = {str(address[4][0]) for address in found}
    return [f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}" for host in sorted(hosts)]
