"""The cluster that other tests build on does what a cluster does."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from textwrap import dedent

import httpx
import pytest

from deploy.cluster import cgroups
from deploy.cluster.cluster import Cluster, find
from deploy.cluster.errors import ClusterError
from deploy.images.build import TASK

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(name: str, line: str, image: str = TASK, **spec: object) -> str:
    """A pod that runs a line of bash."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["bash", "-c", line],
        "securityContext": RESTRICTED,
    }
    about = {"name": name, "labels": {"app": name}}
    body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **spec}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": body})


def run(cluster: Cluster, namespace: str, name: str, line: str, image: str = TASK) -> str:
    """The log of a pod that has run a line to its end."""
    cluster.kubectl("create", f"--namespace={namespace}", "--filename=-", stdin=pod(name, line, image))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl("wait", f"--namespace={namespace}", done, "--timeout=60s", f"pod/{name}")
    return cluster.kubectl("logs", f"--namespace={namespace}", name)


@pytest.fixture
def server(cluster: Cluster, namespace: str) -> str:
    """The address of a pod that serves ``hello`` over HTTP on port 8000, with a service ``server``."""
    serve = "cd /tmp && echo hello > index.html && exec python -m http.server"
    cluster.kubectl("create", f"--namespace={namespace}", "--filename=-", stdin=pod("server", serve))
    cluster.kubectl("expose", f"--namespace={namespace}", "pod", "server", "--port=8000")
    ready = ("--for=condition=Ready", "--timeout=60s", "pod/server")
    cluster.kubectl("wait", f"--namespace={namespace}", *ready)
    return cluster.kubectl("get", f"--namespace={namespace}", "pod/server", "--output=jsonpath={.status.podIP}")


def test_its_programs_say_which_kubernetes_they_are(cluster: Cluster) -> None:
    versions = json.loads(cluster.kubectl("version", "--output=json"))
    assert versions["serverVersion"]["gitVersion"] == versions["clientVersion"]["gitVersion"]
    assert versions["serverVersion"]["minor"] == "34"


def test_its_node_is_ready(cluster: Cluster) -> None:
    ready = '--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    assert cluster.kubectl("get", "node/tests", ready) == "True"


def test_a_pod_runs_what_an_agent_needs_and_prints_its_log(cluster: Cluster, namespace: str) -> None:
    tools = "git --version && python -m pytest --version && id -u && touch /workspace/file && ps -e | wc -l"
    said = run(cluster, namespace, "tools", tools).splitlines()
    assert said[0].startswith("git version")
    assert said[1].startswith("pytest")
    assert said[2] == "1000"


def test_a_command_runs_in_a_pod_that_is_there(cluster: Cluster, namespace: str, server: str) -> None:
    said = cluster.kubectl("exec", f"--namespace={namespace}", "server", "--", "cat", "/tmp/index.html")
    assert said == "hello\n"


def test_the_host_reaches_a_pod_at_its_own_address(server: str) -> None:
    eventually(lambda: fetch(server) == "hello\n")


def test_the_host_reaches_a_service(cluster: Cluster, namespace: str, server: str) -> None:
    address = cluster.kubectl(
        "get", f"--namespace={namespace}", "service/server", "--output=jsonpath={.spec.clusterIP}"
    )
    eventually(lambda: fetch(address) == "hello\n")


def test_a_pod_finds_a_service_by_its_name(cluster: Cluster, namespace: str, server: str) -> None:
    ask = "import urllib.request as r; print(r.urlopen('http://server:8000', timeout=10).read())"
    assert run(cluster, namespace, "client", f'until python -c "{ask}" 2> /tmp/errors; do sleep 0.1; done') == (
        "b'hello\\n'\n"
    )


def test_a_pod_reaches_nothing_beyond_the_host(cluster: Cluster, namespace: str) -> None:
    dial = "exec 3<>/dev/tcp/192.0.2.1/80"
    assert "No route to host" in run(cluster, namespace, "outside", f"({dial}) 2>&1; true")


def test_an_image_is_known_by_its_digest_too(cluster: Cluster, namespace: str) -> None:
    by_digest = f"{TASK.rpartition(':')[0]}@{cluster.digest(TASK)}"
    assert run(cluster, namespace, "by-digest", "echo hello", image=by_digest) == "hello\n"


def test_a_fake_node_carries_pods_that_run_nothing(cluster: Cluster, namespace: str) -> None:
    cluster.add_fake_nodes(2)
    toleration = {"key": "kwok.x-k8s.io/node", "operator": "Exists"}
    pods = [
        json.loads(pod(f"fake-{number}", "true", nodeSelector={"type": "kwok"}, tolerations=[toleration]))
        for number in range(10)
    ]
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
    cluster.kubectl("create", f"--namespace={namespace}", "--filename=-", stdin=everything)
    running = "--for=jsonpath={.status.phase}=Running"
    cluster.kubectl("wait", f"--namespace={namespace}", running, "--timeout=60s", "pods", "--all")


def test_a_program_that_dies_is_started_again(cluster: Cluster) -> None:
    before = cluster.process("kube-scheduler")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: process(cluster, "kube-scheduler") not in (None, before))


def test_a_cluster_ends_with_who_started_it_and_touches_no_other(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    start = f"""
        from pathlib import Path
        from deploy.cluster.cluster import start
        cluster = start(Path({str(folder)!r}), name="second", with_us=True)
        input("up\\n")
    """
    with subprocess.Popen([sys.executable, "-c", dedent(start)], stdin=PIPE, stdout=PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        second = found(folder)
        assert second.layout.network != cluster.layout.network
        run(second, "default", "pod", "true")
        owner.kill()
    eventually(lambda: not remains(second))
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"


def test_the_command_starts_a_cluster_and_ends_it_without_a_trace(tmp_path: Path) -> None:
    kubeconfig = Path(command("up", tmp_path).strip())
    started = found(kubeconfig.parent)
    run(started, "default", "pod", "true")
    assert "node/third" in command("status", tmp_path)
    in_shell = f"{command('env', tmp_path)}\nhelm version --short && kubectl get nodes --output=name"
    assert "node/third" in subprocess.run(in_shell, shell=True, check=True, stdout=PIPE, text=True).stdout
    assert remains(started)
    command("down", tmp_path)
    assert remains(started) == []
    assert not kubeconfig.parent.exists()


def command(name: str, state: Path) -> str:
    """What a command of the program says that keeps its clusters below ``state``."""
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    line = [sys.executable, "-m", "deploy.cluster", name, "--name=third"]
    return subprocess.run(line, env=environment, check=True, stdout=PIPE, text=True).stdout


def found(folder: Path) -> Cluster:
    cluster = find(folder)
    assert cluster is not None
    return cluster


def fetch(address: str) -> str:
    """What is served there; "" where nothing is yet."""
    try:
        return httpx.get(f"http://{address}:8000", trust_env=False).text
    except httpx.TransportError:
        return ""


def process(cluster: Cluster, program: str) -> int | None:
    with contextlib.suppress(ClusterError):
        return cluster.process(program)
    return None


def eventually(is_so: Callable[[], bool], patience_s: float = 60.0) -> None:
    give_up = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def remains(cluster: Cluster) -> list[str]:
    """What is left of it on the machine: processes, mounts, network, control groups."""
    folder = str(cluster.layout.folder)
    processes = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if folder in content(path)]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if folder in line]
    network = [cluster.layout.link] if Path("/sys/class/net", cluster.layout.link).exists() else []
    groups = [cluster.layout.cgroup] if cgroups.exists(cluster.layout.cgroup) else []
    return [*processes, *mounts, *network, *groups]


def content(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
