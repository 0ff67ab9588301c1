"""What a pod's status says, as far as a sandbox is concerned."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel


class Cause(StrEnum):
    """Why a pod does not start, or is no more."""

    NO_IMAGE = "no_image"
    """The image is not there: neither on the node nor where it would come from."""
    PULL = "pull"
    """The image may be there, but did not come, and it is tried again."""
    REFUSED = "refused"
    """The node cannot make such a container."""
    UNSCHEDULABLE = "unschedulable"
    """No node has room for it."""
    EVICTED = "evicted"
    NODE_LOST = "node_lost"
    DEADLINE = "deadline"
    ENDED = "ended"
    """Its program ended, or somebody deleted it."""


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod, at one time."""

    address: str | None = None
    """Where it is, or will be, reached."""
    over: bool = False
    """It has ended, or is about to."""
    gone: bool = False
    """The cluster knows nothing of it any more."""
    cause: Cause | None = None
    """Why it is over, or does not come to run."""
    detail: str = ""


class _Object(BaseModel):
    """Whatever we do not read is left out."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel)


class _Condition(_Object):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _Ending(_Object):
    reason: str = ""
    message: str = ""
    exit_code: int = 0


class _ContainerState(_Object):
    waiting: _Ending | None = None
    terminated: _Ending | None = None


class _Container(_Object):
    name: str = ""
    state: _ContainerState = _ContainerState()


class _Status(_Object):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str | None = Field(None, alias="podIP")
    conditions: tuple[_Condition, ...] = ()
    init_container_statuses: tuple[_Container, ...] = ()
    container_statuses: tuple[_Container, ...] = ()


class _Metadata(_Object):
    name: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}


class Pod(_Object):
    """A pod as the API server sends it."""

    metadata: _Metadata = _Metadata()
    status: _Status = _Status()

    @property
    def name(self) -> str:
        return self.metadata.name

    def state(self) -> PodState:
        status = self.status
        if status.phase in ("Succeeded", "Failed") or self.metadata.deletion_timestamp is not None:
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
        deleted = "it was deleted" if self.metadata.deletion_timestamp else f"it has {status.phase.lower()}"
        return "; ".join(word.strip() for word in words if word.strip()) or deleted


class _Page(_Object):
    resource_version: str = ""
    continue_: str = Field("", alias="continue")


class PodList(_Object):
    """One page of a list of pods."""

    metadata: _Page = _Page()
    items: tuple[Pod, ...] = ()


class PodChange(_Object):
    """One line of a watch. Of a bookmark, only the version counts."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Pod


class WatchError(_Object):
    """The last line of a watch that cannot go on, mostly because its version is too old."""

    type: Literal["ERROR"]


WATCH_LINE: TypeAdapter[PodChange | WatchError] = TypeAdapter(
    Annotated[PodChange | WatchError, Field(discriminator="type")]
)

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
