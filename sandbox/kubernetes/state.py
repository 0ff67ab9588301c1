"""What is known of one sandbox in a cluster, whoever said it."""

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why a pod does not start, or is no more."""

    NO_IMAGE = "no_image"
    """The image is not there: neither on the node nor where it would come from."""
    PULL = "pull"
    """The image may be there, but did not come, and it is tried again."""
    REFUSED = "refused"
    """The node cannot make such a container, or the cluster does not admit such a pod."""
    NO_KIND = "no_kind"
    """The controller finds nothing that says what it is, or has not seen it yet."""
    UNSCHEDULABLE = "unschedulable"
    """No node has room for it."""
    FULL = "full"
    """The namespace has no room for it."""
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


UNKNOWN = PodState()
DELETED = PodState(over=True, cause=Cause.ENDED, detail="it was deleted")
GONE = PodState(over=True, gone=True, cause=Cause.ENDED, detail="it was deleted")
