"""Signing in on the page through the identity provider: authorization code with PKCE (OpenID Connect Core 1.0, section
3.1; RFC 7636)."""

import hmac
import logging
import secrets
from base64 import urlsafe_b64encode
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote, unquote, urlencode

import httpx
import jwt
from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from agent.api.context import Services, services
from agent.api.discovery import endpoint, issuer_client
from agent.api.gate import FROM_PROVIDER_PATH, TO_PROVIDER_PATH
from agent.api.issuers import Issuer, Login
from agent.api.problems import Problem
from agent.api.web.page import Html, page_router
from agent.api.web.session import address, keep, own, scheme

logger = logging.getLogger(__name__)

router = page_router()

_COOKIE = "mimo_sign_in"
_PATIENCE_S = 600
"""How long somebody may take at the provider."""
_MAX_TOKEN_CHARS = 3800
"""Browsers keep no cookie of more than 4,096 bytes."""


@router.get(TO_PROVIDER_PATH)
async def leave(
    request: Request,
    built: Annotated[Services, Depends(services)],
    next: Annotated[str, Query()] = "/tasks",  # noqa: A002 - the address's name for it
) -> Response:
    """Send the browser to the provider. All that is to be known when it comes back is one secret, in a cookie."""
    issuer, login = _login(built)
    async with issuer_client(issuer) as http:
        try:
            address = await endpoint(http, issuer, "authorization_endpoint")
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise _broken(issuer, error) from error
    verifier = secrets.token_urlsafe(48)
    asked = {
        "response_type": "code",
        "client_id": login.client_id,
        "scope": " ".join(login.scopes),
        "redirect_uri": _way_back(request),
        "state": _derived("state", verifier),
        "nonce": _derived("nonce", verifier),
        "code_challenge": urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    answer = RedirectResponse(f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}", HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        _COOKIE,
        f"{verifier}.{quote(own(next))}",
        max_age=_PATIENCE_S,
        path=FROM_PROVIDER_PATH,
        httponly=True,
        samesite="lax",  # The provider's redirect must bring it along.
        secure=scheme(request) == "https",
    )
    return answer


@router.get(FROM_PROVIDER_PATH)
async def come_back(
    request: Request,
    html: Html,
    built: Annotated[Services, Depends(services)],
    state: str = "",
    code: str = "",
    error: str = "",
) -> Response:
    issuer, login = _login(built)
    verifier, _, then = request.cookies.get(_COOKIE, "").partition(".")
    if not verifier or not hmac.compare_digest(state.encode(), _derived("state", verifier).encode()):
        raise _refused("This sign-in was not begun in this browser, or too long ago.")
    if error or not code:
        raise _refused(f"The identity provider refused: {error or 'no code'}.")
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": _way_back(request),
        "client_id": login.client_id,
        "code_verifier": verifier,
    }
    token = await _token(issuer, form)
    await built.authenticator.authenticate(token)
    claims = jwt.decode(token, options={"verify_signature": False})  # It was verified just now.
    if claims.get("nonce") != _derived("nonce", verifier):
        raise _refused("The identity provider answered another sign-in.")
    # A page, and no redirect: on a way that began at the provider the browser would not send the strict cookie.
    answer = html.page(request, "signed_in.html", next=own(unquote(then)))
    keep(answer, request, token)
    answer.delete_cookie(_COOKIE, path=FROM_PROVIDER_PATH)
    return answer


async def _token(issuer: Issuer, form: dict[str, str]) -> str:
    """The ID token that the code stands for."""
    async with issuer_client(issuer, {"Accept": "application/json"}) as http:
        try:
            answer = await http.post(await endpoint(http, issuer, "token_endpoint"), data=form)
            token = str(answer.raise_for_status().json()["id_token"])
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise _broken(issuer, error) from error
    if len(token) > _MAX_TOKEN_CHARS:
        raise _refused(
            f"The provider's token has {len(token):,} characters, and a browser keeps {_MAX_TOKEN_CHARS:,}: "
            "have the operator shorten its claims, such as the list of groups."
        )
    return token


def _login(built: Services) -> tuple[Issuer, Login]:
    issuer = built.login
    if issuer is None or issuer.login is None or not issuer.login.page:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "no_login",
            "Nobody signs in to this page through an identity provider.",
            remedy="Sign in with an API key.",
        )
    return issuer, issuer.login


def _way_back(request: Request) -> str:
    return address(request) + FROM_PROVIDER_PATH


def _derived(purpose: str, verifier: str) -> str:
    return sha256(f"{purpose} {verifier}".encode()).hexdigest()


def _refused(detail: str) -> Problem:
    return Problem(HTTPStatus.UNAUTHORIZED, "sign_in_refused", detail, remedy="Sign in again.")


def _broken(issuer: Issuer, error: Exception) -> Problem:
    logger.warning("action=sign_in issuer=%s error=%r", issuer.name, error)
    return Problem(
        HTTPStatus.BAD_GATEWAY,
        "issuer_unreachable",
        f"The identity provider {issuer.name} cannot be used now.",
        remedy="Try again in a minute; if it stays, tell the service's operator.",
    )
