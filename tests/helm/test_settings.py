"""Every variable and option of the service is set by the chart, or is named here with the reason why it is not."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import Prices, model_settings
from deploy.chart.__main__ import ROOT
from deploy.cluster import programs
from tests.helm.rendered import Object, Rendered, containers, render

pytestmark = pytest.mark.skipif(
    bool(programs.missing()) or not programs.are_built(),
    reason="Helm is not built: deploy/setup.sh --for-tests",
)
_VARIABLE = re.compile(r"MIMO_[A-Z_]+[A-Z]")
_SERVICE = ("agent", "sandbox", "model_server")
_OF_USERS = "agent/cli"
NOT_IN_THE_CHART = {
    "MIMO_GIT_SECRET": "git's, for one call; the service sets it itself",
    "MIMO_GIT_USER": "git's, for one call; the service sets it itself",
    "MIMO_SGLANG_API_KEY": "SGLang of the chart is in the model server's own pod, and hears nobody else",
}
OPTIONS_NOT_IN_THE_CHART = {
    "--store": "the variable MIMO_STORE says it, and its password stands in no argument",
    "--artifacts": "the variable MIMO_ARTIFACTS says it",
    "--help": "for people",
}
OF_WORKERS_NOT_IN_THE_CHART = {
    **OPTIONS_NOT_IN_THE_CHART,
    "--exit-with-parent": "for workers that another program starts",
    "--registry": "all workers of a store have one by themselves",
}
NETWORKS = {"repositories": "10.1.0.0/16", "webhooks": "10.2.0.0/16", "mcp": "10.3.0.0/16"}
EVERYTHING: dict[str, Any] = {
    "repositories": {"hosts": ["git.example.org"], "networks": [NETWORKS["repositories"]], "caConfigMap": "authority"},
    "webhooks": {"networks": [NETWORKS["webhooks"]]},
    "mcp": {"networks": [NETWORKS["mcp"]]},
    "evals": {"configMap": "suites"},
    "api": {"identity": {"public_url": "https://mimo.example.org"}, "requestsPerMinute": 600},
    "modelServer": {
        "client": {
            "images": True,
            "check_syntax": False,
            "context_tokens": 2_000_000,
            "reasoning_field": "reasoning",
            "sessions": True,
            "record_tokens": False,
            "prices": {"prompt": 0.5, "cached": 0.05, "completion": 2},
        }
    },
}


def test_every_variable_of_the_service_is_set_by_the_chart_or_has_a_reason() -> None:
    made = render(EVERYTHING, "dev")
    set_by_chart = {name for container in _ours(made) for name in _variables(container) if name.startswith("MIMO_")}

    assert set_by_chart == _read_by_the_service() - set(NOT_IN_THE_CHART)
    assert set(NOT_IN_THE_CHART) <= _read_by_the_service(), "a reason for what nobody reads"


@pytest.mark.parametrize(
    ("name", "program", "reasons"),
    [
        ("api", "agent.api", OPTIONS_NOT_IN_THE_CHART),
        ("orchestrator", "agent.orchestrator", OF_WORKERS_NOT_IN_THE_CHART),
    ],
)
def test_every_option_of_a_program_is_given_by_the_chart_or_has_a_reason(
    name: str, program: str, reasons: dict[str, str]
) -> None:
    [container] = [each for each in _ours(render(EVERYTHING, "dev")) if each["name"] == name]
    said = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", said, re.MULTILINE))

    assert {argument.partition("=")[0] for argument in container["args"]} == options - set(reasons)
    assert set(reasons) <= options, "a reason for what there is not"


def test_callers_have_any_number_of_requests_unless_a_value_says_how_many() -> None:
    for given, wanted in (({}, []), ({"requestsPerMinute": 600}, ["--requests-per-minute=600"])):
        [api] = [each for each in _ours(render({"api": given}, "dev")) if each["name"] == "api"]
        assert [argument for argument in api["args"] if argument.startswith("--requests")] == wanted


def test_settings_of_the_model_are_read_by_api_and_workers_as_they_were_given() -> None:
    given = EVERYTHING["modelServer"]["client"]
    for container in _ours(render(EVERYTHING, "dev")):
        read = model_settings(_variables(container))
        told = {name: getattr(read, name) for name in given}
        assert told == given | {"prices": Prices.model_validate(given["prices"])}, container["name"]


def test_a_setting_of_the_model_that_is_null_is_as_the_program_has_it() -> None:
    made = render({"modelServer": {"client": {"check_syntax": None}}}, "dev")
    for container in _ours(made):
        assert "MIMO_MODEL_CHECK_SYNTAX" not in _variables(container)


@pytest.mark.parametrize(
    ("policy", "reached"), [("mimo-api", ("repositories", "webhooks")), ("mimo-executors", ("repositories", "mcp"))]
)
@pytest.mark.parametrize("flavor", ["kubernetes", "cilium"])
def test_networks_that_are_named_are_let_through_to_whom_they_are_for(
    flavor: str, policy: str, reached: tuple[str, ...]
) -> None:
    made = render(EVERYTHING | {"networkPolicy": {"flavor": flavor, "assumeInstalled": True}}, "dev")
    peers = [peer for rule in _egress(made, policy) for peer in rule.get("to", ())]
    named = {peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer} & set(NETWORKS.values())

    assert named == {NETWORKS[whose] for whose in reached}


@pytest.mark.parametrize(
    ("given", "volume"),
    [
        ({"configMap": "suites"}, {"configMap": {"name": "suites"}}),
        ({"existingClaim": "suites"}, {"persistentVolumeClaim": {"claimName": "suites", "readOnly": True}}),
    ],
    ids=["config map", "claim"],
)
def test_suites_are_where_the_api_looks_for_them_and_workers_see_them_there(
    given: dict[str, str], volume: Object
) -> None:
    made = render({"evals": given, "database": {"mode": "embedded"}}, "dev")
    for name in ("api", "orchestrator"):
        pod = made.one("Deployment", f"mimo-{name}")["spec"]["template"]["spec"]
        [container] = pod["containers"]
        [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "suites"]
        assert {"name": "suites", **volume} in pod["volumes"]
        assert (mount["mountPath"], mount["readOnly"]) == ("/suites", True)
        assert _variables(container).get("MIMO_EVAL_SUITES") == ("/suites" if name == "api" else None)


def test_authorities_of_git_hosts_are_a_file_that_api_and_workers_see() -> None:
    made = render({"repositories": {"caConfigMap": "authority"}}, "dev")
    [pod] = [template["spec"] for _, template in made.pods() if template["spec"]["containers"][0]["name"] == "api"]
    assert {"name": "repositories-ca", "configMap": {"name": "authority"}} in pod["volumes"]
    for container in pod["containers"]:
        [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "repositories-ca"]
        assert _variables(container)["MIMO_REPOSITORY_CA"] == f"{mount['mountPath']}/ca.crt"


def test_bounds_of_open_streams_are_given_to_the_api() -> None:
    made = render({"api": {"streamsPerCaller": 7, "streamsPerProject": 9}}, "dev")
    [api] = [container for container in _ours(made) if container["name"] == "api"]
    assert {"--streams-per-caller=7", "--streams-per-project=9"} <= set(api["args"])


def _ours(made: Rendered) -> list[Object]:
    """The containers of API and worker."""
    found = [each for _, template in made.pods() for each in containers(template)]
    return [each for each in found if each["name"] in ("api", "orchestrator")]


def _variables(container: Object) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def _egress(made: Rendered, policy: str) -> list[Object]:
    rules: list[Object] = made.one("NetworkPolicy", policy)["spec"]["egress"]
    return rules


def _read_by_the_service() -> set[str]:
    """What the code of the service names as a variable, in whole or as a part of what it has a shell do."""
    return {name for path in _sources() for name in _named(ast.parse(path.read_text("utf-8")))}


def _sources() -> Iterator[Path]:
    for package in _SERVICE:
        for path in (ROOT / package).rglob("*.py"):
            if not path.is_relative_to(ROOT / _OF_USERS) and "testing" not in path.parts:
                yield path


def _named(module: ast.Module) -> Iterator[str]:
    """Variables in texts that are used, so not in docstrings."""
    documentation = {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield from _VARIABLE.findall(node.value)
