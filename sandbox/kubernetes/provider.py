"""Where a sandbox's pod comes from: what a backend asks of it, and the one place that chooses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sandbox.config import KubernetesSettings
from sandbox.inventory import Found
from sandbox.kubernetes.cluster import Cluster
from sandbox.kubernetes.following import Following
from sandbox.types import SandboxSpec


@dataclass(frozen=True, slots=True)
class Held:
    """One sandbox's record in the cluster."""

    found: Found
    over: bool
    """Nothing runs for it any more."""


class Provider(Protocol):
    """Makes pods and ends them, by the name of their sandbox."""

    following: Following
    """Every sandbox that is followed there is told of."""

    async def ask_for(self, name: str, spec: SandboxSpec, *, again: bool = True) -> None:
        """Have a pod made. Whether and where it comes to be, ``following`` says.

        Args:
            again: others of its kind may be asked for, so that it can be worth while to hold some ready.

        Raises:
            Refusal: the cluster refuses; ``AlreadyExists`` where an earlier answer did not reach us.
            NoRoom: it does not answer.
        """

    async def end(self, name: str) -> bool:
        """Ask for the end of a sandbox; whether there was one.

        Raises:
            Refusal, NoRoom: as :meth:`ask_for`.
        """

    async def give_up(self, name: str) -> None:
        """Have the cluster forget a pod that was asked to end and whose node does not answer.

        Raises:
            Refusal, NoRoom: as :meth:`ask_for`.
        """

    async def held(self) -> Sequence[Held]:
        """All of the namespace, whoever asked for them.

        Raises:
            Refusal, NoRoom: as :meth:`ask_for`.
        """

    async def tidy(self) -> None:
        """Remove what only served sandboxes that are gone.

        Raises:
            Refusal, NoRoom: as :meth:`ask_for`.
        """

    async def close(self) -> None:
        """End what listens to the cluster."""


def open_provider(cluster: Cluster, settings: KubernetesSettings, service: str) -> Provider:
    """The one that the settings name.

    Args:
        service: id of who makes sandboxes.
    """
    match settings.provider:
        case "pods":
            from sandbox.kubernetes.bare_pods import BarePods

            return BarePods(cluster, settings, service)
        case "claims":
            from sandbox.kubernetes.claims import Claims

            return Claims(cluster, settings, service)
