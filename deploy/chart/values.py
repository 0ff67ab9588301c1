"""The values of the chart: one description; ``values.yaml``, its schema and the table in the docs are written from it.

Where a value is a setting of one of our programs, it has the program's name and meaning and is not described again:
``modelServer.sglang.settings`` is ``model_server.sglang.arguments.LaunchSettings``, and what is in ``sandbox`` are the
settings of ``sandbox.config``. What they leave out is as the program has it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, WithJsonSchema
from pydantic.alias_generators import to_camel

from agent.config import ModelSettings
from model_server.sglang.arguments import LaunchSettings
from sandbox.config import EgressSettings, KubernetesSettings
from sandbox.pool.config import PoolSettings
from sandbox.toolbox.config import ToolboxSettings

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")]
"""As Kubernetes writes amounts, such as ``500m`` or ``64Gi``."""
Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]
# Lengths have a field of their own: a number of times in a pattern is written out by whoever compiles it, and Helm does
# so at every call.
_WORD = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_WORDS = rf"{_WORD}(\.{_WORD})*"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
Name = Annotated[str, StringConstraints(max_length=253, pattern=rf"^({_WORDS})?$")]
"""Of an object of the cluster, or a domain; empty: none."""
NeededName = Annotated[str, StringConstraints(max_length=253, pattern=rf"^{_WORDS}$")]
Word = Annotated[str, StringConstraints(max_length=63, pattern=rf"^({_WORD})?$")]
"""A name without points; empty: none."""
ReleaseName = Annotated[str, StringConstraints(pattern=r"^([a-z]([a-z0-9-]*[a-z0-9])?)?$")]
"""As services are named after it."""
Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")]
"""Of a volume."""
Cidr = Annotated[
    str,
    StringConstraints(
        pattern=rf"^(({_BYTE}\.){{3}}{_BYTE}/(3[0-2]|[12]?[0-9])|[0-9a-fA-F]*:[0-9a-fA-F:.]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))$"
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Registry = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?(/[a-z0-9._-]+)*/?)?$")
]
"""Host, port and what else stands before the name of an image."""
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$")]
Tag = Annotated[str, StringConstraints(max_length=128, pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$")]
Reference = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._/@:-]*[A-Za-z0-9])?$")]
"""Of an image, whole."""
PinnedReference = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._/:-]*[A-Za-z0-9]@sha256:[0-9a-f]{64})?$")
]
"""Of an image, whole, by its digest."""
_STEP = r"\.?[A-Za-z0-9_-][A-Za-z0-9._-]*"
Folder = Annotated[str, StringConstraints(pattern=rf"^(/{_STEP})*$")]
"""An absolute path; empty: none."""
RelativePath = Annotated[str, StringConstraints(pattern=rf"^/?{_STEP}(/{_STEP})*$")]
Label = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$")]
_DEVICE = rf"{_WORDS}/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
Device = Annotated[str, StringConstraints(pattern=rf"^({_DEVICE})?$")]
"""As device plugins name what they give, such as ``nvidia.com/gpu``."""
Resource = Annotated[
    str, StringConstraints(pattern=rf"^(cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMG]i|{_DEVICE})$")
]
Host = Annotated[str, StringConstraints(pattern=rf"^(\*\.)?{_WORDS}$")]
AllowedHost = Annotated[
    str,
    StringConstraints(
        max_length=253, pattern=r"^(\*\.[a-z0-9-]+\.)?([a-z0-9-]+\.)*[a-z]([a-z0-9-]*[a-z0-9])?(:[1-9][0-9]{0,4})?$"
    ),
]
"""As ``sandbox.hosts`` has it."""
Url = Annotated[str, StringConstraints(pattern=r"^(https?://[^\s\"]+)?$")]
RayAddress = Annotated[str, StringConstraints(pattern=r"^(ray://[A-Za-z0-9.-]+:[0-9]{1,5})?$")]
ArtifactsUrl = Annotated[str, StringConstraints(pattern=r"^(file:///|s3://)[^\s\"$]+$")]
Object = dict[str, Any]
"""Anything that Kubernetes takes at that place; the chart does not look into it."""
Key = Annotated[str, StringConstraints(pattern=rf"^({_WORDS}/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
"""Of a label or an annotation."""
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
PartName = Annotated[str, StringConstraints(max_length=63, pattern=rf"^{_WORD}$")]
"""Of a container or volume within its pod."""
UserId = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _map(keys: Any, values: Any) -> WithJsonSchema:
    """Of a map whose keys have a form, too."""
    form, content = TypeAdapter(keys).json_schema()["pattern"], TypeAdapter(values).json_schema()
    # `propertyNames` would say the same, but Helm then names some other value.
    return WithJsonSchema({"type": "object", "patternProperties": {form: content}, "additionalProperties": False})


Labels = Annotated[dict[str, str], _map(Key, Label)]
Annotations = Annotated[dict[str, str], _map(Key, str)]
Variables = Annotated[dict[str, str], _map(VariableName, str)]
Amounts = Annotated[dict[str, str], _map(Resource, Quantity)]


def _settings(model: type[BaseModel], *said_elsewhere: str, **checked: Any) -> WithJsonSchema:
    """Of a program's settings, those that nothing else in the chart decides; none has to be said.

    Args:
        checked: of what the program or the cluster checks, a type that a schema can say; of a list that of its items.
    """
    whole = model.model_json_schema()
    properties = {name: schema for name, schema in whole["properties"].items() if name not in said_elsewhere}
    written = _written_out(properties, whole.get("$defs", {}))
    for name, kind in checked.items():
        form = TypeAdapter(kind).json_schema()
        written[name] |= {"items": form} if written[name]["type"] == "array" else form
    return WithJsonSchema({"type": "object", "properties": written, "additionalProperties": False})


def _written_out(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema without references, since it goes into another one."""
    match schema:
        case {"$ref": str(reference)}:
            return _written_out(definitions[reference.rpartition("/")[2]], definitions)
        case dict():
            return {name: _written_out(inner, definitions) for name, inner in schema.items()}
        case list():
            return [_written_out(inner, definitions) for inner in schema]
    return schema


