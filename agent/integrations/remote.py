"""One repository on a git host, as the service fetches from it and pushes to it; sandboxes never do.

The credential is known to the git process alone, in its environment or in a file that is gone with it. A host is
looked up once and must be one that the operator allows; redirects are not followed, which also keeps git from the
alternates of another server.
"""

import asyncio
import base64
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from agent.errors import GitError, RepositoryError
from agent.git import git
from agent.integrations.addresses import ForbiddenAddress, Network, allowed_networks, resolve

HOSTS_VARIABLE = "MIMO_REPOSITORY_HOSTS"
PATHS_VARIABLE = "MIMO_REPOSITORY_PATHS"
NETWORKS_VARIABLE = "MIMO_REPOSITORY_NETWORKS"
CA_VARIABLE = "MIMO_REPOSITORY_CA"

MAX_PACK_BYTES = 2 * 1024**3
"""What one commit may take on the wire and on the disk, packed."""

_TIMEOUT_S = 600.0
_LOOK_TIMEOUT_S = 30.0
_PORTS = {"https": 443, "http": 80, "ssh": 22}
_SCP_LIKE = re.compile(r"(?P<user>[\w.-]+)@(?P<host>[\w.-]+):(?P<path>[^/].*)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)

# Git asks it only after the host asked, and reads two lines. The variables are the git process's own.
_HELPER = '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$MIMO_GIT_USER" "$MIMO_GIT_SECRET"; }; f'
_HOST_ALIAS = "repository"


@dataclass(frozen=True, slots=True)
class Reach:
    """Where tasks may take repositories from; the operator's word."""

    hosts: tuple[str, ...] = ()
    """Patterns such as ``*.example.com``; empty: any host."""
    networks: tuple[Network, ...] = ()
    """Allowed although they are not public."""
    ca_file: Path | None = None
    """Certificates of authorities that are believed instead of the system's."""
    paths: tuple[Path, ...] = ()
    """Folders of this machine that every project may take repositories from; operators may take any."""

    def has(self, path: Path) -> bool:
        """Whether every project may take the repository at ``path``."""
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in self.paths)

    async def address(self, host: str, port: int, *, plain: bool) -> str:
        """Where to connect to for ``host``.

        Args:
            plain: whoever listens on the way can read and change what is said.

        Raises:
            ForbiddenAddress: the operator does not allow the host, or where it leads to.
        """
        if self.hosts and not any(fnmatchcase(host, pattern) for pattern in self.hosts):
            raise ForbiddenAddress(f"{host} is not among the hosts that {HOSTS_VARIABLE} lists")
        return await resolve(host, port, self.networks, plain=plain)


def reach_of(environment: Mapping[str, str]) -> Reach:
    """
    Raises:
        SettingsError: a network is none.
    """
    hosts = tuple(name.strip().lower() for name in environment.get(HOSTS_VARIABLE, "").split(",") if name.strip())
    ca_file = environment.get(CA_VARIABLE)
    paths = tuple(Path(folder) for folder in environment.get(PATHS_VARIABLE, "").split(":") if folder)
    return Reach(hosts, allowed_networks(environment, NETWORKS_VARIABLE), Path(ca_file) if ca_file else None, paths)


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """An address of a repository, without any secret."""

    scheme: str
    user: str
    """Of ssh; empty otherwise."""
    host: str
    port: int
    path: str
    """Begins with a slash."""

    @classmethod
    def parse(cls, text: str) -> "RemoteUrl":
        """
        Raises:
            RepositoryError: it is no such address; the message says what is.
        """
        short = _SCP_LIKE.fullmatch(text)
        try:
            parts = urlsplit(f"ssh://{short['user']}@{short['host']}/{short['path']}" if short else text)
            port = parts.port
        except ValueError as error:
            raise RepositoryError(f"not the address of a repository: {error}") from error
        host, user = parts.hostname or "", parts.username or ""
        printable = re.fullmatch(r"[\x21-\x7e]+", text) and not parts.query and not parts.fragment
        if not printable or parts.scheme not in _PORTS or not _HOST.fullmatch(host) or not parts.path.strip("/"):
            raise RepositoryError("give an address like https://HOST/OWNER/NAME.git or ssh://git@HOST/OWNER/NAME.git")
        if parts.password is not None or (user and parts.scheme != "ssh"):
            raise RepositoryError("the address holds a user or a password; keep it as a secret of the project instead")
        if parts.scheme == "ssh" and not _USER.fullmatch(user):
            raise RepositoryError("give the address with its user, such as ssh://git@HOST/OWNER/NAME.git")
        return cls(parts.scheme, user, host, port or _PORTS[parts.scheme], parts.path)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{user}{host}{port}{self.path}"


def place_of(url: str) -> tuple[str, str] | None:
    """Host and path: the same over https and ssh, whatever the capitals. None for what is no address of a git host."""
    try:
        parsed = RemoteUrl.parse(url)
    except RepositoryError:
        return None
    return parsed.host, parsed.path.strip("/").removesuffix(".git").lower()


@dataclass(frozen=True, slots=True)
class Credential:
    """What the host asks for."""

    secret: str = field(repr=False)
    """A password or token; for ssh a private key as OpenSSH writes it."""
    username: str = ""
    """For https."""


