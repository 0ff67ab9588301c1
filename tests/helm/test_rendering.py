"""What the chart makes of its profiles, as far as that shows without a cluster."""

import base64
import json
import shutil
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

from agent.api.issuers import IdentitySettings
from agent.store.secrets import SecretBox
from deploy.chart.__main__ import CHART, PAGE, with_table
from deploy.chart.files import chart_files
from deploy.cluster import programs
from model_server.sglang.arguments import LaunchSettings
from model_server.sglang.command import plan_launch
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.kubernetes.fences import Bounds, Executors, fences
from tests.helm.release import helm
from tests.helm.rendered import PROFILES, SITE, Object, Rendered, containers, lint, profile, render, site

pytestmark = pytest.mark.skipif(
    bool(programs.missing()) or not programs.are_built(),
    reason="Helm is not built: deploy/setup.sh --for-tests",
)
KNOWN_SECRETS = {"mimo-database", "mimo-api-key", "mimo-secrets-key", "mimo-model-key", "mimo-registry"}
"""Those that a profile expects from its user."""
OURS = "registry.example.internal/"


@pytest.fixture(params=PROFILES)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return profile(request.param)


@pytest.mark.parametrize("version", ["1.30.0", "1.37.0"])
@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_for_every_supported_kubernetes(name: str, version: str) -> None:
    assert profile(name, f"--kube-version={version}").objects


@pytest.mark.parametrize("name", PROFILES)
def test_helm_finds_nothing_to_complain_about(name: str) -> None:
    assert "0 chart(s) failed" in lint(name)


def test_files_written_by_programs_are_those_that_would_be_written_now() -> None:
    for path, content in chart_files().items():
        assert (CHART / path).read_text("utf-8") == content, f"{path}: run python -m deploy.chart"
    assert with_table(PAGE.read_text("utf-8")) == PAGE.read_text("utf-8"), "run python -m deploy.chart"


def test_rendering_is_measured_with_the_helm_that_is_pinned() -> None:
    ours, measured = (
        {line.removesuffix(" // indirect") for line in (programs.SOURCES / module / "go.mod").read_text().splitlines()}
        for module in ("helm", "render")
    )
    assert {line for line in ours ^ measured if line.startswith("\t")} == set()


def test_no_two_objects_have_one_name(rendered: Rendered) -> None:
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in rendered.objects]
    assert len(names) == len(set(names))


def test_selectors_of_services_budgets_and_policies_find_pods(rendered: Rendered) -> None:
    labels = [template["metadata"]["labels"] for _, template in rendered.pods()]
    for each in chain(rendered.of("Service"), rendered.of("PodDisruptionBudget"), rendered.of("NetworkPolicy")):
        if each["metadata"]["namespace"] != "coder":
            continue
        for selector in selectors(each):
            assert any(selector.items() <= found.items() for found in labels), (each["kind"], each["metadata"]["name"])


def test_a_controller_selects_its_own_pods_by_what_never_changes(rendered: Rendered) -> None:
    for each in chain(rendered.of("Deployment"), rendered.of("StatefulSet")):
        selector = each["spec"]["selector"]["matchLabels"]
        assert selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        assert set(selector) == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}


def test_whatever_a_pod_names_is_there(rendered: Rendered) -> None:
    secrets = {each["metadata"]["name"] for each in rendered.of("Secret")} | KNOWN_SECRETS
    accounts = {each["metadata"]["name"] for each in rendered.of("ServiceAccount")} | {"default"}
    for _, template in rendered.pods():
        spec = template["spec"]
        assert spec.get("serviceAccountName", "default") in accounts
        own = {each["metadata"]["name"] for each in template_claims(rendered, template)}
        volumes = {volume["name"] for volume in spec["volumes"]} | own
        for container in containers(template):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, container["name"]
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                assert reference is None or reference["name"] in secrets, variable
        for volume in spec["volumes"]:
            if "configMap" in volume:
                rendered.one("ConfigMap", volume["configMap"]["name"])


def test_secrets_hold_the_keys_that_pods_read(rendered: Rendered) -> None:
    held = {(each["metadata"]["name"], key) for each in rendered.of("Secret") for key in each.get("data") or {}}
    for _, template in rendered.pods():
        for container in containers(template):
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference is not None and reference["name"] not in KNOWN_SECRETS:
                    assert (reference["name"], reference["key"]) in held