LaunchObject = Annotated[
    Object, _settings(LaunchSettings, "model_path", "served_name", "version", "host", "port", "api_key")
]
ClientObject = Annotated[
    Object,
    _settings(
        ModelSettings,
        *("url", "name", "api_key", "connect_timeout_s", "first_token_s", "idle_s", "retries", "backoff_s"),
    ),
]
SandboxObject = Annotated[
    Object,
    _settings(
        KubernetesSettings,
        *("namespace", "kubeconfig", "context", "agent_image", "host_image", "pull_policy", "service_account"),
        node_selector=Labels,
        tolerations=Key,
    ),
]
EgressObject = Annotated[
    Object, _settings(EgressSettings, "egressd", "log", allow_hosts=AllowedHost, allow_addresses=Cidr)
]
ToolboxObject = Annotated[Object, _settings(ToolboxSettings)]
PoolObject = Annotated[Object, _settings(PoolSettings)]


class Values(BaseModel):
    """A part of the values. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Image(Values):
    registry: Registry = Field("", description="Where it is fetched from. Empty: `global.imageRegistry`.")
    repository: ImageName = Field(description="Its name there.")
    tag: Tag = Field("", description="Empty: the version of the chart's programs.")
    digest: Digest = Field("", description="`sha256:...`; then the tag is only for readers.")


class Resources(Values):
    requests: Amounts = Field({}, description="What is reserved.")
    limits: Amounts = Field({}, description="What is not passed.")


class ServiceAccount(Values):
    create: bool = Field(True, description="Make the account; no account of the chart mounts a token by itself.")
    name: Name = Field("", description="Empty: named after the component.")
    annotations: Annotations = Field({}, description="Such as what binds it to an identity of the cloud.")


class KubernetesObject(BaseModel):
    """Something of Kubernetes, of which only what every one has is looked at."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel)


class Volume(KubernetesObject):
    name: PartName


class VolumeMount(KubernetesObject):
    name: PartName
    mount_path: Annotated[str, StringConstraints(pattern=r"^/[^:\x00-\x1f]*$")]


class ForeignContainer(KubernetesObject):
    name: PartName
    image: Annotated[Reference, StringConstraints(min_length=1)]


class Toleration(Values):
    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int = 0


