"""Git hosts with one broken calculator each: by HTTPS with a token, and by ssh with a key."""

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme

from agent.integrations.remote import Reach
from agent.testing import GitHost

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