def test_our_own_containers_are_restricted(rendered: Rendered) -> None:
    for _, template in rendered.pods():
        pod = template["spec"]["securityContext"]
        assert pod["seccompProfile"]["type"] == "RuntimeDefault"
        for container in containers(template):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"]["drop"] == ["ALL"]
            if container["name"] not in ("sglang", "download"):  # the stock image runs as the superuser
                assert security["readOnlyRootFilesystem"]
                assert security.get("runAsNonRoot", pod.get("runAsNonRoot"))


def test_only_whoever_makes_sandboxes_has_a_token(rendered: Rendered) -> None:
    for _, template in rendered.pods():
        assert template["spec"]["automountServiceAccountToken"] is False
        for container in containers(template):
            has_token = any(mount["name"] == "token" for mount in container["volumeMounts"])
            tests_sandboxes = template["metadata"].get("name") == "mimo-test-sandbox"
            assert has_token == (tests_sandboxes or container["name"] == "orchestrator"), container["name"]


def test_nothing_is_bound_for_the_whole_cluster(rendered: Rendered) -> None:
    assert not rendered.of("ClusterRole")
    assert not rendered.of("ClusterRoleBinding")
    rules = list(chain.from_iterable(role["rules"] for role in rendered.of("Role")))
    assert all("*" not in part for rule in rules for part in rule.values())


def test_images_are_pinned_and_ours_come_from_the_registry_that_was_named(rendered: Rendered) -> None:
    for _, template in rendered.pods():
        for container in containers(template):
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"].rpartition("/")[2]


def test_an_airgapped_release_takes_everything_from_one_registry() -> None:
    for _, template in profile("airgapped").pods():
        for container in containers(template):
            assert container["image"].startswith(OURS)
            assert "@sha256:" in container["image"]
    assert OURS in str(profile("airgapped").one("ValidatingAdmissionPolicy", "mimo-sandbox-mimo-sandboxes"))


def test_probes_are_of_one_kind_and_leave_time(rendered: Rendered) -> None:
    for _, template in rendered.pods():
        for container in containers(template):
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(name)
                if probe is not None:
                    assert len({"exec", "httpGet", "tcpSocket", "grpc"} & set(probe)) == 1
                    assert "initialDelaySeconds" not in probe
                    if name == "livenessProbe":
                        assert probe["failureThreshold"] * probe["periodSeconds"] >= 30


def test_gpus_are_asked_for_as_they_are_bounded() -> None:
    for name in ("h200", "h100-no-rdma", "two-node-lws"):
        for container in chain.from_iterable(containers(template) for _, template in profile(name).pods()):
            if container["name"] == "sglang":
                resources = container["resources"]
                assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "8"


def test_gpus_are_claimed_by_class_where_one_is_named() -> None:
    claim = {
        "deviceClass": "gpu.nvidia.com",
        "selectors": ['device.attributes["gpu.nvidia.com"].productName == "H200"'],
    }
    values = {**SITE, "modelServer": {"weights": {"claim": "weights"}, "sglang": {"gpuClaim": claim}}}
    made = render(values)
    [template] = made.of("ResourceClaimTemplate")
    [request] = template["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"] == {
        "deviceClassName": "gpu.nvidia.com",
        "count": 8,
        "selectors": [{"cel": {"expression": claim["selectors"][0]}}],
    }
    [pod] = [pod["spec"] for each, pod in made.pods() if each["kind"] == "StatefulSet"]
    assert pod["resourceClaims"] == [{"name": "gpus", "resourceClaimTemplateName": template["metadata"]["name"]}]
    resources = sglang_container(made)["resources"]
    assert resources["claims"] == [{"name": "gpus"}]
    assert not {"nvidia.com/gpu"} & (set(resources["requests"]) | set(resources["limits"]))
    fewer = render(
        {**values, "modelServer": {**values["modelServer"], "sglang": {"gpuClaim": claim, "settings": {"gpus": 4}}}}
    )
    assert fewer.of("ResourceClaimTemplate")[0]["metadata"]["name"] != template["metadata"]["name"], "none is changed"