class Spread(KubernetesObject):
    max_skew: Annotated[int, Field(ge=1)]
    topology_key: Key
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]


class Variable(Values):
    name: VariableName
    value: str = ""
    value_from: Object = {}


class Confinement(Values):
    """A profile of seccomp or AppArmor; to be without is not offered."""

    type: Literal["RuntimeDefault", "Localhost"] = "RuntimeDefault"
    localhost_profile: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")] = ""


class SeLinux(Values):
    """What "restricted" lets one choose."""

    type: Literal["container_t", "container_init_t", "container_kvm_t"] = "container_t"
    level: Annotated[str, StringConstraints(pattern=r"^s[0-9]+(-s[0-9]+)?(:[c0-9.,]+)?$")] = ""


class PodSecurityContext(Values):
    """What Pod Security "restricted" leaves open; null takes a number away, for clusters that give out their own."""

    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(
        10001, description="Not of images of others. null: the cluster says it, as OpenShift does."
    )
    run_as_group: UserId = 10001
    fs_group: UserId = Field(10001, description="Of the files in its volumes.")
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] = "OnRootMismatch"
    supplemental_groups: list[UserId] = []
    seccomp_profile: Annotated[Object, _settings(Confinement)] = Field(
        {"type": "RuntimeDefault"}, description="Which calls of the kernel are filtered out."
    )
    app_armor_profile: Annotated[Object, _settings(Confinement)] = Field({}, description="Empty: the node's own.")
    se_linux_options: Annotated[Object, _settings(SeLinux)] = Field({}, description="Empty: the node's own.")


class Container(Values):
    """What a container of the chart is given beside what it needs."""

    resources: Resources = Field(Resources(), description="Of its container.")
    env: Variables = Field({}, description="Further variables; nothing secret, and none that the chart sets.")
    extra_env: list[Variable] = Field([], description="Further ones as Kubernetes has them, such as from a Secret.")
    env_from: list[Object] = Field([], description="Secrets and ConfigMaps whose keys are variables, as `envFrom`.")
    extra_volume_mounts: list[VolumeMount] = Field([], description="Where its container sees volumes of yours.")


class Times(BaseModel):
    """Of a probe; what it asks is the chart's."""

    model_config = ConfigDict(alias_generator=to_camel)

    period_seconds: Annotated[int, Field(ge=1)] = 10
    timeout_seconds: Annotated[int, Field(ge=1)] = 1
    failure_threshold: Annotated[int, Field(ge=1)] = 3


ProbeObject = Annotated[Object, _settings(Times)]


class StartupProbe(Values):
    startup: ProbeObject = Field({}, description="Has it begun? Other times than the chart's own.")


class ReadinessProbe(Values):
    readiness: ProbeObject = Field({}, description="Are requests sent to it? The same.")


class LivenessProbe(Values):
    liveness: ProbeObject = Field({}, description="Has it to be started anew? The same.")


class Probes(LivenessProbe, ReadinessProbe, StartupProbe):
    """Of programs of ours."""


class EngineProbes(LivenessProbe, StartupProbe):
    """Of SGLang: the server in front of it knows whether it is ready."""


class DatabaseProbes(ReadinessProbe, StartupProbe):
    """Of Postgres."""


class Lifecycle(Values):
    post_start: Object = Field({}, description="What is done beside its start.")
    pre_stop: Object = Field({}, description="What is done before it is asked to end, instead of the chart's own.")


class Server(Container):
    """One that stays."""

    lifecycle: Lifecycle = Lifecycle()


class Pods(Server):
    """What every kind of pod of the chart has."""

    extra_volumes: list[Volume] = Field([], description="Further volumes of its pods.")
    init_containers: list[ForeignContainer] = Field(
        [], description="Containers of yours before the chart's own; those with `restartPolicy: Always` stay."
    )
    sidecars: list[ForeignContainer] = Field([], description="Containers of yours beside the chart's own.")
    node_selector: Labels = Field({}, description="Labels of the nodes it may run on.")
    tolerations: list[Toleration] = Field([], description="Taints it does not mind.")
    affinity: Object = Field({}, description="Instead of the chart's own.")
    topology_spread_constraints: list[Spread] = Field(
        [], description="How its pods are spread; without a `labelSelector`, those of this component."
    )
    priority_class_name: Name = Field("", description="Its importance to the scheduler.")
    pod_labels: Labels = Field({}, description="Further labels.")
    pod_annotations: Annotations = Field({}, description="Further annotations.")
    pod_security_context: PodSecurityContext = PodSecurityContext()


