"""``mimo login``, ``mimo logout`` and ``mimo whoami``; and the credential that other commands show."""

import ipaddress
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from getpass import getpass
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx

from agent.api.access import LoginOffer, Me
from agent.cli.client import Client, ServiceProblem
from agent.cli.credentials import Credential, Credentials, Refresh
from agent.cli.failure import ExitCode, Failure
from agent.cli.terminal import Terminal, printable

KEY_VARIABLE = "MIMO_API_KEY"

_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOW_DOWN_S = 5.0
"""What a ``slow_down`` adds to the pause between two questions (RFC 8628, section 3.5)."""

_SHORTEST_PAUSE_S = 0.1
_USUAL_PAUSE_S = 5.0
_EARLY_S = 60.0
"""A token that ends sooner is replaced before it is shown."""


async def login(server: str, credentials: Credentials, terminal: Terminal, *, with_key: bool) -> None:
    """Sign in to a service, and keep what proves it.

    Raises:
        Failure: the service or the issuer refused.
        ServiceProblem, ServiceUnreachable
    """
    _require_privacy(server)
    credential = _typed_key() if with_key else await _sign_in(server, terminal)
    async with Client(server, api_key=credential.secret) as client:
        me = await client.me()
    place = credentials.put(server, credential)
    if place == "file":
        terminal.note("This system has no keyring: the login is kept in a file that only you can read.")
    terminal.note(f"Signed in to {server}.")
    _introduce(me, terminal)


def logout(server: str, credentials: Credentials, terminal: Terminal) -> None:
    """Forget what ``login`` kept. What the issuer or the service knows is not touched."""
    known = credentials.remove(server)
    terminal.note(f"Signed out of {server}." if known else f"There was no login for {server}.")


async def whoami(client: Client, terminal: Terminal, *, as_json: bool) -> None:
    me = await client.me()
    if as_json:
        terminal.result(me.model_dump_json(indent=2))
    else:
        terminal.result(f"{me.subject}\n")
        _introduce(me, terminal)


async def credential_for(server: str, environment: Mapping[str, str], credentials: Credentials) -> str | None:
    """What to show the service: ``MIMO_API_KEY``, or else what ``login`` kept, renewed where it has expired.

    Raises:
        Failure: the login has expired and cannot be renewed.
    """
    if environment.get(KEY_VARIABLE):
        return environment[KEY_VARIABLE]
    kept = credentials.get(server)
    if kept is None:
        return None
    if kept.expires_at is not None and kept.expires_at < time.time() + _EARLY_S:
        kept = await _renewed(kept, server)
        credentials.put(server, kept)
    return kept.secret


def _introduce(me: Me, terminal: Terminal) -> None:
    terminal.note(f"  you      {me.subject}")
    terminal.note(f"  project  {me.project}")
    terminal.note(f"  scopes   {', '.join(me.scopes) or 'none'}")


