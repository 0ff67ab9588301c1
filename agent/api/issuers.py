"""Whose tokens the service believes, and what they give: settings of an operator, in one TOML file.

::

    [[issuers]]
    name = "github"
    url = "https://token.actions.githubusercontent.com"
    audience = "mimo-coder"
    kind = "workload"

    [[issuers.grants]]
    project = "web"
    role = "member"
    claims = { repository = "acme/web", ref = "refs/heads/main" }
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from agent.api.access import ProjectId
from agent.errors import SettingsError
from agent.identity import ROLES, Kind, Principal, Scope

FILE_VARIABLE = "MIMO_IDENTITY_SETTINGS"
"""Names the TOML file."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures made with a private key. HMAC is left out: with it the public key would be the secret."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Grant(_Settings):
    """What tokens with certain claims may do, and where."""

    project: ProjectId
    role: Literal["viewer", "member", "admin", "operator"] | None = Field(
        None, description="A usual set of scopes; say this or scopes."
    )
    scopes: frozenset[Scope] = Field(frozenset(), description="The scopes one by one.")
    claims: dict[str, str | tuple[str, ...]] = Field(
        description="Every claim named here must have one of its values exactly; of a claim that is a list, one member "
        "must. Empty: whoever the issuer vouches for."
    )

    @model_validator(mode="after")
    def _says_what_is_granted(self) -> Self:
        if (self.role is None) == (not self.scopes):
            raise ValueError("say either role or scopes")
        return self

    @property
    def granted(self) -> frozenset[Scope]:
        return self.scopes if self.role is None else ROLES[self.role]

    def covers(self, claims: Mapping[str, Any]) -> bool:
        return all(_matches(claims.get(name), wanted) for name, wanted in self.claims.items())


class Login(_Settings):
    """How people sign in: from a terminal (RFC 8628, device authorization grant), and on the page."""

    client_id: str = Field(min_length=1, description="A public client of the issuer that may use the device grant.")
    page: bool = Field(
        False,
        description="People may also sign in on the page (authorization code with PKCE, RFC 7636): the client must "
        "know the redirect address https://SERVICE/sign-in/done.",
    )
    scopes: tuple[str, ...] = Field(
        ("openid", "profile", "email", "offline_access"),
        description="What is asked for; offline_access makes a login outlive its first token.",
    )


class Issuer(_Settings):
    """Somebody who signs tokens."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] = Field(
        description="Stands before the subject of its tokens, such as in company:248289761001."
    )
    url: str = Field(description="The claim iss of its tokens, letter by letter.")
    audience: str = Field(min_length=1, description="The claim aud must hold it: a token made for others is refused.")
    kind: Literal["oidc", "workload"] = Field(description="oidc vouches for people, workload for machines.")
    algorithms: frozenset[Algorithm] = Field(frozenset({"RS256", "ES256"}), min_length=1)
    leeway_s: int = Field(30, ge=0, le=300, description="How far its clock may be from ours, s.")
    jwks_url: str | None = Field(
        None, description="Where its public keys are. Empty: as its /.well-known/openid-configuration says."
    )
    ca_file: Path | None = Field(None, description="Who vouches for its TLS certificate. Empty: the usual ones.")
    token_file: Path | None = Field(
        None, description="Holds a bearer token to show when keys are fetched, as API servers of Kubernetes may ask."
    )
    login: Login | None = Field(None, description="Empty: nobody signs in through it with `mimo login`.")
    grants: tuple[Grant, ...] = Field(min_length=1, description="The first that covers a token says its project.")

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        for url in filter(None, (self.url, self.jwks_url)):
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
                raise ValueError(f"{url} must begin with https://, or its keys could be anybody's")
        if self.kind == "workload" and not all(grant.claims for grant in self.grants):
            raise ValueError("a grant of a workload issuer must name claims: such issuers vouch for everybody's jobs")
        return self

    def principals(self, claims: Mapping[str, Any]) -> Iterator[Principal]:
        """What a genuine token may be, in each of the projects that grants give it."""
        kind: Kind = self.kind
        for grant in self.grants:
            if grant.covers(claims):
                yield Principal(grant.project, f"{self.name}:{claims['sub']}", kind, grant.granted)


class IdentitySettings(_Settings):
    """Whose tokens are believed; none where there are no issuers."""

    issuers: tuple[Issuer, ...] = ()

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        for what in ("name", "url"):
            found = [getattr(issuer, what) for issuer in self.issuers]
            if len(set(found)) < len(found):
                raise ValueError(f"two issuers have the same {what}")
        if sum(issuer.login is not None for issuer in self.issuers) > 1:
            raise ValueError("only one issuer may have a login: `mimo login` could not know which one is meant")
        return self

    @property
    def login(self) -> Issuer | None:
        """The issuer through which people sign in."""
        return next((issuer for issuer in self.issuers if issuer.login is not None), None)


def identity_settings(environment: Mapping[str, str]) -> IdentitySettings:
    """The settings in the file that ``MIMO_IDENTITY_SETTINGS`` names; no issuers where it is unset or empty.

    Raises:
        SettingsError: the file is not there, or says what cannot be.
    """
    file = environment.get(FILE_VARIABLE)
    if not file:
        return IdentitySettings()
    try:
        return IdentitySettings.model_validate(tomllib.loads(Path(file).read_text("utf-8")))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
        raise SettingsError(f"the issuers in {file} cannot be: {problems}") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"the issuers ({FILE_VARIABLE}) cannot be read: {error}") from error


def _matches(found: Any, wanted: str | tuple[str, ...]) -> bool:
    values = {wanted} if isinstance(wanted, str) else set(wanted)
    members = found if isinstance(found, list) else [found]
    return any(isinstance(member, str) and member in values for member in members)