class Program(Pods):
    """One of ours, of which there may be several."""

    replicas: int = Field(1, ge=0, description="Pods.")
    extra_args: list[str] = Field([], description="Further arguments of its program.")
    probes: Probes = Probes()


class Component(Program):
    """One with an account of its own, of which a few may be away at once."""

    service_account: ServiceAccount = ServiceAccount()
    pdb: bool = Field(True, description="Let drains of nodes end one of its pods at a time, where it has several.")
    termination_grace_period_seconds: int = Field(
        60,
        ge=11,
        description="From the wish to end to the forced end, s: more than the 10 that API and router wait first.",
    )


class Global(Values):
    image_registry: Registry = Field(
        "", description="In front of every image. There are no public images yet: push ours."
    )
    image_pull_secrets: list[NeededName] = Field(
        [], description="Secrets for that registry, in the release's namespace and in that of sandboxes."
    )
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field("IfNotPresent", description="Of every image.")
    require_digests: bool = Field(False, description="Refuse images that are not named by their digest.")
    storage_class: Name = Field("", description="Of every claim. Empty: the cluster's default.")
    cluster_domain: Name = Field(
        "", description="Behind `svc` in names of services, such as cluster.local. Empty: pods know it by themselves."
    )


class Secret(Values):
    existing: Name = Field("", description="One of yours, such as from a secret store. Empty: made once, and kept.")


class Weights(Container):
    resources: Resources = Field(
        Resources(requests={"cpu": "1", "memory": "4Gi"}, limits={"memory": "16Gi"}),
        description="For `download` and `job`, as all that is said of a container: of the one that fetches.",
    )
    source: Literal["claim", "hostPath", "image", "download", "job"] = Field(
        "claim",
        description="`claim`: a volume of yours that many may read. `hostPath`: a folder of each node. `image`: a "
        "volume out of an image (Kubernetes 1.31 or later, with its feature on). `download`: each pod fetches them to "
        "a claim of its own before its engine starts. `job`: one Job fetches them to a claim that all pods read, and "
        "which they wait for.",
    )
    claim: Name = Field("", description="For `claim`: its name. For `job`: one of yours; empty: made, for many pods.")
    host_path: Folder = Field("", description="For `hostPath`: the folder.")
    image: PinnedReference = Field("", description="For `image`: its full reference, by digest.")
    path: RelativePath = Field("MiMo-V2-Flash", min_length=1, description="Folder of the checkpoint within the volume.")
    repository: RelativePath = Field(
        "XiaomiMiMo/MiMo-V2-Flash", description="For `download` and `job`: name on the hub."
    )
    revision: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40})?$")] = Field(
        "", description="For `download` and `job`: the commit, in full; nothing else is fetched."
    )
    size: Size = Field("400Gi", description="For `download` and `job`: of the claim.")
    token_secret: Name = Field(
        "", description="For `download` and `job`: a Secret with `HF_TOKEN`, where the hub wants one."
    )


class CompileCache(Values):
    source: Literal["claim", "hostPath", "none"] = Field(
        "claim", description="Where compiled kernels outlive the pod; without, each start compiles for minutes."
    )
    host_path: Folder = Field("/var/cache/mimo-coder", description="For `hostPath`.")
    size: Size = Field("20Gi", description="For `claim`: one for each pod.")


class Rdma(Values):
    resource: Device = Field("", description="What the device plugin calls it, such as `rdma/hca`; adds IPC_LOCK.")
    count: int = Field(1, ge=1, description="So many for each pod.")
    host_network: bool = Field(False, description="Use the node's network; needs Pod Security `privileged`.")


class GpuClaim(Values):
    device_class: Name = Field(
        "",
        description="GPUs are asked for by claims of this class, such as `gpu.nvidia.com` (Kubernetes 1.34 or later). "
        "Empty: as `gpuResource`.",
    )
    selectors: list[str] = Field([], description="Conditions in CEL that each of them fulfils, such as on its memory.")