@pytest.mark.parametrize("name", ["h200", "h100-no-rdma"])
def test_sglang_is_started_as_the_model_server_would_start_it(name: str) -> None:
    sglang = sglang_container(profile(name))
    given = yaml.safe_load((CHART / f"values-{name}.yaml").read_text())["modelServer"]["sglang"]["settings"]
    launch = plan_launch(LaunchSettings(model_path="/weights/MiMo-V2-Flash", **given))
    assert tuple(sglang["args"]) == launch.arguments
    variables = {variable["name"]: variable["value"] for variable in sglang["env"]}
    assert launch.environment.items() <= variables.items()


def test_flags_of_sglang_can_be_added_changed_and_taken_away() -> None:
    flags = {"attention-backend": "fa3", "page-size": 64, "enable-cache-report": None, "enable-mixed-chunk": True}
    settings = {"gpus": 8, "draft_steps": 0, "memory_share": 0.8, "flags": flags}
    values = {**SITE, "modelServer": {"sglang": {"settings": settings}, "weights": {"claim": "weights"}}}
    launch = plan_launch(LaunchSettings(model_path="/weights/MiMo-V2-Flash", **settings))
    assert tuple(sglang_container(render(values))["args"]) == launch.arguments


def test_over_two_nodes_each_is_told_its_place() -> None:
    leader, worker = (pod for each, pod in profile("two-node-lws").pods() if each["kind"] == "LeaderWorkerSet")
    assert [container["name"] for container in containers(leader)] == ["model-server", "sglang"]
    [alone] = containers(worker)
    assert "--node-rank=$(LWS_WORKER_INDEX)" in alone["args"]
    assert "startupProbe" not in alone


@pytest.mark.parametrize("profile_of_pods", ["restricted", "root"])
@pytest.mark.parametrize(("network", "provider"), [("sealed", "pods"), ("fence", "claims"), ("policy", "pods")])
@pytest.mark.parametrize(("registry", "runtime_class"), [("", None), (OURS, "gvisor")])
def test_the_namespace_of_sandboxes_is_kept_as_the_code_keeps_it(
    profile_of_pods: str, network: str, provider: str, registry: str, runtime_class: str | None
) -> None:
    settings: Object = {"profile": profile_of_pods, "network": network, "port": 7171, "provider": provider}
    settings |= {"runtime_class": runtime_class} if runtime_class else {}
    bounds = {"pods": 7, "memoryMib": 8000, "cpus": 3, "podMemoryMib": 900, "registry": registry}
    task = {"registry": registry.rstrip("/"), "digest": f"sha256:{'0' * 64}"}
    made = render({"sandbox": {"settings": settings, "bounds": bounds, "taskImage": task}}, "dev")
    wanted = fences(
        KubernetesSettings.model_validate(
            {**settings, "namespace": "mimo-sandboxes", "agent_image": "mimo-coder/sandboxd:0.1.0"}
        ),
        Executors(
            namespace="coder",
            account="mimo-orchestrator",
            labels={"app.kubernetes.io/instance": "mimo", "mimo-coder/executor": "true"},
        ),
        Bounds(pods=7, memory_mib=8000, cpus=3, pod_memory_mib=900, registry=registry),
    )
    for expected in map(Object, wanted):
        metadata = Object(expected["metadata"])
        found = made.one(expected["kind"], metadata["name"])
        labels = metadata.pop("labels", {})
        assert labels.items() <= found["metadata"]["labels"].items()
        assert {**found["metadata"], "labels": None} == {**metadata, "labels": None}
        assert {**found, "metadata": None} == {**expected, "metadata": None}


def test_the_worker_reads_the_settings_of_sandboxes_that_were_given(rendered: Rendered) -> None:
    text = rendered.one("ConfigMap", "mimo-orchestrator")["data"]["sandbox.toml"]
    settings = SandboxSettings.model_validate(tomllib.loads(text)).kubernetes
    assert settings.namespace == "mimo-sandboxes"
    assert settings.service == "mimo"
    assert "mimo-coder/sandboxd" in settings.agent_image


def test_what_is_said_of_sandboxes_is_what_the_worker_reads() -> None:
    given = {
        "egress": {"allow_hosts": ["packages.example.org", "git.example.org:22"], "allow_addresses": ["10.0.0.0/8"]},
        "toolbox": {"max_sandboxes": 40, "rates": {"exec": {"per_s": 20}}},
        "pool": {"max_ready": 16},
    }
    made = render({"sandbox": {**given, "settings": {"network": "fence"}}}, "dev")
    text = made.one("ConfigMap", "mimo-orchestrator")["data"]["sandbox.toml"]
    read = SandboxSettings.model_validate(tomllib.loads(text)).model_dump(mode="json", exclude_unset=True)
    assert {part: read[part] for part in given} == given


