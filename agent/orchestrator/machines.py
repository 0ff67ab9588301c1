"""What sandboxes a run needs: of its agent, of its checks, and of what prepares it."""

from agent.forges import FORGES, INDEXES, leads_to
from agent.types import SetUp, TaskRequest
from sandbox.types import NetworkMode, Resources, SandboxSpec

_SPARE_S = 300.0
"""What a sandbox may live longer than the work in it: starting, unpacking, snapshots."""


class Machines:
    """Within the operator's bounds."""

    def __init__(self, resources: Resources, allow_hosts: tuple[str, ...]) -> None:
        """
        Args:
            allow_hosts: what may be reached by name, by all but checks.
        """
        self._resources = resources
        self._allow_hosts = allow_hosts

    def of_agent(self, run_id: str, request: TaskRequest) -> SandboxSpec:
        denied = (*request.deny_hosts, *(FORGES + INDEXES if request.benchmark else ()))
        hosts = tuple(host for host in self._hosts_of(request) if not any(leads_to(host, name) for name in denied))
        work_s = request.limits.sandbox_lifetime_s or request.limits.wall_clock_s
        return self._reaching(run_id, request, work_s, hosts)

    def of_setup(self, run_id: str, request: TaskRequest, setup: SetUp) -> SandboxSpec:
        """It is no work of the agent: a benchmark's too may fetch what its files need."""
        return self._reaching(run_id, request, setup.timeout_s, self._hosts_of(request))

    def of_checks(self, request: TaskRequest) -> SandboxSpec:
        """Without any network."""
        return self._spec(request, sum(check.timeout_s for check in request.checks))

    def forecast(self, request: TaskRequest) -> tuple[SandboxSpec, ...]:
        """What the verdict will need, as far as known before."""
        return (self.of_checks(request),) if request.checks else ()

    def _hosts_of(self, request: TaskRequest) -> tuple[str, ...]:
        """A task may have fewer hosts than all, never others."""
        wanted = request.allow_hosts
        return tuple(host for host in self._allow_hosts if wanted is None or host in wanted)

    def _reaching(self, run_id: str, request: TaskRequest, work_s: float, hosts: tuple[str, ...]) -> SandboxSpec:
        return self._spec(request, work_s, run_id if hosts else "", hosts)

    def _spec(
        self, request: TaskRequest, work_s: float, run_id: str = "", allow_hosts: tuple[str, ...] = ()
    ) -> SandboxSpec:
        """A machine for so many seconds of work."""
        return SandboxSpec(
            image=request.image,
            resources=self._resources,
            network=NetworkMode.PROXY if allow_hosts else NetworkMode.NONE,
            allow_hosts=allow_hosts,
            run_id=run_id,
            lifetime_s=work_s + _SPARE_S,
        )