class Sglang(Server):
    image: Image = Field(Image(registry="docker.io", repository="lmsysorg/sglang", tag="v0.5.23"))
    version: Tag = Field("0.5.23", description="Which preset of flags holds; of the image.")
    settings: LaunchObject = Field({}, description="LaunchSettings, by their own names.")
    gpu_resource: Annotated[Device, StringConstraints(min_length=1)] = Field(
        "nvidia.com/gpu", description="What the device plugin calls GPUs."
    )
    gpu_claim: GpuClaim = GpuClaim()
    shm_size: Quantity = Field("64Gi", description="Of /dev/shm; counts against the memory limit.")
    resources: Resources = Field(
        Resources(
            requests={"cpu": "64", "memory": "640Gi", "ephemeral-storage": "50Gi"},
            limits={"memory": "900Gi", "ephemeral-storage": "200Gi"},
        ),
        description="Beside the GPUs.",
    )
    startup_seconds: int = Field(3600, ge=60, description="How long it may take to load and compile, s.")
    probes: EngineProbes = EngineProbes()
    rdma: Rdma = Rdma()


class LeaderWorkerSet(Values):
    enabled: bool = Field(False, description="One engine over several nodes.")
    size: int = Field(2, ge=2, le=16, description="Nodes of one engine.")
    assume_installed: bool = Field(False, description="Render it although the cluster does not say that it knows it.")


class ModelAutoscaling(Values):
    enabled: bool = Field(False, description="By KEDA, on queue and cache. A pod takes ten minutes and a node of GPUs.")
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(2, ge=1)
    queue_per_replica: int = Field(8, ge=1, description="Waiting requests that one more pod is wanted for.")
    prometheus: Url = Field("", description="Address of Prometheus.")
    assume_installed: bool = Field(False, description="Render it although the cluster does not say that it knows KEDA.")


class ModelServer(Component):
    image: Image = Image(repository="mimo-coder/model-server")
    engine: Literal["sglang", "embedded", "external"] = Field(
        "sglang", description="`embedded` runs small checkpoints on processors; `external` makes no pod at all."
    )
    url: Annotated[str, StringConstraints(pattern=r"^(https?://[^\s\"]+/v1)?$")] = Field(
        "", description="For `external`: up to and including /v1."
    )
    cidrs: list[Cidr] = Field([], description="For `external`: its addresses, for network policies.")
    model: RelativePath = Field("mimo-v2-flash", description="For `external`: the name it goes by there.")
    checkpoint: RelativePath = Field(
        "mimo-v2-nano", description="For `embedded`: one that ships, or a folder; the last part is its name."
    )
    key: Secret = Field(Secret(), description="Key `model-api-key` of that Secret.")
    client: ClientObject = Field(
        {},
        description="What API and workers are told of it, such as `images` and `prices`: ModelSettings, by their "
        "own names.",
    )
    sglang: Sglang = Sglang()
    weights: Weights = Weights()
    compile_cache: CompileCache = CompileCache()
    leader_worker_set: LeaderWorkerSet = LeaderWorkerSet()
    autoscaling: ModelAutoscaling = ModelAutoscaling()
    pre_stop_seconds: int = Field(20, ge=0, description="Until routers no longer send here, s.")
    termination_grace_period_seconds: int = Field(
        930, ge=1, description="`preStopSeconds`, the longest answer, and 10 s."
    )


class Router(Component):
    enabled: bool = Field(False, description="The gateway `smg` in front of several model servers.")
    image: Image = Image(repository="mimo-coder/router")
    replicas: int = Field(2, ge=0, description="Pods.")
    policy: Literal["consistent_hashing", "manual", "cache_aware", "round_robin"] = Field(
        "consistent_hashing",
        description="`consistent_hashing` needs no state: the key of a task says which server. `manual` and "
        "`cache_aware` keep state, so they are for one pod.",
    )
    discovery: Literal["static", "kubernetes"] = Field(
        "static", description="`static`: the pods' own names. `kubernetes`: watch them, which needs a role."
    )
    termination_grace_period_seconds: int = Field(960, ge=11, description="Not less than the model servers'.")


class Exposure(Values):
    enabled: bool = False
    hosts: list[Host] = Field([], description="Names it answers to.")