def test_hosts_that_sandboxes_may_reach_are_let_through_by_the_workers_policy() -> None:
    egress = {"allow_hosts": ["packages.example.org", "git.example.org:22"]}
    made = render({"sandbox": {"egress": egress, "settings": {"network": "fence"}}}, "dev")
    rules = made.one("NetworkPolicy", "mimo-executors")["spec"]["egress"]
    anywhere = [{port["port"] for port in rule["ports"]} for rule in rules if "to" not in rule]
    assert {80, 443, 22} in anywhere


def test_with_cilium_workers_reach_the_hosts_that_were_named_and_nothing_else_outside() -> None:
    by_name = {"flavor": "cilium", "assumeInstalled": True, "workerHosts": ["store.example.org:9000"]}
    sandbox = {"egress": {"allow_hosts": ["*.packages.example.org"]}, "settings": {"network": "fence"}}
    given = {"networkPolicy": by_name, "repositories": {"hosts": ["git.example.org"]}, "sandbox": sandbox}
    made = render(given, "dev")
    rules = made.one("NetworkPolicy", "mimo-executors")["spec"]["egress"]
    assert [rule for rule in rules if "to" not in rule] == []
    [names, *hosts] = made.one("CiliumNetworkPolicy", "mimo-hosts")["spec"]["egress"]
    assert names["toPorts"][0]["rules"]["dns"]
    reached = {
        next(iter(rule["toFQDNs"][0].items())): [port["port"] for port in rule["toPorts"][0]["ports"]] for rule in hosts
    }
    assert reached == {
        ("matchName", "git.example.org"): ["80", "443"],
        ("matchName", "store.example.org"): ["9000"],
        ("matchPattern", "*.packages.example.org"): ["80", "443"],
    }


@pytest.mark.parametrize("claim", ["", "mine"])
def test_one_job_fetches_the_weights_that_model_servers_wait_for(claim: str) -> None:
    weights = {"source": "job", "revision": "0123456789abcdef" * 2 + "01234567", "claim": claim}
    made = render({**SITE, "modelServer": {"weights": weights}})
    [job] = made.of("Job")
    [server] = [template for each, template in made.pods() if each["kind"] == "StatefulSet"]
    claims = {each["metadata"]["name"]: each["spec"] for each in made.of("PersistentVolumeClaim")}
    assert ("mimo-weights" in claims) == (not claim)
    assert not claim or claims.keys() == {"mimo-data"}
    written, read = (
        next(volume["persistentVolumeClaim"] for volume in pod["spec"]["volumes"] if volume["name"] == "weights")
        for pod in (job["spec"]["template"], server)
    )
    assert written == {"claimName": claim or "mimo-weights"}
    assert read == {**written, "readOnly": True}
    first, *_ = server["spec"]["initContainers"]
    [fetching] = job["spec"]["template"]["spec"]["containers"]
    assert first["args"] == fetching["args"][1:]
    leaving = made.one("NetworkPolicy", "mimo-weights")["spec"]
    assert leaving["podSelector"]["matchLabels"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert made.one("NetworkPolicy", "mimo-model-server")["spec"]["egress"] in (None, [])


def test_weights_that_change_are_fetched_by_another_job() -> None:
    def name(revision: str) -> str:
        weights = {"source": "job", "revision": revision * 40}
        return str(render({**SITE, "modelServer": {"weights": weights}}).of("Job")[0]["metadata"]["name"])

    assert name("a") == name("a") != name("b")


def test_migrations_as_a_hook_are_a_job_of_their_own_that_reaches_the_database() -> None:
    database = {"mode": "external", "urlSecret": "mimo-database", "migrations": "hook", "cidrs": ["10.0.0.9/32"]}
    made = render({"database": database}, "dev")
    job = made.one("Job", "mimo-migrations")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]
    [container] = containers(pod)
    assert container["command"][-2:] == ["agent.store", "migrate"]
    assert pod["spec"]["serviceAccountName"] == "default", "accounts of the release come after it"
    [reaching] = made.one("NetworkPolicy", "mimo-store")["spec"]["podSelector"]["matchExpressions"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] in reaching["values"]
    others = [each["metadata"]["name"] for each, template in made.pods() if "migrate" in str(template)]
    assert others == ["mimo-migrations"]


