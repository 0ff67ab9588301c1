"""The repositories that projects have on git hosts, and what was fetched of them."""

import hashlib
from pathlib import Path

import anyio

from agent.errors import GitError, RepositoryError
from agent.git import git
from agent.integrations.remote import Credential, Reach, Remote, kept_as
from agent.lock import alone
from agent.store.identity import Identities
from agent.store.repos import Repo, Repos
from agent.store.secrets import KEY_VARIABLE, SecretBox


class Remotes:
    """Opens the credentials of a project's repositories for whoever fetches or pushes."""

    def __init__(
        self,
        repos: Repos,
        identities: Identities,
        box: SecretBox | None = None,
        reach: Reach = Reach(),  # noqa: B008
    ) -> None:
        self.repos = repos
        self._identities = identities
        self._box = box
        self.reach = reach

    async def get(self, project_id: str, name: str) -> Repo:
        """
        Raises:
            RepositoryError: the project has none of this name.
        """
        repo = await self.repos.get(project_id, name)
        if repo is None:
            raise RepositoryError(
                f"the project has no repository {name[:100]!r}. Add it with mimo repo add, or give the absolute path "
                "of one on the service's machine"
            )
        return repo

    async def remote(self, project_id: str, repo: Repo) -> Remote:
        """Where it is, with what is shown there.

        Raises:
            RepositoryError: the address is none, or the credential is missing.
        """
        secret = await self.secret(project_id, repo.credential) if repo.credential else None
        credential = Credential(secret, repo.username) if secret else None
        return Remote(repo.url, self.reach, credential, repo.host_key)

    async def secret(self, project_id: str, name: str) -> str:
        """
        Raises:
            RepositoryError: there is none of this name, or no key to open it.
        """
        sealed = await self._identities.sealed_secret(project_id, name)
        if sealed is None:
            raise RepositoryError(
                f"the project has no secret {name}. Set it: PUT /v1/projects/{project_id}/secrets/{name}"
            )
        if self._box is None:
            raise RepositoryError(f"the secret {name} cannot be opened: this process was given no {KEY_VARIABLE}")
        return self._box.open(project_id, name, sealed)


class RemoteCache:
    """A bare git directory for each repository of a project, shared by its tasks and by all workers of the folder."""

    def __init__(self, remotes: Remotes, folder: Path) -> None:
        self._remotes = remotes
        self._folder = folder

    async def fetch(self, project_id: str, name: str, commit: str) -> Path:
        """The directory, with the files of ``commit`` in it.

        Raises:
            RepositoryError: it cannot be fetched; the message says what to do.
        """
        repo = await self._remotes.get(project_id, name)
        place = self._folder / project_id / f"{hashlib.sha256(repo.url.encode()).hexdigest()[:32]}.git"
        await anyio.Path(place.parent).mkdir(mode=0o700, parents=True, exist_ok=True)
        async with alone(place.with_suffix(".lock")):
            if not await anyio.Path(place / "HEAD").exists():
                await git("init", "--quiet", "--bare", "--template=", str(place), cwd=place.parent)
            if not await _has(place, commit):
                remote = await self._remotes.remote(project_id, repo)
                await remote.fetch(commit, place)
        return place


async def _has(place: Path, commit: str) -> bool:
    """Whether it was fetched before, to its end: git makes the name last."""
    try:
        await git("rev-parse", "--verify", "--quiet", kept_as(commit), cwd=place, environment={"GIT_DIR": str(place)})
    except GitError:
        return False
    return True