class Ingress(Exposure):
    class_name: Name = Field("", description="Which controller. Empty: the cluster's default.")
    annotations: Annotations = Field(
        {
            "nginx.ingress.kubernetes.io/proxy-buffering": "off",
            "nginx.ingress.kubernetes.io/proxy-read-timeout": "3600",
        },
        description="Event streams must not be buffered, nor cut while they are silent.",
    )
    tls_secret: Name = Field("", description="Certificate.")


class HttpRoute(Exposure):
    parents: list[Object] = Field([], description="Gateways, as `parentRefs`.")


class ApiAutoscaling(Values):
    enabled: bool = Field(False, description="By processor time; with Postgres only.")
    min_replicas: int = Field(2, ge=1)
    max_replicas: int = Field(6, ge=1)
    cpu_percent: int = Field(70, ge=1, le=100)


class Api(Component):
    image: Image = Image(repository="mimo-coder/agent")
    key: Secret = Field(Secret(), description="Key `api-key` of that Secret.")
    secrets_key: Secret = Field(
        Secret(), description="Key `secrets-key` of that Secret: seals the secrets of projects."
    )
    identity: Object = Field({}, description="Whose tokens are believed: IdentitySettings, by their own names.")
    requests_per_minute: int = Field(
        0, ge=0, description="Most requests of one caller in a minute, a pod. 0: any number."
    )
    streams_per_caller: int = Field(
        1024, ge=1, description="Most event streams, editors and answers to chat programs of one caller at once, a pod."
    )
    streams_per_project: int = Field(4096, ge=1, description="The same of one project.")
    ingress: Ingress = Ingress()
    http_route: HttpRoute = HttpRoute()
    autoscaling: ApiAutoscaling = ApiAutoscaling()


class Orchestrator(Component):
    image: Image = Image(repository="mimo-coder/agent")
    concurrency: int = Field(4, ge=1, le=256, description="Runs at once in one pod.")
    lease_ttl_seconds: float = Field(
        15.0, gt=0, le=3600, description="A run goes to another worker after so long a silence, s."
    )
    tidy_every_seconds: int = Field(
        600,
        ge=1,
        description="How often what is kept no longer is deleted, s: old tasks, files of runs that ended.",
    )
    keep_deliveries_days: int = Field(
        30,
        ge=1,
        le=3650,
        description="Messages of webhooks are deleted after so many days, once they are sent or given up.",
    )
    probe_every_seconds: int = Field(
        3600,
        ge=0,
        description="How often it is proved that the model sees what it thought, s; without proof no run is taken, and "
        "no worker is ready. 0: never.",
    )


class Claim(Values):
    existing_claim: Name = Field("", description="One of yours. Empty: made.")
    size: Size = "10Gi"
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = Field(
        "ReadWriteOnce", description="`ReadWriteMany` where workers are several."
    )


class Repositories(Values):
    existing_claim: Name = Field(
        "", description="Volume with the repositories of users, seen read-only at /repositories."
    )
    hosts: list[Host] = Field([], description="Git hosts and forges that are called. Empty: any.")
    networks: list[Cidr] = Field([], description="Where git hosts may be that have no public address.")
    ca_config_map: Name = Field(
        "",
        description="One with `ca.crt`: the authorities whose certificates of git hosts are believed, instead of "
        "the image's.",
    )


class Webhooks(Values):
    networks: list[Cidr] = Field([], description="Where receivers of webhooks may be that have no public address.")


class Mcp(Values):
    networks: list[Cidr] = Field([], description="Where projects' servers of tools may be that have no public address.")


class Evals(Values):
    config_map: Name = Field("", description="One with suites for evaluations, a key `NAME.json` each.")
    existing_claim: Name = Field(
        "",
        description="Instead: a volume with suites, and with the repositories of their tasks, seen read-only at "
        "/suites.",
    )


