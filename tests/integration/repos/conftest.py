"""Git hosts with one broken calculator each, by HTTPS with a token and by ssh with a key; a service that has them."""

import os
import secrets
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography.fernet import Fernet

from agent.api.app import create_app
from agent.integrations.remote import Reach
from agent.integrations.remotes import RemoteCache, Remotes
from agent.orchestrator.runner import Runner
from agent.orchestrator.worker import Worker
from agent.repository import check_repository
from agent.store.open import open_store
from agent.store.repos import Repos
from agent.store.secrets import SecretBox
from agent.testing import GitHost, ScriptedEndpoint, ScriptedModel, call, turns
from sandbox.backends import open_backend
from sandbox.config import SandboxSettings
from sandbox.toolbox.config import ToolboxSettings
from sandbox.toolbox.open import over
from tests.integration.cli.conftest import Mimo, start
from tests.integration.cli.conftest import mimo as mimo

SPY = (
    "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; cat .git/config; git log --all; echo spied"
)
REPAIR = (
    call("bash", command=SPY),
    call("str_replace", path="calc.py", old_str="a - b", new_str="a + b"),
    call("finish", summary="add adds"),
)
CHECK = {"command": "python -c 'import calc; assert calc.add(1, 2) == 3'"}

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def git(root: Path, *arguments: str) -> str:
    """As a person at a keyboard would."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, env=environment).stdout


@dataclass(frozen=True)
class Hosted:
    """A repository on a host, and a person's checkout of it."""

    host: GitHost
    url: str
    checkout: Path
    bare: Path
    reach: Reach

    def commit(self, name: str, text: str) -> str:
        """Add a file, as a commit on the host; its id."""
        (self.checkout / name).write_text(text)
        git(self.checkout, "add", "-A")
        git(self.checkout, "commit", "-q", "-m", f"write {name}")
        git(self.checkout, "push", "-q", str(self.bare), "HEAD:refs/heads/main")
        return git(self.checkout, "rev-parse", "HEAD").strip()


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    authority = trustme.CA()
    certificate, trusted = tmp_path / "host.pem", tmp_path / "authority.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(trusted))
    host = GitHost(tmp_path / "host", token=secrets.token_hex(16))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git(checkout, "init", "-q", "-b", "main")
    with host.running(certificate):
        url = host.create("team/calculator.git")
        found = Hosted(
            host, url, checkout, host.folder / "team/calculator.git", Reach(networks=LOOPBACK, ca_file=trusted)
        )
        found.commit("calc.py", "def add(a, b):\n    return a - b\n")
        yield found


@dataclass(frozen=True)
class Sshd:
    """OpenSSH's server for whoever has ``key``."""

    port: int
    user: str
    key: str
    host_key: str


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    program = Path("/usr/sbin/sshd")
    if not program.exists():
        pytest.skip("needs /usr/sbin/sshd (Debian: openssh-server)")
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o700)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(make, check=True)
    (folder / "user.pub").rename(folder / "authorized")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
    }
    given = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    process = subprocess.Popen(
        [str(program), "-D", "-e", "-f", os.devnull, "-p", str(port), *given],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert any("listening on" in line for line in process.stderr)
        user = os.environ.get("USER") or subprocess.check_output(["id", "-un"], text=True).strip()
        yield Sshd(port, user, (folder / "user").read_text(), (folder / "host.pub").read_text().strip())
    finally:
        process.terminate()
        process.communicate()


@dataclass
class Service:
    """A service over one store, its worker told to work by hand."""

    http: httpx.AsyncClient
    work: Callable[[], Awaitable[None]]
    model: ScriptedModel
    data: Path
    told: list[str]
    """Every answer of the API."""

    async def add(self, hosted: Hosted, **settings: Any) -> httpx.Response:
        put = await self.http.put("/v1/projects/default/secrets/GIT_TOKEN", json={"value": hosted.host.token})
        assert put.status_code == 200, put.text
        given = {"name": "calculator", "url": hosted.url, "credential": "GIT_TOKEN"} | settings
        return await self.http.post("/v1/repos", json=given)

    async def submit(self, **fields: Any) -> dict[str, Any]:
        given = {"repository": "calculator", "problem_statement": "add subtracts"} | fields
        answer = await self.http.post("/v1/tasks", json=given)
        assert answer.status_code == 202, answer.text
        task: dict[str, Any] = answer.json()
        return task

    async def done(self, **fields: Any) -> dict[str, Any]:
        task = await self.submit(**fields)
        await self.work()
        ended: dict[str, Any] = (await self.http.get(f"/v1/tasks/{task['id']}")).json()
        return ended


@pytest.fixture
async def service(tmp_path: Path, hosted: Hosted) -> AsyncIterator[Service]:
    box = SecretBox(Fernet.generate_key().decode())
    backend = open_backend("local", SandboxSettings())
    async with open_store(f"sqlite:///{tmp_path}/mimo.db") as store:
        app = create_app(store, check_repository, secret_box=box, reach=hosted.reach)
        remotes = Remotes(Repos(store.database), store.identities, box, hosted.reach)
        model, data = ScriptedModel(turns(*REPAIR)), tmp_path / "data"
        runner = Runner(store, over(backend, ToolboxSettings()), model, data, RemoteCache(remotes, data / "remotes"))
        worker = Worker(store, runner, worker_id="w")
        told: list[str] = []

        async def listen(response: httpx.Response) -> None:
            told.append((await response.aread()).decode())

        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", event_hooks={"response": [listen]}
        ) as http:
            yield Service(http, worker.drain, model, data, told)
    await backend.close()


@pytest.fixture
def serving(mimo: Mimo, hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a service that has the host's token as a secret; ``mimo`` calls it."""
    monkeypatch.setenv("MIMO_SECRETS_KEY", Fernet.generate_key().decode())
    monkeypatch.setenv("MIMO_REPOSITORY_NETWORKS", "127.0.0.0/8,::1/128")
    monkeypatch.setenv("MIMO_REPOSITORY_CA", str(hosted.reach.ca_file))
    with ScriptedEndpoint(turns(*REPAIR)).running() as model_url:
        process = start("serve", "--port", 0, "--model-url", model_url, home=hosted.checkout.parent / "served")
        assert process.stderr is not None
        try:
            url = next(word for line in process.stderr if "ready" in line for word in line.split() if "http" in word)
            secret = f"{url}/v1/projects/default/secrets/GIT_TOKEN"
            httpx.put(secret, json={"value": hosted.host.token}, trust_env=False).raise_for_status()
            monkeypatch.setenv("MIMO_SERVER_URL", url)
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=60)