def _typed_key() -> Credential:
    """From the terminal without showing it, or from standard input."""
    key = (getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not key:
        raise Failure(ExitCode.USAGE, "no API key is given", "type it in, or send it to standard input")
    return Credential(secret=key)


# The device authorization grant, RFC 8628.


@dataclass(frozen=True, slots=True)
class _Endpoints:
    token: str
    device: str | None


async def _sign_in(server: str, terminal: Terminal) -> Credential:
    offer = await _offer(server)
    async with _http(offer.issuer) as http:
        endpoints = await _endpoints(http, offer.issuer)
        if endpoints.device is None:
            raise _broken(offer.issuer, "it has no device authorization")
        form = {"client_id": offer.client_id, "scope": " ".join(offer.scopes)}
        device = await _ask(http, endpoints.device, form, offer.issuer)
        _show(device, terminal)
        given = await _confirmed(http, endpoints.token, offer, device)
    return _credential(given, offer.issuer, offer.client_id, None)


async def _offer(server: str) -> LoginOffer:
    async with Client(server) as client:
        try:
            return await client.login_offer()
        except ServiceProblem as problem:
            if problem.code == "no_login":
                raise Failure(ExitCode.USAGE, problem.detail, problem.remedy) from problem
            raise


def _show(device: Mapping[str, Any], terminal: Terminal) -> None:
    """Not a note: with --quiet there would be nothing to confirm."""
    address = printable(str(device["verification_uri"]))
    terminal.err.print(f"Open {address}", markup=False, highlight=False, soft_wrap=True)
    terminal.err.print(f"and type in  {printable(str(device['user_code']))}", markup=False, highlight=False)


async def _confirmed(
    http: httpx.AsyncClient, address: str, offer: LoginOffer, device: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Ask until the person has answered."""
    form = {"grant_type": _DEVICE_GRANT, "device_code": str(device["device_code"]), "client_id": offer.client_id}
    pause_s = max(float(device.get("interval", _USUAL_PAUSE_S)), _SHORTEST_PAUSE_S)
    until = anyio.current_time() + float(device["expires_in"])
    while anyio.current_time() < until:
        await anyio.sleep(pause_s)
        answer = await _ask(http, address, form, offer.issuer, pending=True)
        match answer.get("error"):
            case None:
                return answer
            case "authorization_pending":
                continue
            case "slow_down":
                pause_s += _SLOW_DOWN_S
            case "access_denied":
                raise Failure(ExitCode.FAILED, "the sign-in was refused", "run `mimo login` again and confirm it")
            case _:
                break
    raise Failure(ExitCode.FAILED, "nobody confirmed the sign-in in time", "run `mimo login` again")


async def _renewed(kept: Credential, server: str) -> Credential:
    remedy = f"run: mimo login --server {server}"
    if kept.refresh is None:
        raise Failure(ExitCode.USAGE, f"the login to {server} has expired", remedy)
    refresh = kept.refresh
    form = {"grant_type": "refresh_token", "refresh_token": refresh.token, "client_id": refresh.client_id}
    async with _http(refresh.issuer) as http:
        endpoints = await _endpoints(http, refresh.issuer)
        answer = await _ask(http, endpoints.token, form, refresh.issuer, pending=True)
    if "error" in answer:
        raise Failure(ExitCode.USAGE, f"the login to {server} has expired and cannot be renewed", remedy)
    return _credential(answer, refresh.issuer, refresh.client_id, refresh.token)


def _credential(given: Mapping[str, Any], issuer: str, client_id: str, old_refresh: str | None) -> Credential:
    """The ID token, which says who somebody is to anyone; an access token may be readable to the issuer alone."""
    token = given.get("id_token") or given.get("access_token")
    if not isinstance(token, str):
        raise _broken(issuer, "it gave no token")
    refresh = given.get("refresh_token") or old_refresh  # Not every issuer gives a new one each time.
    return Credential(
        secret=token,
        expires_at=_end(token, given),
        refresh=Refresh(issuer=issuer, client_id=client_id, token=refresh) if refresh else None,
    )


def _end(token: str, given: Mapping[str, Any]) -> float | None:
    import jwt

    with suppress(jwt.InvalidTokenError, KeyError):
        return float(jwt.decode(token, options={"verify_signature": False})["exp"])
    return time.time() + float(given["expires_in"]) if "expires_in" in given else None


async def _endpoints(http: httpx.AsyncClient, issuer: str) -> _Endpoints:
    document = await _read(http.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration"), issuer)
    device = document.get("device_authorization_endpoint")
    endpoints = _Endpoints(str(document.get("token_endpoint", "")), None if device is None else str(device))
    for address in (issuer, endpoints.token, *([endpoints.device] if endpoints.device else [])):
        _require_privacy(address)
    return endpoints


async def _ask(
    http: httpx.AsyncClient, address: str, form: Mapping[str, str], issuer: str, *, pending: bool = False
) -> Mapping[str, Any]:
    """
    Args:
        pending: whether a refusal is an answer too (RFC 6749, section 5.2).
    """
    return await _read(http.post(address, data=dict(form)), issuer, refusal=pending)


async def _read(request: Any, issuer: str, *, refusal: bool = False) -> Mapping[str, Any]:
    try:
        answer: httpx.Response = await request
        if not (refusal and answer.status_code in (400, 401)):
            answer.raise_for_status()
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise _broken(issuer, str(error) or type(error).__name__) from error
    if not isinstance(body, dict):
        raise _broken(issuer, "its answer is no JSON object")
    return body


def _http(issuer: str) -> httpx.AsyncClient:
    # A proxy set for the outside has no business with this machine.
    outside = not _is_loopback(urlsplit(issuer).hostname or "")
    return httpx.AsyncClient(timeout=30.0, headers={"Accept": "application/json"}, trust_env=outside)


def _broken(issuer: str, detail: str) -> Failure:
    message = f"the identity provider {printable(issuer)} cannot be used: {printable(detail)}"
    return Failure(ExitCode.RETRYABLE, message, "try again; if it stays, tell the service's operator")


def _require_privacy(address: str) -> None:
    """
    Raises:
        Failure: what is sent there could be read on the way.
    """
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    message = f"{printable(address)!r} is no https:// address: a credential sent there could be read on the way"
    raise Failure(ExitCode.USAGE, message, "use an https:// address")


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