class Database(Pods):
    mode: Literal["sqlite", "embedded", "external"] = Field(
        "sqlite",
        description="`sqlite`: a file in the data volume, API and worker in one pod. `embedded`: a small Postgres of "
        "the chart's own. `external`: yours.",
    )
    image: Image = Field(Image(repository="mimo-coder/postgres"), description="For `embedded`.")
    size: Size = Field("20Gi", description="For `embedded`.")
    probes: DatabaseProbes = DatabaseProbes()
    resources: Resources = Field(
        Resources(requests={"cpu": "250m", "memory": "512Mi"}, limits={"memory": "2Gi"}),
        description="For `embedded`, as all that is said of its pod.",
    )
    url_secret: Name = Field("", description="For `external`: a Secret whose key `url` is postgresql://...")
    cidrs: list[Cidr] = Field([], description="For `external`: addresses of the server, for network policies.")
    ports: list[Port] = Field([5432], min_length=1, description="For `external`: its ports, for network policies.")
    migrations: Literal["init", "hook"] = Field(
        "init",
        description="Who brings the tables up to date. `init`: each pod before it starts, one after the other. `hook`: "
        "one Job before anything of an installation or upgrade, for `external` alone.",
    )


class SandboxNamespace(Values):
    name: Word = Field("", description="Empty: the release's name and `-sandboxes`.")
    create: bool = Field(True, description="Make it. It goes with the release, and all sandboxes with it.")


class Bounds(Values):
    pods: int = Field(250, ge=1, description="Sandboxes at once.")
    memory_mib: int = Field(512 * 1024, ge=1, description="Memory of all together, MiB.")
    cpus: int = Field(64, ge=1, description="Processors reserved by all together.")
    pod_memory_mib: int = Field(32 * 1024, ge=1, description="Memory of one, MiB.")
    registry: Registry = Field(
        "", description="What every task image begins with, then also by digest. Empty: any image."
    )


class Prepull(Values):
    enabled: bool = Field(False, description="Have every node fetch the images of sandboxes before one needs them.")
    images: list[Reference] = Field([], description="Those of your tasks, beside sandboxd and the default one.")


class PriorityClass(Values):
    enabled: bool = Field(
        False,
        description="Give sandboxes a priority of their own, by which they preempt nothing: an object of the whole "
        "cluster. One of yours: `settings.priority_class`.",
    )
    value: int = Field(-100, ge=-1_000_000_000, le=1_000_000_000, description="Below 0: others come first.")


class FlowSchema(Values):
    enabled: bool = Field(
        False,
        description="Give what workers ask of the API server about sandboxes a share of its own, with queues: however "
        "many sandboxes start at once, others are answered. Two objects of the whole cluster.",
    )
    shares: int = Field(20, ge=1, le=1000, description="Of the server's attention; all its levels have 245 by default.")


class Ray(Program):
    mode: Literal["none", "pods", "kuberay", "external"] = Field(
        "none",
        description="Where executors of the toolbox are. `none`: in each worker. `pods`: in a Ray cluster of the "
        "chart's own pods. `kuberay`: in one that the KubeRay operator makes. `external`: in yours, of this image.",
    )
    image: Image = Field(Image(repository="mimo-coder/agent-ray"), description="Also that of workers, unless `none`.")
    replicas: int = Field(1, ge=0, le=1000, description="Machines of the cluster, beside its head.")
    executors: int = Field(4, ge=1, le=1000, description="Of all machines together.")
    object_store_mib: int = Field(256, ge=80, description="Of each machine, for large arguments and results, MiB.")
    address: RayAddress = Field("", description="For `external`: ray://HOST:10001.")
    cidrs: list[Cidr] = Field([], description="For `external`: its addresses, for network policies.")
    token: Secret = Field(Secret(), description="Key `ray-token` of that Secret.")
    assume_installed: bool = Field(
        False, description="Render it although the cluster does not say that it knows KubeRay."
    )


class Sandbox(Values):
    image: Image = Field(Image(repository="mimo-coder/sandboxd"), description="What brings sandboxd into a pod.")
    task_image: Image = Field(Image(repository="mimo-coder/task"), description="Where a task names none.")
    namespace: SandboxNamespace = SandboxNamespace()
    settings: SandboxObject = Field({}, description="KubernetesSettings, by their own names.")
    egress: EgressObject = Field(
        {}, description="EgressSettings, by their own names: hosts in `allow_hosts` may be reached, and no others."
    )
    toolbox: ToolboxObject = Field({}, description="ToolboxSettings, by their own names, of each worker.")
    pool: PoolObject = Field(
        {}, description="PoolSettings, by their own names, such as `max_ready`. Empty: none are kept ready."
    )
    ray: Ray = Ray()
    bounds: Bounds = Bounds()
    prepull: Prepull = Prepull()
    priority_class: PriorityClass = PriorityClass()
    flow_schema: FlowSchema = FlowSchema()
    admission_policy: bool = Field(
        True, description="An object of the whole cluster; off where you may not make those."
    )


