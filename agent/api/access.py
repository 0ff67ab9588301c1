"""What the API hears and says about projects, their keys and secrets, and about who is calling."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from agent.identity import ApiKey, Kind, Scope, SecretNote

_MAX_SECRET_CHARS = 65_536

ProjectId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""Chosen by whoever makes the project; fit for a path and for the name of a namespace."""

Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]

Money = Annotated[float | None, Field(gt=0, le=10**12, allow_inf_nan=False)]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Me(_Shape):
    """Who the service takes the caller for."""

    subject: str
    kind: Kind
    project: str = Field(description="Where this request acts.")
    scopes: tuple[Scope, ...] = Field(description="What it may do there.")


class LoginOffer(_Shape):
    """How people sign in from a terminal: by the device authorization grant (RFC 8628) of this issuer."""

    issuer: str
    client_id: str
    scopes: tuple[str, ...]


class Quotas(_Shape):
    """A project's part of the workers; what is left out stays as it is."""

    weight: float = Field(1.0, gt=0, le=1000, description="Share of worker time where others wait too.")
    max_running: int | None = Field(None, ge=1, le=1_000_000, description="Most runs at once; null is no limit.")
    max_running_per_user: int | None = Field(None, ge=1, le=1_000_000)
    daily_tokens: int | None = Field(
        None,
        ge=1,
        le=10**15,
        description="Once the runs that worked today (UTC) have used so many tokens, cached ones not counted, none "
        "goes on before midnight; null is no limit.",
    )
    daily_tokens_per_user: int | None = Field(None, ge=1, le=10**15, description="The same of one user's runs.")
    daily_cost: Money = Field(None, description="The same in money, by the prices of GET /v1/models.")
    daily_cost_per_user: Money = None
    monthly_cost: Money = Field(None, description="The same of the runs that worked this month (UTC).")
    monthly_cost_per_user: Money = None
    retention_days: int | None = Field(None, ge=1, le=100_000, description="Days a task is kept after its end.")


class NewProject(Quotas):
    id: ProjectId = Field(description="Chosen by you, for good.")


class ProjectView(Quotas):
    id: str


class ProjectList(_Shape):
    projects: tuple[ProjectView, ...]


class NewKey(_Shape):
    name: Name = Field(description="For you, such as who will have it.")
    scopes: frozenset[Scope] = Field(min_length=1, description="At most what you may do yourself.")
    expires_at: AwareDatetime | None = Field(None, description="Null: never.")


class CreatedKey(_Shape):
    """The only answer that holds the key itself."""

    key: ApiKey
    secret: str = Field(description="Shown this once; send it as 'Authorization: Bearer SECRET'.")


class KeyList(_Shape):
    api_keys: tuple[ApiKey, ...]


class NewSecret(_Shape):
    value: Annotated[str, StringConstraints(min_length=1, max_length=_MAX_SECRET_CHARS)]


class SecretList(_Shape):
    secrets: tuple[SecretNote, ...]
