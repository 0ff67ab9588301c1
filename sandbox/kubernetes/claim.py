"""What a claim of the agent-sandbox controller says, as far as a sandbox is concerned."""

from pydantic import Field

from sandbox.kubernetes.objects import Condition, Object, Part, Record
from sandbox.kubernetes.state import DELETED, Cause, PodState


class _Name(Part):
    name: str = ""


class _Spec(Part):
    warm_pool_ref: _Name = _Name()


class _Sandbox(Part):
    pod_ips: tuple[str, ...] = Field((), alias="podIPs")


class _Status(Part):
    conditions: tuple[Condition, ...] = ()
    sandbox: _Sandbox = _Sandbox()


class Claim(Record):
    """A SandboxClaim as the API server sends it."""

    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def kind(self) -> str:
        """The name of its pool."""
        return self.spec.warm_pool_ref.name

    def state(self) -> PodState:
        """Of a pod that does not start, the claim says little; that one says more itself."""
        if self.ending:
            return DELETED
        said = {condition.type: condition for condition in self.status.conditions}
        finished, ready = said.get("Finished"), said.get("Ready")
        if finished is not None and finished.status == "True":
            return PodState(over=True, cause=Cause.ENDED, detail=finished.message)
        address = next(iter(self.status.sandbox.pod_ips), None)
        if ready is None or ready.status == "True":
            return PodState(address)
        detail = ready.message or ready.reason
        if ready.reason in _ENDS:
            return PodState(over=True, cause=_ENDS[ready.reason], detail=detail)
        return PodState(address, cause=_why_not(ready), detail=detail)


class Pool(Object):
    """A SandboxWarmPool as the API server sends it, which stands for one kind of sandboxes."""


def _why_not(ready: Condition) -> Cause | None:
    """None where it may still come."""
    if ready.reason in _REASONS:
        return _REASONS[ready.reason]
    return next((_REFUSALS[words] for words in _REFUSALS if words in ready.message), None)


_ENDS = {
    "ClaimExpired": Cause.DEADLINE,
    "SandboxExpired": Cause.DEADLINE,
    "PodFailed": Cause.ENDED,
    "PodSucceeded": Cause.ENDED,
}
_REASONS = {
    "WarmPoolNotFound": Cause.NO_KIND,
    "TemplateNotFound": Cause.NO_KIND,
    "InvalidMetadata": Cause.REFUSED,
    "InvalidConfiguration": Cause.REFUSED,
    "EnvVarsInjectionRejected": Cause.REFUSED,
    "VolumeClaimTemplatesError": Cause.REFUSED,
}
"""After what it refuses by these, and after :data:`_ENDS`, the controller does not try again."""
_REFUSALS = {"exceeded quota": Cause.FULL, "forbidden": Cause.REFUSED, "is invalid": Cause.REFUSED}
"""Otherwise it passes on the API server's words, and tries again whatever they are. The first that fits counts."""
