"""Values that cannot be are refused before anything changes, with the name of the value and what to do."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.chart.__main__ import CHART
from deploy.cluster import programs
from tests.helm.release import HelmError, helm
from tests.helm.rendered import SITE, profile, render

pytestmark = pytest.mark.skipif(
    bool(programs.missing()) or not programs.are_built(),
    reason="Helm is not built: deploy/setup.sh --for-tests",
)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("modelServer.engine=vllm", "at '/modelServer/engine': value must be one of 'sglang', 'embedded', 'external'"),
        ("modelServer.engin=embedded", "at '/modelServer': additional properties 'engin' not allowed"),
        ("api.terminationGracePeriodSeconds=10", "at '/api/terminationGracePeriodSeconds': minimum: got 10, want 11"),
        ("router.terminationGracePeriodSeconds=10", "at '/router/terminationGracePeriodSeconds': minimum: got 10"),
        ("api.replicas=-1", "at '/api/replicas': minimum: got -1, want 0"),
        ("api.resources.limits.memory=1TiB", "at '/api/resources/limits/memory': '1TiB' does not match pattern"),
        ("sandbox.settings.network=open", "at '/sandbox/settings/network': value must be one of 'sealed', 'fence'"),
        ("sandbox.egress.allow_hosts={10.0.0.1}", "at '/sandbox/egress/allow_hosts/0': '10.0.0.1' does not match"),
        ("sandbox.pool.max_redy=1", "at '/sandbox/pool': additional properties 'max_redy' not allowed"),
        ("sandbox.settings.namespace=mine", "at '/sandbox/settings': additional properties 'namespace' not allowed"),
        ("sandbox.image.digest=sha256:12", "at '/sandbox/image/digest': 'sha256:12' does not match pattern"),
        ("sandbox.ray.address=ray-head", "at '/sandbox/ray/address': 'ray-head' does not match pattern"),
        ("sandbox.toolbox.ray.mode=pods", "at '/sandbox/toolbox': additional properties 'ray' not allowed"),
        ("modelServer.client.image=true", "at '/modelServer/client': additional properties 'image' not allowed"),
        ("mcp.networks={tools.example.org}", "at '/mcp/networks/0': 'tools.example.org' does not match pattern"),
        ("router.policy=random", "at '/router/policy': value must be one of"),
        ("sandbox.rbac.exec=true", "at '/sandbox': additional properties 'rbac' not allowed"),
        ("sandbox.flowSchema.shares=0", "at '/sandbox/flowSchema/shares': minimum: got 0, want 1"),
        ("networkPolicy.workerHosts={10.0.0.1}", "at '/networkPolicy/workerHosts/0': '10.0.0.1' does not match"),
        ("api.podSecurityContext.runAsUser=0", "at '/api/podSecurityContext/runAsUser': minimum: got 0, want 1"),
        ("api.podSecurityContext.seccompProfile.type=Unconfined", "must be one of 'RuntimeDefault', 'Localhost'"),
        ("api.podSecurityContext.privileged=true", "at '/api/podSecurityContext': additional properties 'privileged'"),
        ("router.tolerations[0].ky=gpu", "at '/router/tolerations/0': additional properties 'ky' not allowed"),
        ("api.sidecars[0].name=proxy", "at '/api/sidecars/0': missing property 'image'"),
        ("api.extraEnv[0].name=A,api.extraEnv[0].value=1", "at '/api/extraEnv/0/value': got number, want string"),
        ("database.topologySpreadConstraints[0].maxSkew=1", "missing properties 'topologyKey', 'whenUnsatisfiable'"),
        ("commonAnnotations.a b=c", "at '/commonAnnotations': additional properties 'a b' not allowed"),
        ("api.probes.liveness.path=/livez", "at '/api/probes/liveness': additional properties 'path' not allowed"),
        ("database.probes.liveness.periodSeconds=1", "at '/database/probes': additional properties 'liveness'"),
        ("router.probes.startup.periodSeconds=0", "at '/router/probes/startup/periodSeconds': minimum: got 0, want 1"),
        ("modelServer.weights.image=weights:1", "at '/modelServer/weights/image': 'weights:1' does not match pattern"),
        ("modelServer.sglang.gpuClaim.count=4", "at '/modelServer/sglang/gpuClaim': additional properties 'count'"),
        ("fullnameOverride=5a", "at '/fullnameOverride': '5a' does not match pattern"),
        ("api.key.existing=a.-b", "at '/api/key/existing': 'a.-b' does not match pattern"),
        ("data.size=0Gi", "at '/data/size': '0Gi' does not match pattern"),
        ("api.resources.limits.gpu=1", "at '/api/resources/limits': additional properties 'gpu' not allowed"),
        ("sandbox.settings.node_selector.pool=a b", "at '/sandbox/settings/node_selector/pool': 'a b' does not match"),
        ("global.clusterDomain=Local", "at '/global/clusterDomain': 'Local' does not match pattern"),
        ("global.pullPolicy=never", "at '/global/pullPolicy': value must be one of 'IfNotPresent', 'Always', 'Never'"),
        ("networkPolicy.apiServer.cidrs={10.0.0.1}", "at '/networkPolicy/apiServer/cidrs/0'"),
        ("modelServer.sglang.settings.gpu=8", "at '/modelServer/sglang/settings': additional properties 'gpu'"),
        ("modelServer.sglang.settings.memory_share=2", "at '/modelServer/sglang/settings/memory_share'"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_is_allowed(given: str, words: str) -> None:
    assert words in refusal(f"--set={given}", profiles=("dev",))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("api.replicas=2", "set database.mode to embedded or external"),
        ("orchestrator.replicas=2", "set database.mode to embedded or external"),
        ("api.autoscaling.enabled=true", "set database.mode to embedded or external"),
        ("database.mode=embedded,orchestrator.replicas=2", "data.accessMode is ReadWriteOnce"),
        ("database.mode=external,database.cidrs={10.0.0.9/32}", "name in database.urlSecret a Secret"),
        ("database.mode=external,database.urlSecret=mine,database.cidrs=null", "list its addresses in database.cidrs"),
        ("database.migrations=hook", "set database.migrations to init, or database.mode to external"),
        ("database.mode=embedded,database.migrations=hook", "and database.mode is embedded"),
        ("networkPolicy.flavor=cilium,networkPolicy.assumeInstalled=true", "list git hosts in repositories.hosts"),
        (
            "networkPolicy.flavor=cilium,repositories.hosts={git.example.org}",
            "install Cilium, set networkPolicy.assume",
        ),
        ("networkPolicy.apiServer.cidrs=null", "networkPolicy.apiServer.cidrs is empty"),
        ("router.enabled=true,router.policy=manual", "set router.replicas to 1, or router.policy to"),
        ("router.enabled=true,router.terminationGracePeriodSeconds=60", "router.terminationGracePeriodSeconds is less"),
        ("modelServer.replicas=2", "enable router, or leave it at 1"),
        ("modelServer.engine=external", "set modelServer.url to its address"),
        ("modelServer.engine=external,modelServer.url=http://model/v1", "list its addresses in modelServer.cidrs"),
        ("modelServer.weights.claim=", "modelServer.weights.source is claim: set modelServer.weights.claim"),
        ("modelServer.weights.source=download", "set modelServer.weights.revision"),
        ("modelServer.weights.source=job", "modelServer.weights.source is job: set modelServer.weights.revision"),
        ("modelServer.leaderWorkerSet.enabled=true", "install LeaderWorkerSet"),
        ("modelServer.autoscaling.enabled=true", "does not know KEDA"),
        (
            "modelServer.autoscaling.enabled=true,router.enabled=true",
            "router.discovery is static, so new servers would get nothing: set it to kubernetes",
        ),
        ("modelServer.preStopSeconds=1000", "must be more than modelServer.preStopSeconds"),
        ("sandbox.egress.allow_hosts={packages.example.org}", "set sandbox.settings.network to fence or policy"),
        (
            "database.mode=embedded,api.autoscaling.enabled=true,api.autoscaling.minReplicas=7",
            "api.autoscaling.maxReplicas is less than minReplicas",
        ),
        (
            "router.podSecurityContext.seccompProfile.type=Localhost",
            "router.podSecurityContext.seccompProfile: a profile of the node's has both type Localhost",
        ),
        (
            "api.podSecurityContext.appArmorProfile.localhostProfile=mimo",
            "api.podSecurityContext.appArmorProfile: a profile of the node's has both type Localhost",
        ),
        ("api.ingress.enabled=true,api.httpRoute.enabled=true", "enable one of them"),
        ("evals.configMap=a,evals.existingClaim=b", "suites come from one of them"),
        ("api.ingress.enabled=true", "name its hosts in api.ingress.hosts"),
        (f"fullnameOverride={'a' * 40}", "is longer than 39 characters"),
        (f"modelServer.leaderWorkerSet.enabled=true,fullnameOverride={'a' * 37}", "is longer than 36 characters"),
        ("database.mode=embedded,api.autoscaling.enabled=true", "set api.resources.requests.cpu"),
        ("sandbox.ray.mode=pods", "set database.mode to embedded or external, or sandbox.ray.mode to none"),
        ("sandbox.ray.mode=pods,database.mode=embedded", "set data.accessMode to ReadWriteMany"),
        ("sandbox.ray.mode=kuberay", "install the KubeRay operator (ray.io/v1), set sandbox.ray.assumeInstalled"),
        ("sandbox.ray.mode=external", "set sandbox.ray.address to ray://HOST:10001"),
        ("sandbox.ray.mode=external", "name in sandbox.ray.token.existing a Secret"),
        ("sandbox.ray.mode=external", "list its addresses in sandbox.ray.cidrs"),
        ("orchestrator.nodeSelector.pool=agents", "database.mode is sqlite, so workers are in the pods of the API"),
        ("commonLabels.app\\.kubernetes\\.io/name=x", "commonLabels.app.kubernetes.io/name: by this label the chart"),
        ("router.podLabels.mimo-coder/executor=yes", "router.podLabels.mimo-coder/executor: by this label the chart"),
        ("api.env.MIMO_STORE=mine", "api.env: there is a name MIMO_STORE already"),
        ("api.extraVolumes[0].name=tmp", "api.extraVolumes: there is a name tmp already"),
        ("api.sidecars[0].name=api,api.sidecars[0].image=x:1", "api: there is a container api already"),
        (
            "api.extraVolumeMounts[0].name=more,api.extraVolumeMounts[0].mountPath=/tmp",
            "api.extraVolumeMounts: there is a mountPath /tmp already",
        ),
        ("sandbox.namespace.name=coder", "sandboxes need one for themselves"),
        ("global.requireDigests=true", "but the image mimo-coder/"),
        ("sandbox.bounds.registry=registry.example.internal/", "set sandbox.taskImage.digest"),
        ("telemetry.endpoint=http://collector:4318", "say in telemetry.collectors where it is"),
        ("global.imageRegistry=", "global.imageRegistry: nothing says where"),
        ("modelServer.sglang.version=v9", "modelServer.sglang.version: v9 is not known to this chart; use 0.5.23"),
        ("modelServer.sglang.settings.flags.enable-mtp=true", "prediction layers are used with draft_steps above 0"),
        ("modelServer.sglang.settings.flags.atention-backend=fa3", "SGLang 0.5.23 has no such flag"),
        ("modelServer.sglang.settings.flags.tp-size=4", "use modelServer.sglang.settings.gpus"),
        ("modelServer.sglang.settings.flags.grammar-backend=outlines", "it must be xgrammar"),
        ("modelServer.sglang.settings.flags.attention-backend=flashinfer", "leave it out, or use fa3"),
    ],
)
def test_values_that_cannot_be_together_are_refused_with_what_to_do(given: str, words: str) -> None:
    fine = {**SITE, "modelServer": {"weights": {"claim": "weights"}}}
    assert words in refusal(f"--set={given}", values=fine)


def test_images_that_nodes_fetch_ahead_need_digests_too_where_all_do() -> None:
    images = f"sandbox.prepull.images={{a@sha256:{'0' * 64},b:1}}"
    with pytest.raises(HelmError) as refused:
        profile("airgapped", f"--set=sandbox.prepull.enabled=true,{images}")
    assert "global.requireDigests is set, but b:1 in sandbox.prepull.images has none" in str(refused.value)


def test_values_that_an_older_release_did_not_have_are_named_with_how_to_upgrade(tmp_path: Path) -> None:
    """As ``helm upgrade --reuse-values`` leaves them: the chart's own are those of the release before."""
    older = tmp_path / "chart"
    shutil.copytree(CHART, older)
    values = yaml.safe_load((older / "values.yaml").read_text())
    del values["api"]["streamsPerCaller"], values["api"]["httpRoute"], values["modelServer"]["sglang"]["gpuClaim"]
    (older / "values.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(HelmError) as refused:
        helm("template", "mimo", str(older), f"--values={CHART}/values-dev.yaml")
    said = str(refused.value)
    named = [line.removeprefix("- ") for line in said.splitlines() if line.startswith("- ")]
    assert named == [
        *("modelServer.sglang.gpuClaim", "api.streamsPerCaller"),
        *("api.httpRoute", "api.httpRoute.enabled"),
    ]
    assert "use --reset-then-reuse-values" in said


def test_claims_of_devices_are_refused_where_the_cluster_has_none() -> None:
    said = refusal(
        *("--kube-version=1.33.0", "--set=modelServer.sglang.gpuClaim.deviceClass=gpu.nvidia.com"),
        values={**SITE, "modelServer": {"weights": {"claim": "weights"}}},
    )
    assert "claims of devices are in Kubernetes 1.34 and later, and this is v1.33.0" in said


def test_volumes_out_of_images_are_refused_where_the_cluster_has_none() -> None:
    weights = {"source": "image", "image": f"weights@sha256:{'0' * 64}"}
    said = refusal("--kube-version=1.30.0", values={**SITE, "modelServer": {"weights": weights}})
    assert "volumes out of images are in Kubernetes 1.31 and later, and this is v1.30.0" in said


def test_a_release_that_services_cannot_be_named_after_is_refused() -> None:
    with pytest.raises(HelmError) as refused:
        helm("template", "5", str(CHART), f"--values={CHART}/values-dev.yaml")
    assert 'the release\'s name "5" does not begin with a letter' in str(refused.value)


def test_names_that_yaml_would_take_for_something_else_stay_names() -> None:
    named = {
        "global": {"imagePullSecrets": ["30", "30"], "storageClass": "1e3"},
        "api": {"key": {"existing": "7"}, "serviceAccount": {"name": "0"}},
        "repositories": {"existingClaim": "no", "caConfigMap": "true"},
        "nameOverride": "9",
    }
    made = render(named, "dev", arguments=("--namespace=8",))
    api = made.one("Deployment", "mimo-api")
    spec = api["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "30"}]
    assert made.one("PersistentVolumeClaim", "mimo-data")["spec"]["storageClassName"] == "1e3"
    assert api["metadata"]["labels"]["app.kubernetes.io/name"] == "9"
    assert api["metadata"]["namespace"] == "8"
    text = str(spec)
    assert "'claimName': 'no'" in text
    assert "'configMap': {'name': 'true'}" in text
    assert "'secretKeyRef': {'name': '7', 'key': 'api-key'}" in text


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = refusal("--set=api.replicas=2,networkPolicy.apiServer.cidrs=null", values=SITE)
    assert said.count("\n- ") == 3


def refusal(*arguments: str, values: Mapping[str, Any] | None = None, profiles: tuple[str, ...] = ()) -> str:
    """What Helm says."""
    with pytest.raises(HelmError) as refused:
        render(values, *profiles, arguments=arguments)
    return str(refused.value)
