"""A task's patch as a branch and a pull request on the repository's host. Asked twice, it is the same one."""

import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from agent.errors import GitError, RepositoryError
from agent.git import git
from agent.integrations.forge import Forge, NewPullRequest, PullRequest
from agent.integrations.github import GitHub
from agent.integrations.gitlab import GitLab
from agent.integrations.remote import Remote
from agent.integrations.remotes import Remotes
from agent.store.repos import Repo


class PullRequests:
    """Opens them for the repositories of projects."""

    def __init__(self, remotes: Remotes) -> None:
        self._remotes = remotes

    async def open(
        self, project_id: str, repo: Repo, commit: str, patches: tuple[str, ...], wanted: NewPullRequest, at: datetime
    ) -> tuple[PullRequest, bool]:
        """The pull request, and whether it is new. One that the branch has already stays as it is, as do its commits.

        Args:
            commit: what the first patch is against; the second is against the first one's outcome.
            at: date of the commit, so that the same request makes the same commit.

        Raises:
            RepositoryError: the host refuses; the message says why.
        """
        forge = await self._forge(project_id, repo)
        found = await forge.find(wanted.branch)
        if found is not None:
            return found, False
        remote = await self._remotes.remote(project_id, repo)
        await _push(remote, commit, patches, wanted, at)
        if not wanted.base:
            wanted = replace(wanted, base=repo.default_branch or await remote.default_branch())
        return await forge.open(wanted), True

    async def extend(
        self, project_id: str, repo: Repo, commit: str, patches: tuple[str, ...], wanted: NewPullRequest, at: datetime
    ) -> PullRequest:
        """Add a commit to the pull request that the branch has.

        Args:
            commit: what the first patch is against, and the branch's newest.
            at: date of the commit, so that the same request makes the same commit.

        Raises:
            RepositoryError: it has none, it has moved on, or the host refuses.
        """
        found = await (await self._forge(project_id, repo)).find(wanted.branch)
        if found is None:
            raise RepositoryError(f"the branch {wanted.branch} has no pull request")
        await _push(await self._remotes.remote(project_id, repo), commit, patches, wanted, at)
        return found

    async def on_github(self, project_id: str, repo: Repo) -> GitHub:
        """
        Raises:
            RepositoryError: the repository is elsewhere, or has no credential for its host's API.
        """
        forge = await self._forge(project_id, repo)
        if not isinstance(forge, GitHub):
            raise RepositoryError(f"the repository {repo.name} is said to be on GitLab; GitHub told of it")
        return forge

    async def _forge(self, project_id: str, repo: Repo) -> Forge:
        remote = await self._remotes.remote(project_id, repo)
        host, path = remote.url.host, remote.url.path.strip("/").removesuffix(".git")
        kind = repo.forge or {"github.com": "github", "gitlab.com": "gitlab"}.get(host)
        name = repo.forge_credential or (repo.credential if remote.url.scheme != "ssh" else None)
        if kind is None or name is None:
            raise RepositoryError(
                f"the repository {repo.name} says no {'forge' if kind is None else 'forge_credential'}, which pull "
                f"requests need; set it: PUT /v1/repos/{repo.name}"
            )
        token = await self._remotes.secret(project_id, name)
        if kind == "gitlab":
            return GitLab(repo.forge_url or f"{_base(remote)}/api/v4", path, token, self._remotes.reach)
        usual = "https://api.github.com" if host == "github.com" else f"{_base(remote)}/api/v3"
        return GitHub(repo.forge_url or usual, path, token, self._remotes.reach)


def _base(remote: Remote) -> str:
    """Where the host's pages are."""
    url = remote.url
    return f"https://{url.host}" if url.scheme == "ssh" else f"{url.scheme}://{url.host}:{url.port}"


async def _push(remote: Remote, commit: str, patches: tuple[str, ...], wanted: NewPullRequest, at: datetime) -> None:
    with tempfile.TemporaryDirectory(prefix="mimo-push-") as folder:
        made = await _commit(remote, Path(folder) / "git", commit, patches, wanted, at)
        await remote.push(made, Path(folder) / "git", wanted.branch)


async def _commit(
    remote: Remote, git_dir: Path, base: str, patches: tuple[str, ...], wanted: NewPullRequest, at: datetime
) -> str:
    """One commit on ``base`` with all patches, in a new git directory."""
    who = {"NAME": "mimo", "EMAIL": "mimo@localhost", "DATE": at.isoformat()}
    identity = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in who.items()}
    environment = {"GIT_DIR": str(git_dir), "GIT_INDEX_FILE": str(git_dir / "index"), **identity}
    try:
        await git("init", "--quiet", "--bare", "--template=", str(git_dir), cwd=git_dir.parent)
        await remote.fetch(base, git_dir)
        await git("read-tree", base, cwd=git_dir, environment=environment)
        for patch in filter(None, patches):
            apply = ("apply", "--cached", "--whitespace=nowarn", "-")
            await git(*apply, cwd=git_dir, environment=environment, stdin=patch.encode())
        tree = (await git("write-tree", cwd=git_dir, environment=environment)).decode().strip()
        message = f"{wanted.title}\n\n{wanted.body}".strip() + "\n"
        made = ("commit-tree", "-p", base, tree)
        return (await git(*made, cwd=git_dir, environment=environment, stdin=message.encode())).decode().strip()
    except GitError as error:
        raise RepositoryError(f"the patch cannot be committed: {error}") from error
