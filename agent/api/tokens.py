"""Tokens of other parties: JSON Web Tokens (RFC 7519), signed by an issuer that the operator trusts.

A token is believed where its issuer is one of the settings', its signature is made with one of that issuer's published
keys by an algorithm the settings allow, it is meant for us, and now lies between its times.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt

from agent.api.discovery import endpoint, issuer_client
from agent.api.issuers import IdentitySettings, Issuer
from agent.identity import Principal

logger = logging.getLogger(__name__)

_KEYS_LIVE_S = 3600.0
"""How long fetched keys are used without asking again; issuers announce new keys days before they use them."""

_FETCH_PAUSE_S = 10.0
"""Shortest time between two fetches: tokens with made-up key ids must not make us a nuisance."""

_MAX_TOKEN_CHARS = 16_384
_MAX_SUBJECT_CHARS = 200
_REQUIRED = ["iss", "sub", "aud", "exp", "iat"]


class TokenRefused(Exception):
    """The token proves nothing here; the message says why."""


class TokenUnmapped(Exception):
    """The token is genuine, but no grant covers its claims."""


class IssuerUnreachable(Exception):
    """The issuer's keys cannot be had now, so nothing can be said about its tokens."""


class Tokens:
    """Tells what a token proves. One per service: it keeps the issuers' keys."""

    def __init__(self, settings: IdentitySettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuers = {issuer.url: (issuer, _Keys(issuer, clock)) for issuer in settings.issuers}

    async def principals(self, token: str) -> tuple[Principal, ...]:
        """What the token's subject may be, the first grant's project first; never empty.

        Raises:
            TokenRefused, TokenUnmapped, IssuerUnreachable
        """
        issuer, keys = self._issuer(token)
        claims = await _verify(token, issuer, keys)
        found = tuple(issuer.principals(claims))
        if not found:
            raise TokenUnmapped(f"{issuer.name}:{claims['sub']} is known, but no grant of this service covers it")
        return found

    def _issuer(self, token: str) -> "tuple[Issuer, _Keys]":
        """By what the token says of itself, which is only believed once the signature has been checked."""
        if len(token) > _MAX_TOKEN_CHARS:
            raise TokenRefused("the token is too long")
        try:
            claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except jwt.PyJWTError as error:
            raise TokenRefused("the token is no JSON Web Token") from error
        if not isinstance(claimed, str) or claimed not in self._issuers:
            raise TokenRefused("the token's issuer is not trusted by this service")
        return self._issuers[claimed]


async def _verify(token: str, issuer: Issuer, keys: "_Keys") -> Mapping[str, Any]:
    header = jwt.get_unverified_header(token)
    if header.get("alg") not in issuer.algorithms:
        raise TokenRefused("the token is signed in a way this service does not allow")
    key = await keys.find(header.get("kid"))
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=sorted(issuer.algorithms),
            audience=issuer.audience,
            issuer=issuer.url,
            leeway=issuer.leeway_s,
            options={"require": _REQUIRED},
        )
    except jwt.ExpiredSignatureError as error:
        raise TokenRefused("the token has expired") from error
    except jwt.PyJWTError as error:
        raise TokenRefused(f"the token is not valid: {error}") from error
    if not claims["sub"].isprintable() or not 0 < len(claims["sub"]) <= _MAX_SUBJECT_CHARS:
        raise TokenRefused("the token's subject is empty, too long or not printable")
    return claims


class _Keys:
    """The public keys of one issuer, fetched when first needed, when old, and when a token names one we lack."""

    def __init__(self, issuer: Issuer, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._clock = clock
        self._keys: Sequence[jwt.PyJWK] = ()
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._one_fetch = anyio.Lock()

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        found = self._known(key_id)
        old = self._clock() - self._fetched_at > _KEYS_LIVE_S
        # Of those that come while old keys are fetched anew, nobody waits for an issuer that may be away.
        if found is None or (old and not self._one_fetch.locked()):
            found = await self._refreshed(key_id)
        if found is None:
            raise TokenRefused("the token is signed with a key that its issuer does not publish")
        return found

    async def _refreshed(self, key_id: str | None) -> jwt.PyJWK | None:
        async with self._one_fetch:
            if self._clock() - self._tried_at > _FETCH_PAUSE_S:
                self._tried_at = self._clock()
                try:
                    self._keys = await _fetch(self._issuer)
                    self._fetched_at = self._clock()
                except (httpx.HTTPError, ValueError, KeyError, OSError, jwt.PyJWKSetError) as error:
                    logger.warning("action=fetch_keys issuer=%s error=%r", self._issuer.name, error)
            if not self._keys:
                raise IssuerUnreachable(f"the keys of issuer {self._issuer.name} cannot be fetched")
        # An issuer that is away for a while does not lock its people out: the keys we have go on.
        return self._known(key_id)

    def _known(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.key_id == key_id), None)


async def _fetch(issuer: Issuer) -> Sequence[jwt.PyJWK]:
    headers = {}
    if issuer.token_file is not None:
        headers["Authorization"] = f"Bearer {await _text(issuer.token_file)}"
    async with issuer_client(issuer, headers) as http:
        url = issuer.jwks_url or await endpoint(http, issuer, "jwks_uri")
        keys = jwt.PyJWKSet.from_dict((await http.get(url)).raise_for_status().json()).keys
    # Keys for encryption may stand in the same set.
    return [key for key in keys if key.public_key_use in (None, "sig")]


async def _text(file: Path) -> str:
    return (await anyio.Path(file).read_text()).strip()
