"""What is read out of a claim's status, as the agent-sandbox controller writes it, and held against its own client."""

from typing import Any

import pytest
from k8s_agent_sandbox import constants

from sandbox.kubernetes import claim_manifest
from sandbox.kubernetes.claim import Claim
from sandbox.kubernetes.state import Cause
from sandbox.testing.agent_sandbox.definitions import CORE, definitions

FULL = (
    'Error seen: pods "one" is forbidden: exceeded quota: sandboxes, requested: pods=1, used: pods=1, limited: pods=1'
)
POLICY = 'Error seen: pods "one" is forbidden: ValidatingAdmissionPolicy "mimo" denied request: a sandbox must have ...'
INVALID = 'Error seen: Pod "one" is invalid: spec.containers[0].image: Required value'


def _claim(*conditions: dict[str, str], **sandbox: object) -> Claim:
    status = {"conditions": list(conditions), "sandbox": {"name": "one", **sandbox}}
    return Claim.model_validate({"metadata": {"name": "one"}, "status": status})


def _specs() -> list[Any]:
    return [definition["spec"] for definition in definitions()]


def _ready(status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": "Ready", "status": status, "reason": reason, "message": message}


def test_a_claim_has_its_address_before_its_pod_is_ready() -> None:
    assert _claim().state().address is None
    waiting = _claim(_ready("False", "DependenciesNotReady", "Pod exists with phase: Pending"), podIPs=["10.0.0.1"])
    assert (waiting.state().address, waiting.state().over, waiting.state().cause) == ("10.0.0.1", False, None)
    assert _claim(_ready("True", "DependenciesReady", ""), podIPs=["10.0.0.1"]).state().address == "10.0.0.1"


@pytest.mark.parametrize(("message", "cause"), [(FULL, Cause.FULL), (POLICY, Cause.REFUSED), (INVALID, Cause.REFUSED)])
def test_what_the_cluster_refused_the_controller_is_told(message: str, cause: Cause) -> None:
    state = _claim(_ready("False", "ReconcilerError", message)).state()
    assert (state.cause, state.over, state.detail) == (cause, False, message)


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("WarmPoolNotFound", Cause.NO_KIND),
        ("TemplateNotFound", Cause.NO_KIND),
        ("AdoptionPending", None),
        ("SandboxMissing", None),
    ],
)
def test_what_the_controller_has_yet_to_see_is_waited_for(reason: str, cause: Cause | None) -> None:
    state = _claim(_ready("False", reason, "not yet")).state()
    assert (state.cause, state.over, state.detail) == (cause, False, "not yet")


@pytest.mark.parametrize("reason", sorted(constants.TERMINAL_CLAIM_READY_REASONS))
def test_what_the_controllers_own_client_gives_up_is_not_waited_for(reason: str) -> None:
    state = _claim(_ready("False", reason, "")).state()
    assert (state.over or state.cause is Cause.REFUSED, state.detail) == (True, reason)


def test_a_claim_that_has_expired_is_over_for_its_lifetime() -> None:
    state = _claim(_ready("False", "ClaimExpired", "Claim has expired"), podIPs=["10.0.0.1"]).state()
    assert (state.over, state.cause) == (True, Cause.DEADLINE)


def test_claims_and_sandboxes_are_called_what_the_controllers_own_client_calls_them() -> None:
    assert f"{constants.CLAIM_API_GROUP}/{constants.CLAIM_API_VERSION}" == claim_manifest.VERSION
    assert constants.SANDBOX_API_GROUP == CORE
    named = {(spec["group"], spec["versions"][0]["name"], spec["names"]["plural"]) for spec in _specs()}
    assert {
        (constants.CLAIM_API_GROUP, constants.CLAIM_API_VERSION, constants.CLAIM_PLURAL_NAME),
        (constants.SANDBOX_API_GROUP, constants.SANDBOX_API_VERSION, constants.SANDBOX_PLURAL_NAME),
    } <= named


def test_a_claim_whose_pod_has_finished_is_over() -> None:
    finished = {"type": "Finished", "status": "True", "reason": "PodFailed", "message": "Pod failed"}
    assert _claim(finished, podIPs=["10.0.0.1"]).state().over


def test_a_claim_that_is_being_deleted_is_over() -> None:
    about = {"name": "one", "deletionTimestamp": "2026-11-22T10:00:00Z"}
    assert Claim.model_validate({"metadata": about}).state().over