class Remote:
    """Where one repository is, and what is shown there."""

    def __init__(self, url: str, reach: Reach, credential: Credential | None = None, host_key: str = "") -> None:
        """
        Args:
            host_key: of ssh: type and key, as they stand in a ``.pub`` file.

        Raises:
            RepositoryError: the address is none.
        """
        self.url = RemoteUrl.parse(url)
        self._reach = reach
        self._credential = credential
        self._host_key = host_key

    async def resolve(self, name: str) -> str:
        """The commit that a branch, a tag, ``HEAD`` or a full id names. A full id is believed: fetching it shows.

        Raises:
            RepositoryError: the host cannot be asked, or has nothing of this name.
        """
        if _COMMIT.fullmatch(name):
            return name
        found = await self._names()
        for full in (name, f"refs/tags/{name}^{{}}", f"refs/heads/{name}", f"refs/tags/{name}"):
            if full in found:
                return found[full]
        raise RepositoryError(
            f"{self.url} has no branch or tag {name[:200]!r}. Give one that it has, or a full commit id"
        )

    async def default_branch(self) -> str:
        """The branch that ``HEAD`` of the host names.

        Raises:
            RepositoryError: the host cannot be asked, or says none.
        """
        answer = await self._git("ls-remote", "--symref", "--", str(self.url), "HEAD", timeout_s=_LOOK_TIMEOUT_S)
        found = re.match(r"ref: refs/heads/(\S+)\tHEAD\n", answer.decode("utf-8", "replace"))
        if found is None:
            raise RepositoryError(f"{self.url} has no commit yet, or no default branch. Push one first")
        return found[1]

    async def fetch(self, commit: str, git_dir: Path) -> None:
        """Have the files of a commit in a bare git directory, without its history.

        Raises:
            RepositoryError: the host cannot be asked, or has no such commit.
        """
        options = ("--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        await self._git("fetch", *options, "--", str(self.url), f"+{commit}:{kept_as(commit)}", git_dir=git_dir)

    async def push(self, commit: str, git_dir: Path, branch: str) -> None:
        """Make a commit the branch's newest; never over commits that it does not follow.

        Raises:
            RepositoryError: the host refuses it.
        """
        await self._git("push", "--quiet", "--", str(self.url), f"{commit}:refs/heads/{branch}", git_dir=git_dir)

    async def _names(self) -> dict[str, str]:
        listing = await self._git("ls-remote", "--", str(self.url), timeout_s=_LOOK_TIMEOUT_S)
        lines = (line.split("\t", 1) for line in listing.decode("utf-8", "surrogateescape").splitlines())
        return {name: commit for commit, name in lines}

    async def _git(self, *arguments: str, git_dir: Path | None = None, timeout_s: float = _TIMEOUT_S) -> bytes:
        configuration = {"http.followRedirects": "false", "protocol.version": "2", "transfer.bundleURI": "false"}
        try:
            async with asyncio.timeout(timeout_s), self._connection(configuration) as environment:
                directory = {"GIT_DIR": str(git_dir)} if git_dir else {"GIT_DIR": "/nowhere"}
                return await git(
                    *arguments,
                    cwd=git_dir or Path("/"),
                    environment=environment | directory,
                    configuration=configuration,
                    max_file_bytes=MAX_PACK_BYTES,
                )
        except ForbiddenAddress as error:
            raise RepositoryError(f"{self.url} cannot be reached: {error}") from error
        except TimeoutError as error:
            raise RepositoryError(f"{self.url} took longer than {timeout_s:.0f} s") from error
        except GitError as error:
            # Not chained: what the host said may repeat the secret, and tracebacks are logged.
            raise RepositoryError(f"{self.url}: {_without(self._credential, str(error))}") from None

    @asynccontextmanager
    async def _connection(self, configuration: dict[str, str]) -> AsyncIterator[dict[str, str]]:
        """The environment in which git reaches the host, and nothing else."""
        address = await self._reach.address(self.url.host, self.url.port, plain=self.url.scheme == "http")
        environment = {"GIT_ALLOW_PROTOCOL": self.url.scheme}
        if self.url.scheme == "ssh":
            with tempfile.TemporaryDirectory(prefix="mimo-ssh-") as folder:
                yield environment | {"GIT_SSH_VARIANT": "ssh", "GIT_SSH_COMMAND": self._ssh(address, Path(folder))}
            return
        pinned = f"[{address}]" if ":" in address else address
        configuration["http.curloptResolve"] = f"{self.url.host}:{self.url.port}:{pinned}"
        if self._reach.ca_file:
            configuration["http.sslCAInfo"] = str(self._reach.ca_file)
        if self._credential:
            configuration["credential.helper"] = _HELPER
            environment |= {"MIMO_GIT_USER": self._credential.username, "MIMO_GIT_SECRET": self._credential.secret}
        yield environment

    def _ssh(self, address: str, folder: Path) -> str:
        known, key = folder / "known_hosts", folder / "key"
        known.write_text(f"{_HOST_ALIAS} {self._host_key}\n", "ascii")
        options = {
            "HostName": address,
            "HostKeyAlias": _HOST_ALIAS,
            "UserKnownHostsFile": str(known),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "IdentityAgent": "none",
            "IdentitiesOnly": "yes",
            "ConnectTimeout": "20",
            "ServerAliveInterval": "20",
        }
        if self._credential:
            key.touch(mode=0o600)
            key.write_text(self._credential.secret.strip() + "\n", "utf-8")
            options["IdentityFile"] = str(key)
        given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        return shlex.join(["ssh", "-F", "/dev/null", *given])


def kept_as(commit: str) -> str:
    """The name that :meth:`Remote.fetch` gives a commit."""
    return f"refs/mimo/{commit}"


def _without(credential: Credential | None, text: str) -> str:
    """A message of git, which repeats what the host says."""
    if credential is None:
        return text
    basic = base64.b64encode(f"{credential.username}:{credential.secret}".encode()).decode()
    return text.replace(credential.secret, "[secret]").replace(basic, "[secret]")
