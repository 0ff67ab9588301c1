"""What a pod's status says, as far as a sandbox is concerned."""

from pydantic import Field

from sandbox.kubernetes.objects import Condition, Part, Record
from sandbox.kubernetes.state import Cause, PodState


class _Ending(Part):
    reason: str = ""
    message: str = ""
    exit_code: int = 0


class _ContainerState(Part):
    waiting: _Ending | None = None
    terminated: _Ending | None = None


class _Container(Part):
    name: str = ""
    state: _ContainerState = _ContainerState()


class _Status(Part):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str | None = Field(None, alias="podIP")
    conditions: tuple[Condition, ...] = ()
    init_container_statuses: tuple[_Container, ...] = ()
    container_statuses: tuple[_Container, ...] = ()


class Pod(Record):
    """A pod as the API server sends it."""

    status: _Status = _Status()

    def state(self) -> PodState:
        status = self.status
        if status.phase in ("Succeeded", "Failed") or self.ending:
            return PodState(over=True, cause=self._why_over(), detail=self._last_words())
        for container in (*status.init_container_statuses, *status.container_statuses):
            waiting = container.state.waiting
            if waiting is not None and waiting.reason in _WAITS:
                there = not any(sign in waiting.message for sign in _NOT_THERE)
                cause = _WAITS[waiting.reason] if there else Cause.NO_IMAGE
                return PodState(cause=cause, detail=f"{waiting.reason}: {waiting.message}")
        for condition in status.conditions:
            if condition.type == "PodScheduled" and condition.status == "False":
                return PodState(cause=Cause.UNSCHEDULABLE, detail=condition.message)
        return PodState(status.pod_ip, detail=status.phase)

    def _why_over(self) -> Cause:
        reasons = [self.status.reason]
        reasons += [each.reason for each in self.status.conditions if each.type == "DisruptionTarget"]
        return next((_ENDS[reason] for reason in reasons if reason in _ENDS), Cause.ENDED)

    def _last_words(self) -> str:
        status = self.status
        words = [status.reason, status.message]
        words += [each.message for each in status.conditions if each.type == "DisruptionTarget"]
        for container in (*status.init_container_statuses, *status.container_statuses):
            end = container.state.terminated
            if end is not None and end.exit_code:
                words.append(f"{container.name} ended with {end.exit_code}: {end.reason} {end.message}")
        deleted = "it was deleted" if self.ending else f"it has {status.phase.lower()}"
        return "; ".join(word.strip() for word in words if word.strip()) or deleted


_NOT_THERE = ("not found", "NotFound", "no such image", "repository does not exist", "manifest unknown")
"""Of container runtimes: the kubelet passes on their words and says nothing of its own."""
_WAITS = {
    "ErrImageNeverPull": Cause.NO_IMAGE,
    "InvalidImageName": Cause.NO_IMAGE,
    "ErrImagePull": Cause.PULL,
    "ImagePullBackOff": Cause.PULL,
    "RegistryUnavailable": Cause.PULL,
    "CreateContainerConfigError": Cause.REFUSED,
    "CreateContainerError": Cause.REFUSED,
    "RunContainerError": Cause.REFUSED,
}
_ENDS = {
    "Evicted": Cause.EVICTED,
    "EvictionByEvictionAPI": Cause.EVICTED,
    "Preempting": Cause.EVICTED,
    "PreemptionByScheduler": Cause.EVICTED,
    "TerminationByKubelet": Cause.EVICTED,
    "NodeLost": Cause.NODE_LOST,
    "NodeShutdown": Cause.NODE_LOST,
    "Terminated": Cause.NODE_LOST,
    "DeletionByTaintManager": Cause.NODE_LOST,
    "DeletionByPodGC": Cause.NODE_LOST,
    "DeadlineExceeded": Cause.DEADLINE,
}
