"""An OpenID provider on loopback: discovery, keys, tokens of any content, and sign-in by device or by browser."""

import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agent.testing.serving import serving

CLIENT_ID = "mimo-cli"


@dataclass(slots=True)
class _Device:
    """One sign-in that waits for its person."""

    code: str
    claims: dict[str, Any] | None = None
    """What the person's token will say; None while nobody has confirmed."""
    denied: bool = False


@dataclass(slots=True)
class IdentityProvider:
    """Signs for ``audience``. Use :meth:`running`; ``url`` is its address and the issuer of its tokens."""

    audience: str = CLIENT_ID
    life_s: int = 3600
    """Of the tokens that sign-ins and refreshes give."""
    url: str = ""
    away: bool = False
    """Whether it answers every request with 503."""
    num_key_fetches: int = 0
    slow_downs: int = 0
    """So many polls more are answered with ``slow_down``."""
    person: Callable[[str], None] | None = None
    """What whoever signs in does with the code that is shown, at once: calls ``confirm``, ``deny`` or nothing."""
    devices: dict[str, _Device] = field(default_factory=dict)
    """Sign-ins by the code that people type in."""
    signed_in: dict[str, Any] | None = None
    """Claims of whoever sits at the browser; None refuses to sign in."""
    _keys: list[tuple[str, RSAPrivateKey]] = field(default_factory=lambda: [_new_key()])
    _refreshes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _grants: dict[str, tuple[dict[str, str], dict[str, Any]]] = field(default_factory=dict)
    """By their code: what was asked, and the claims."""

    @contextmanager
    def running(self) -> Iterator["IdentityProvider"]:
        """Serve on a free port in a thread."""
        with serving(self.app) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield self

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discover),
                Route("/keys", self._publish),
                Route("/authorize", self._authorize),
                Route("/device", self._begin, methods=["POST"]),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    def token(self, subject: str, /, *, algorithm: str = "RS256", key: Any = None, **claims: Any) -> str:
        """A signed token; ``claims`` replace the usual ones, and those that are None are left out."""
        now = int(time.time())
        usual = {"iss": self.url, "sub": subject, "aud": self.audience, "iat": now, "exp": now + self.life_s}
        said = {name: value for name, value in (usual | claims).items() if value is not None}
        key_id, own = self._keys[-1]
        return jwt.encode(said, key if key is not None else own, algorithm=algorithm, headers={"kid": key_id})

    def rotate(self) -> None:
        """Sign with a new key from now on; the old one is no longer published."""
        self._keys = [_new_key()]

    def public_key(self) -> dict[str, Any]:
        """The key that is published, as a JSON Web Key."""
        key_id, key = self._keys[-1]
        published: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return published | {"kid": key_id, "use": "sig", "alg": "RS256"}

    def confirm(self, user_code: str, subject: str, **claims: Any) -> None:
        """A person types in the code and agrees."""
        self.devices[user_code].claims = {"sub": subject, **claims}

    def deny(self, user_code: str) -> None:
        self.devices[user_code].denied = True

    def forget(self) -> None:
        """Refuse to renew any token that was given so far."""
        self._refreshes.clear()

    async def _discover(self, request: Request) -> Response:
        return self._answer(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "device_authorization_endpoint": f"{self.url}/device",
            }
        )

    async def _publish(self, request: Request) -> Response:
        self.num_key_fetches += 1
        return self._answer({"keys": [self.public_key()]})

    async def _authorize(self, request: Request) -> Response:
        """Authorization code with PKCE: who sits at the browser agrees at once."""
        asked = dict(request.query_params)
        answer = {"state": asked["state"]}
        if self.signed_in is None or asked["client_id"] != CLIENT_ID or asked["code_challenge_method"] != "S256":
            answer["error"] = "access_denied"
        else:
            answer["code"] = secrets.token_urlsafe()
            self._grants[answer["code"]] = (asked, self.signed_in | {"nonce": asked["nonce"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}")

    def _redeem(self, form: dict[str, str]) -> Response:
        asked, claims = self._grants.pop(form["code"], ({}, {}))
        challenge = urlsafe_b64encode(sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if (challenge, form["redirect_uri"]) != (asked.get("code_challenge"), asked.get("redirect_uri")):
            return self._answer({"error": "invalid_grant"}, 400)
        return self._give(claims)

    async def _begin(self, request: Request) -> Response:
        form = await _form(request)
        if form.get("client_id") != CLIENT_ID:
            return self._answer({"error": "invalid_client"}, 401)
        user_code = secrets.token_hex(4).upper()
        device = self.devices[user_code] = _Device(secrets.token_urlsafe())
        if self.person is not None:
            self.person(user_code)
        return self._answer(
            {
                "device_code": device.code,
                "user_code": user_code,
                "verification_uri": f"{self.url}/activate",
                "expires_in": 600,
                "interval": 0,
            }
        )

    async def _token(self, request: Request) -> Response:
        form = await _form(request)
        if form["grant_type"] == "authorization_code":
            return self._redeem(form)
        if form["grant_type"] == "refresh_token":
            claims = self._refreshes.pop(form["refresh_token"], None)
            return self._answer({"error": "invalid_grant"}, 400) if claims is None else self._give(claims)
        device = next((device for device in self.devices.values() if device.code == form["device_code"]), None)
        if self.slow_downs:
            self.slow_downs -= 1
            return self._answer({"error": "slow_down"}, 400)
        if device is None or device.denied:
            return self._answer({"error": "access_denied" if device else "expired_token"}, 400)
        return (
            self._answer({"error": "authorization_pending"}, 400)
            if device.claims is None
            else self._give(device.claims)
        )

    def _give(self, claims: dict[str, Any]) -> Response:
        refresh = secrets.token_urlsafe()
        self._refreshes[refresh] = claims
        said = dict(claims)
        body = {
            "token_type": "Bearer",
            "access_token": secrets.token_urlsafe(),
            "id_token": self.token(said.pop("sub"), **said),
            "refresh_token": refresh,
            "expires_in": self.life_s,
        }
        return self._answer(body)

    def _answer(self, body: dict[str, Any], code: int = 200) -> Response:
        return Response(status_code=503) if self.away else JSONResponse(body, code)


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode()))


def _new_key() -> tuple[str, RSAPrivateKey]:
    return secrets.token_hex(8), generate_private_key(65537, 2048)
