"""Repositories on git hosts that a project works on, in the same database as its tasks. Credentials are its secrets,
named here only."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agent.store.database import Database
from agent.store.named import Named
from agent.store.tables import repos
from agent.types import Check, SetUp
from sandbox.hosts import AllowedHost

RepoName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""Never begins with a slash, so it is never a path."""

_Secret = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class RepoSettings(BaseModel):
    """Where a repository is, and what its tasks get that name nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="https://HOST/OWNER/NAME.git or ssh://git@HOST/OWNER/NAME.git, without any password."
    )
    default_branch: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f]{1,200}$")] | None = Field(
        None, description="Where tasks start that name no commit; null is what the host says."
    )
    credential: _Secret | None = Field(
        None, description="Name of the project's secret that holds a token, or for ssh a private key."
    )
    username: Annotated[str, StringConstraints(pattern=r"^[\x21-\x39\x3b-\x7e]{1,100}$")] = Field(
        "x-access-token", description="What goes with a token; GitHub and GitLab take any."
    )
    host_key: Annotated[str, StringConstraints(pattern=r"^([a-z0-9@.-]+ [A-Za-z0-9+/=]+( [\x20-\x7e]*)?)?$")] = Field(
        "", max_length=4000, description="Of an ssh host: type and key, as `ssh-keyscan -t ed25519 HOST` shows them."
    )
    image: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = Field(
        None, description="Image of the sandboxes; null is the service's own."
    )
    setup: SetUp | None = Field(None, description="Run once in a sandbox before the agent comes; its work is kept.")
    checks: tuple[Check, ...] = Field((), max_length=100, description="What proves a patch.")
    allow_hosts: tuple[AllowedHost, ...] | None = Field(
        None,
        max_length=100,
        description="Of the hosts that sandboxes here may reach, those that are needed; null: all.",
    )
    forge: Literal["github", "gitlab"] | None = Field(
        None, description="Whose API the host speaks; null is known for github.com and gitlab.com only."
    )
    forge_url: Annotated[str, StringConstraints(pattern=r"^https?://[\x21-\x7e]+$", max_length=2000)] | None = Field(
        None, description="Where that API is; null is its usual place on the host."
    )
    forge_credential: _Secret | None = Field(
        None, description="Name of the secret that opens pull requests; null is the credential."
    )
    mention: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,38}$")] = Field(
        "mimo", description="What webhooks of GitHub listen to: a label of this name, and this after an @ in a text."
    )


class Repo(RepoSettings):
    """A repository of a project."""

    name: RepoName
    updated_by: str
    updated_at: datetime


class Repos(Named[RepoSettings, Repo]):
    def __init__(self, database: Database) -> None:
        super().__init__(database, repos, RepoSettings, Repo)