class ApiServer(Values):
    cidrs: list[Cidr] = Field([], description="Addresses of the API server, as nodes see them.")
    ports: list[Port] = [443, 6443]


class NetworkPolicy(Values):
    enabled: bool = Field(True, description="Deny all but what the chart's parts need of each other.")
    flavor: Literal["kubernetes", "cilium"] = Field(
        "kubernetes",
        description="`cilium`: workers reach the outside by names: `repositories.hosts`, `workerHosts` and the hosts "
        "that sandboxes may reach, instead of `workerEgress`.",
    )
    worker_hosts: list[AllowedHost] = Field(
        [], description="With `cilium`: further hosts that workers reach, such as the store of artifacts."
    )
    assume_installed: bool = Field(False, description="Render it although the cluster does not say it knows Cilium.")
    api_server: ApiServer = ApiServer()
    api_egress: list[Object] = Field(
        [{"ports": [{"protocol": "TCP", "port": 443}]}],
        description="What API pods reach beside the store, as rules of a policy: receivers of webhooks, issuers' keys.",
    )
    worker_egress: list[Object] = Field(
        [{"ports": [{"protocol": "TCP", "port": 443}]}],
        description="What workers reach beside model, sandboxes and store: git hosts, forges, the store of artifacts. "
        "The hosts that sandboxes may reach are let through by themselves.",
    )
    weights_egress: list[Object] = Field(
        [{"ports": [{"protocol": "TCP", "port": 443}]}],
        description="What those reach that fetch weights: the hub, or a mirror of it.",
    )
    clients: list[Object] = Field(
        [{"namespaceSelector": {}}], description="Who may reach the API, as peers of a policy; every pod by itself."
    )
    prometheus: list[Object] = Field(
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        description="Who may read series.",
    )


class Artifacts(Values):
    url: ArtifactsUrl = Field(
        "file:///data/artifacts",
        description="Where API and workers keep what runs leave beside their events: file:///FOLDER of the data "
        "volume, or s3://BUCKET/PREFIX, reached as AWS_... say in the env and envFrom of both.",
    )


class Telemetry(Values):
    endpoint: Url = Field(
        "", description="An OpenTelemetry collector (OTLP over HTTP) that API and workers send spans to. Empty: none."
    )
    collectors: list[Object] = Field([], description="It, as peers of a network policy.")


class Monitoring(Values):
    service_monitors: bool = Field(False, description="For the Prometheus operator.")
    rules: bool = Field(False, description="Alerts, for the Prometheus operator.")
    dashboards: bool = Field(False, description="ConfigMaps that Grafana's sidecar reads.")
    labels: Labels = Field({}, description="By which the operator finds them.")


class ChartValues(Values):
    """All of them."""

    global_: Global = Field(Global(), alias="global")
    name_override: Word = Field("", description="Instead of the chart's name, in names and labels.")
    fullname_override: ReleaseName = Field("", description="Instead of release and chart, in names.")
    common_labels: Labels = Field({}, description="On every object and pod.")
    common_annotations: Annotations = Field({}, description="On every object and pod.")
    model_server: ModelServer = ModelServer()
    router: Router = Router()
    api: Api = Api()
    orchestrator: Orchestrator = Orchestrator()
    database: Database = Database()
    data: Claim = Field(Claim(), description="Git directories of tasks, and the store where it is SQLite.")
    repositories: Repositories = Repositories()
    artifacts: Artifacts = Artifacts()
    webhooks: Webhooks = Webhooks()
    mcp: Mcp = Mcp()
    evals: Evals = Evals()
    sandbox: Sandbox = Sandbox()
    network_policy: NetworkPolicy = NetworkPolicy()
    monitoring: Monitoring = Monitoring()
    telemetry: Telemetry = Telemetry()
    extra_objects: list[Object] = Field([], description="Objects of yours that go with the release.")