def test_sandboxes_have_a_priority_of_their_own_where_that_is_wanted() -> None:
    made = render({"sandbox": {"priorityClass": {"enabled": True, "value": -7}}}, "dev")
    [own] = made.of("PriorityClass")
    assert (own["value"], own["preemptionPolicy"]) == (-7, "Never")
    text = made.one("ConfigMap", "mimo-orchestrator")["data"]["sandbox.toml"]
    assert SandboxSettings.model_validate(tomllib.loads(text)).kubernetes.priority_class == own["metadata"]["name"]
    assert not profile("dev").of("PriorityClass")


def test_what_workers_ask_of_the_api_server_has_a_share_of_its_own_where_that_is_wanted() -> None:
    made = render({"sandbox": {"flowSchema": {"enabled": True, "shares": 7}}}, "dev")
    schema = made.one("FlowSchema", "mimo-sandbox-mimo-sandboxes")["spec"]
    level = made.one("PriorityLevelConfiguration", schema["priorityLevelConfiguration"]["name"])["spec"]
    [rule] = schema["rules"]
    assert rule["subjects"][0]["serviceAccount"] == {"name": "mimo-orchestrator", "namespace": "coder"}
    assert rule["resourceRules"][0]["namespaces"] == ["mimo-sandboxes"]
    assert level["limited"]["nominalConcurrencyShares"] == 7
    assert not profile("dev").of("FlowSchema")


def test_api_and_workers_are_told_of_the_same_git_hosts() -> None:
    hosts = {"hosts": ["git.example.org", "*.example.com"], "networks": ["10.0.0.0/8"]}
    told = {"MIMO_REPOSITORY_HOSTS": "git.example.org,*.example.com", "MIMO_REPOSITORY_NETWORKS": "10.0.0.0/8"}
    [template] = [
        template for each, template in render({"repositories": hosts}, "dev").pods() if each["kind"] == "Deployment"
    ]
    for container in containers(template):
        assert told.items() <= {variable["name"]: variable.get("value") for variable in container["env"]}.items()


def test_the_api_reads_the_issuers_that_were_given() -> None:
    grants = [{"project": "web", "role": "member", "claims": {"team": "web"}}]
    whose = {"name": "company", "url": "https://id.example.internal", "audience": "mimo", "kind": "oidc"}
    made = render({"api": {"identity": {"issuers": [{**whose, "grants": grants}]}}}, "dev")
    settings = IdentitySettings.model_validate(
        tomllib.loads(made.one("ConfigMap", "mimo-api")["data"]["identity.toml"])
    )
    assert [each.name for each in settings.issuers] == ["company"]


def test_the_key_of_secrets_is_one() -> None:
    held = render({}, "dev").one("Secret", "mimo-keys")["data"]
    SecretBox(base64.b64decode(held["secrets-key"]).decode())


def test_a_changed_setting_of_sandboxes_starts_the_worker_anew() -> None:
    given = [{"sandbox": {"settings": {"lease_s": lease_s}}} for lease_s in (30, 40)]
    before, after = (render(values, "dev").one("Deployment", "mimo-api") for values in given)
    assert before["spec"]["template"] != after["spec"]["template"]


@pytest.mark.parametrize("name", PROFILES)
def test_names_that_pods_of_stateful_sets_get_fit_into_their_labels(name: str) -> None:
    """Of the longest release: the label ``controller-revision-hash`` is such a name and up to eleven characters."""
    longest = "a" * (36 if name == "two-node-lws" else 39)
    made = profile(name, f"--set=fullnameOverride={longest}")
    names = [each["metadata"]["name"] for each in made.of("StatefulSet")]
    groups = [f"{each['metadata']['name']}-99" for each in made.of("LeaderWorkerSet")]
    assert all(len(name) + 11 <= 63 for name in names + groups)


