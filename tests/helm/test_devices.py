"""GPUs that pods claim: a real scheduler gives out devices of a driver that only tells of them, on a node that only
seems to run what it is given."""

import json
from typing import Any

import pytest

from deploy.cluster.cluster import Cluster
from tests.helm.rendered import SITE, Object, render

pytestmark = pytest.mark.timeout(600)

DRIVER = "gpu.example.org"
NODE = "fake-0"
LARGE = f'device.capacity["{DRIVER}"].memory.compareTo(quantity("100Gi")) >= 0'


@pytest.fixture
def devices(cluster: Cluster) -> str:
    """The name of a class of GPUs: on one node there are eight large ones and four small ones."""
    cluster.add_fake_nodes(1)
    listed = [_device(f"large-{number}", "141Gi") for number in range(8)]
    listed += [_device(f"small-{number}", "80Gi") for number in range(4)]
    pool = {"name": NODE, "generation": 1, "resourceSliceCount": 1}
    cluster.apply(
        _object("DeviceClass", {"selectors": [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]}),
        _object("ResourceSlice", {"driver": DRIVER, "nodeName": NODE, "pool": pool, "devices": listed}),
    )
    return DRIVER


def test_a_pod_is_given_gpus_as_its_claim_describes_them_and_the_next_waits_for_such(
    cluster: Cluster, namespace: str, devices: str
) -> None:
    server = {
        "weights": {"source": "hostPath", "hostPath": "/weights"},
        "compileCache": {"source": "none"},
        "sglang": {"gpuClaim": {"deviceClass": devices, "selectors": [LARGE]}},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        "nodeSelector": {"type": "kwok"},
        "serviceAccount": {"create": False},
    }
    made = render({**SITE, "modelServer": server})
    wanted = [*made.of("ResourceClaimTemplate"), made.one("StatefulSet", "mimo-model-server")]
    cluster.apply(*(each | {"metadata": each["metadata"] | {"namespace": namespace}} for each in wanted))
    wait(cluster, namespace, "pod/mimo-model-server-0", "{.status.phase}=Running")
    [claim] = json.loads(cluster.kubectl(f"--namespace={namespace}", "get", "resourceclaims", "--output=json"))["items"]
    given = {each["device"] for each in claim["status"]["allocation"]["devices"]["results"]}
    assert given == {f"large-{number}" for number in range(8)}
    cluster.kubectl(f"--namespace={namespace}", "scale", "statefulset/mimo-model-server", "--replicas=2")
    reason = '{.status.conditions[?(@.type=="PodScheduled")].reason}=Unschedulable'
    wait(cluster, namespace, "pod/mimo-model-server-1", reason)


def wait(cluster: Cluster, namespace: str, pod: str, state: str) -> None:
    here = (f"--namespace={namespace}", "--timeout=120s", pod)
    cluster.kubectl("wait", "--for=create", *here)
    cluster.kubectl("wait", f"--for=jsonpath={state}", *here)


def _device(name: str, memory: str) -> Object:
    return {"name": name, "capacity": {"memory": {"value": memory}}}


def _object(kind: str, spec: Any) -> Object:
    return {"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": DRIVER}, "spec": spec}
