"""Who is asking, in which project, and whether it may: the one way from a credential to a principal.

The gate authenticates every request before any route sees it; a route says with :func:`needs` which scope it takes,
and reaches tasks only through the project of its caller.
"""

import hmac
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request

from agent.api.problems import Problem
from agent.api.tokens import IssuerUnreachable, TokenRefused, Tokens, TokenUnmapped
from agent.identity import DEFAULT_PROJECT, LOCAL, SCOPES, Principal, Scope
from agent.store.identity import Identities

PROJECT_HEADER = "Mimo-Project"
"""Names the project of a request, for callers that have several; without it they act in their first."""

SESSION_COOKIE = "mimo_session"
"""Holds the credential of whoever signed in on the page; HttpOnly and SameSite=Strict."""

BOOTSTRAP = Principal(DEFAULT_PROJECT, "bootstrap", "key", SCOPES)
"""Whoever shows the key the service was started with."""


class Authenticator:
    """Turns what a caller shows into a principal."""

    def __init__(self, identities: Identities, tokens: Tokens, *, bootstrap_key: str | None, local: bool) -> None:
        """
        Args:
            bootstrap_key: the operator's key from the service's settings; None where there is none.
            local: whether a caller who shows nothing is whoever runs the service.
        """
        self._identities = identities
        self._tokens = tokens
        self._bootstrap_key = bootstrap_key
        self._local = local

    async def authenticate(self, credential: str | None, project: str | None = None) -> Principal:
        """
        Args:
            credential: an API key or a token; None where the caller shows nothing.
            project: the project it wants to act in; None for its first.

        Raises:
            Problem: 401 where the credential proves nothing, 403 where it is of no use in the project.
        """
        choices = await self._choices(credential)
        principal = choices[0] if project is None else _in_project(choices, project)
        if principal.kind == "key" and principal.project_id == choices[0].project_id:
            return principal  # A key's own project was looked at with the key, and the default one is never closed.
        if principal.project_id != DEFAULT_PROJECT and not await self._identities.is_open(principal.project_id):
            raise _closed(principal.project_id)
        return principal

    async def _choices(self, credential: str | None) -> Sequence[Principal]:
        if credential is None:
            if self._local:
                return (LOCAL,)
            raise unauthenticated("The request carries no API key and no token.")
        # Compared as bytes: compare_digest refuses text outside ASCII.
        if self._bootstrap_key is not None and hmac.compare_digest(credential.encode(), self._bootstrap_key.encode()):
            return (BOOTSTRAP,)
        key = await self._identities.key_of(credential)
        if key is not None:
            return (Principal(key.project_id, key.id, "key", frozenset(key.scopes)),)
        if credential.count(".") == 2:
            return await self._token_choices(credential)
        raise unauthenticated("The API key is wrong, revoked or expired.")

    async def _token_choices(self, token: str) -> Sequence[Principal]:
        try:
            return await self._tokens.principals(token)
        except TokenRefused as error:
            raise unauthenticated(f"The request's token proves nothing here: {error}.") from error
        except TokenUnmapped as error:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "no_project",
                f"{error}.",
                remedy="Ask the operator to add a grant that covers the token's claims.",
            ) from error
        except IssuerUnreachable as error:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "issuer_unreachable",
                f"The token cannot be checked now: {error}.",
                remedy="Try again in a minute.",
                headers={"Retry-After": "60"},
            ) from error


def _in_project(choices: Sequence[Principal], project: str) -> Principal:
    for principal in choices:
        if principal.project_id == project:
            return principal
    for principal in choices:
        if principal.may("service:admin"):
            return replace(principal, project_id=project)
    raise _closed(project)


def _closed(project: str) -> Problem:
    """The same whether it is another's, closed or none at all: who may not act in a project learns nothing of it."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "foreign_project",
        f"Project {project!r} is not one you can act in.",
        remedy=f"GET /v1/me lists yours; leave out the header {PROJECT_HEADER} to act in the first of them.",
    )


def unauthenticated(detail: str) -> Problem:
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "unauthenticated",
        detail,
        remedy="Send 'Authorization: Bearer KEY' with an API key of this service, or sign in with `mimo login`.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def bearer(authorization: str) -> str | None:
    """The credential in an Authorization header; None where there is none.

    Raises:
        Problem: it is of another kind.
    """
    if not authorization:
        return None
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise unauthenticated("The Authorization header holds no bearer credential.")
    return credential.strip()


def caller(request: Request) -> Principal:
    """Whom the gate found to be asking."""
    principal = request.scope["state"]["principal"]
    assert isinstance(principal, Principal), principal
    return principal


Caller = Annotated[Principal, Depends(caller)]


class Needs:
    """A dependency that lets a request through only where its caller has a scope; see :func:`needs`."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __call__(self, principal: Caller) -> None:
        """
        Raises:
            Problem: 403, the caller lacks the scope.
        """
        if not principal.may(self.scope):
            raise lacks(self.scope)


def needs(scope: Scope) -> Any:
    """Of a route: ``dependencies=[needs("tasks:write")]``."""
    return Depends(Needs(scope))


def lacks(scope: Scope) -> Problem:
    return Problem(
        HTTPStatus.FORBIDDEN,
        "insufficient_scope",
        f"This takes the scope {scope}, which you do not have here.",
        remedy="Ask an administrator of the project for a key with this scope; GET /v1/me shows yours.",
        headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
    )