def test_a_change_of_the_chart_alone_replaces_no_pod(tmp_path: Path) -> None:
    other = tmp_path / "chart"
    shutil.copytree(CHART, other)
    about = (other / "Chart.yaml").read_text()
    (other / "Chart.yaml").write_text(about.replace("\nversion: ", "\nversion: 9"))
    values = (f"--values={CHART}/values-dev.yaml", "--set=database.mode=embedded")
    before, after = (
        [each for each in yaml.safe_load_all(helm("template", "mimo", str(chart), *values)) if each is not None]
        for chart in (CHART, other)
    )
    kinds = ("Deployment", "StatefulSet")
    templates = [
        {each["metadata"]["name"]: each["spec"]["template"] for each in made if each["kind"] in kinds}
        for made in (before, after)
    ]
    assert templates[0] == templates[1]
    assert before[0]["metadata"]["labels"]["helm.sh/chart"] != after[0]["metadata"]["labels"]["helm.sh/chart"]


def test_pods_of_sandboxes_may_fetch_from_the_registry_as_those_of_the_release() -> None:
    made = render({"global": {"imagePullSecrets": ["mine", "mine", "30"]}}, "dev")
    account = made.one("ServiceAccount", "mimo-sandbox")
    assert account["imagePullSecrets"] == [{"name": "mine"}, {"name": "30"}]
    assert "imagePullSecrets" not in render({}, "dev").one("ServiceAccount", "mimo-sandbox")


def test_every_part_whose_series_may_be_read_is_watched() -> None:
    values = {"router": {"enabled": True}, "database": {"mode": "embedded"}, "monitoring": {"serviceMonitors": True}}
    made = render(values, "dev")
    watched = [each["metadata"]["name"] for each in made.of("ServiceMonitor") + made.of("PodMonitor")]
    assert sorted(watched) == ["mimo-api", "mimo-model-server", "mimo-orchestrator", "mimo-router"]


def test_every_pod_is_watched_once() -> None:
    made = render({"database": {"mode": "embedded"}, "monitoring": {"serviceMonitors": True}}, "dev")
    for each in made.of("ServiceMonitor"):
        wanted = each["spec"]["selector"]["matchLabels"].items()
        found = [service for service in made.of("Service") if wanted <= service["metadata"]["labels"].items()]
        assert len(found) == 1, (each["metadata"]["name"], [service["metadata"]["name"] for service in found])


def test_nobody_is_alarmed_that_model_servers_of_others_do_not_report() -> None:
    server = {"engine": "external", "url": "http://model.example.internal/v1", "cidrs": ["10.0.0.8/32"]}
    ours, others = (
        [
            each["metadata"]["name"]
            for each in render({**given, "monitoring": {"rules": True}}, "dev").of("PrometheusRule")
        ]
        for given in ({}, {"modelServer": server})
    )
    assert ours == ["mimo-models", "mimo-service"]
    assert others == ["mimo-service"]


def test_the_gateway_has_its_key_from_the_environment_by_the_program_that_says_so() -> None:
    [router] = containers(
        render({"router": {"enabled": True}}, "dev").one("Deployment", "mimo-router")["spec"]["template"]
    )
    assert router["command"] == ["python", "-P", "-c", (CHART / "files" / "router.py").read_text()]
    assert "MIMO_MODEL_API_KEY" not in str(router["args"])


@pytest.mark.parametrize(("name", "secret"), [("dev", "mimo-keys"), ("hardened", "mimo-api-key")])
def test_what_is_said_at_the_end_names_the_secret_that_has_the_key(name: str, secret: str) -> None:
    values = [f"--values={CHART}/values-{each}.yaml" for each in PROFILES[name]]
    said = helm("install", "mimo", str(CHART), "--dry-run=client", *values, f"--set-json={json.dumps(site(name))}")
    assert f"get secret {secret} --output jsonpath='{{.data.api-key}}'" in said


def selectors(each: Object) -> list[Object]:
    spec = each["spec"]
    match each["kind"]:
        case "Service":
            return [spec["selector"]]
        case "PodDisruptionBudget":
            return [spec["selector"]["matchLabels"]]
    return [spec["podSelector"].get("matchLabels", {})]


def sglang_container(rendered: Rendered) -> Object:
    [template] = [template for each, template in rendered.pods() if each["kind"] == "StatefulSet"]
    container: Object
    [container] = template["spec"]["containers"]
    return container


def template_claims(rendered: Rendered, template: Object) -> list[Object]:
    claims: list[Object] = []
    for each in rendered.of("StatefulSet"):
        if each["spec"]["template"] is template:
            claims += each["spec"].get("volumeClaimTemplates") or []
    return claims
