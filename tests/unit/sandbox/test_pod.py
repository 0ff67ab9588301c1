"""What is read out of a pod's status, as kubelets and schedulers write it."""

import pytest

from sandbox.kubernetes.objects import WatchError
from sandbox.kubernetes.pod import Pod
from sandbox.kubernetes.starting import failure
from sandbox.kubernetes.state import Cause
from sandbox.kubernetes.watch import watch_line

CONTAINER = {"name": "sandbox", "ready": False, "restartCount": 0, "image": "", "imageID": ""}


def _pod(**status: object) -> Pod:
    return Pod.model_validate({"metadata": {"name": "one"}, "status": status})


def _waiting(reason: str, message: str = "") -> dict[str, object]:
    return {**CONTAINER, "state": {"waiting": {"reason": reason, "message": message}}}


def _ended(code: int, reason: str, message: str = "") -> dict[str, object]:
    return {**CONTAINER, "state": {"terminated": {"exitCode": code, "reason": reason, "message": message}}}


def _disrupted(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "said so"}]


def test_a_pod_has_its_address_before_its_containers_run() -> None:
    assert _pod(phase="Pending").state().address is None
    state = _pod(phase="Pending", podIP="10.0.0.1", containerStatuses=[_waiting("PodInitializing")]).state()
    assert (state.address, state.over, state.cause) == ("10.0.0.1", False, None)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ({"containerStatuses": [_waiting("ErrImageNeverPull")]}, Cause.NO_IMAGE),
        ({"containerStatuses": [_waiting("InvalidImageName")]}, Cause.NO_IMAGE),
        ({"containerStatuses": [_waiting("ErrImagePull", "rpc error: code = NotFound desc = ...")]}, Cause.NO_IMAGE),
        ({"containerStatuses": [_waiting("ImagePullBackOff", "dial tcp: connection refused")]}, Cause.PULL),
        ({"initContainerStatuses": [_waiting("ErrImagePull", "401 Unauthorized")]}, Cause.PULL),
        ({"containerStatuses": [_waiting("CreateContainerError", "no such file")]}, Cause.REFUSED),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3"}]}, Cause.UNSCHEDULABLE),
    ],
)
def test_why_a_pod_waits(status: dict[str, object], cause: Cause) -> None:
    state = _pod(phase="Pending", **status).state()
    assert (state.cause, state.over) == (cause, False)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ({"phase": "Failed", "reason": "Evicted", "message": "low on resource: memory"}, Cause.EVICTED),
        ({"phase": "Failed", "conditions": _disrupted("TerminationByKubelet")}, Cause.EVICTED),
        ({"phase": "Failed", "conditions": _disrupted("PreemptionByScheduler")}, Cause.EVICTED),
        ({"phase": "Failed", "conditions": _disrupted("DeletionByPodGC")}, Cause.NODE_LOST),
        ({"phase": "Failed", "reason": "NodeShutdown"}, Cause.NODE_LOST),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, Cause.DEADLINE),
        ({"phase": "Succeeded", "containerStatuses": [_ended(0, "Completed")]}, Cause.ENDED),
        ({"phase": "Failed", "containerStatuses": [_ended(137, "OOMKilled")]}, Cause.ENDED),
    ],
)
def test_why_a_pod_is_over(status: dict[str, object], cause: Cause) -> None:
    state = _pod(**status).state()
    assert (state.cause, state.over) == (cause, True)


def test_a_pod_that_is_being_deleted_is_over() -> None:
    about = {"name": "one", "deletionTimestamp": "2026-11-22T10:00:00Z"}
    state = Pod.model_validate({"metadata": about, "status": {"phase": "Running", "podIP": "10.0.0.1"}}).state()
    assert (state.over, state.address, state.detail) == (True, None, "it was deleted")


def test_a_first_container_that_failed_is_told_by_its_last_words() -> None:
    words = "sandboxd: closing the network with nftables (needs CAP_NET_ADMIN): operation not permitted"
    state = _pod(phase="Failed", initContainerStatuses=[_ended(1, "Error", words) | {"name": "fence"}]).state()
    assert f"fence ended with 1: Error {words}" in str(failure("one", state, "task:1"))


def test_the_last_line_of_a_watch_that_lost_count_is_no_pod() -> None:
    line = '{"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410}}'
    assert isinstance(watch_line(Pod).validate_json(line), WatchError)
