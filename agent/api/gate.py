"""What happens to a request before any route sees it: its id, who is asking, and how large its body may be."""

import logging
import secrets
import time
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.api.audit import note
from agent.api.auth import PROJECT_HEADER, SESSION_COOKIE, Authenticator, bearer
from agent.api.problems import Problem, problem_response
from agent.errors import StoreUnavailable
from agent.identity import Principal
from agent.store.identity import Identities

logger = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 2 * 1024 * 1024
"""A task of the longest problem statement in four-byte characters, all escaped, still fits."""

_DRAIN_LIMIT_BYTES = 64 * 1024 * 1024
"""A body over the limit is read to its end up to here and thrown away: a client that is still sending when the answer
comes would see a broken connection instead of the reason."""

SIGN_IN_PATH = "/sign-in"
TO_PROVIDER_PATH = f"{SIGN_IN_PATH}/provider"
FROM_PROVIDER_PATH = f"{SIGN_IN_PATH}/done"

OPEN_PATHS = frozenset(
    {"/livez", "/readyz", "/metrics", "/v1/login", SIGN_IN_PATH, TO_PROVIDER_PATH, FROM_PROVIDER_PATH}
)
"""Probes carry no key, and nobody has one before signing in."""

OPEN_FOLDERS = ("/static/", "/v1/artifact_links/", "/v1/hooks/")
"""Styles and scripts of the pages, sign-in among them; what a link by itself gives a right to; what is signed."""

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class Gate:
    """The one middleware that lets requests in.

    ``hosts`` are the names this service answers to; ``None`` accepts any (then keys guard it). A web page that points
    its own name at 127.0.0.1 is stopped by this, one that posts forms from elsewhere by its ``Origin``.
    """

    def __init__(
        self, app: ASGIApp, *, authenticator: Authenticator, identities: Identities, hosts: Iterable[str] | None
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._identities = identities
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = f"req_{secrets.token_hex(8)}"
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
            return
        answer = _Answer(scope, send, self._identities)
        body = _Body(receive)
        try:
            self._admit(scope)
            if not _is_open(scope["path"]):
                await self._let_in(scope)
            await body.check_length(scope)
            await self._app(scope, body.receive, answer.send)
        except ClientDisconnect:
            logger.info("action=client_gone path=%s", scope["path"])
        except Problem as problem:
            if problem.status is HTTPStatus.UNAUTHORIZED and _is_a_person(scope):
                there = RedirectResponse(f"{SIGN_IN_PATH}?next={quote(scope['path'])}", HTTPStatus.SEE_OTHER)
                await there(scope, receive, answer.send)
            else:
                await problem_response(problem, scope)(scope, receive, answer.send)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is refused is answered instead of the handshake."""
        try:
            self._admit(scope)
            await self._let_in(scope)
            await self._app(scope, receive, send)
        except Problem as problem:
            await problem_response(problem, scope)(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        if "\0" in scope["path"]:  # Postgres cannot even be asked for such an id.
            raise Problem(
                HTTPStatus.NOT_FOUND,
                "not_found",
                "No path of this service has the character U+0000.",
                remedy="Check the path; /openapi.json lists every resource.",
            )
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            raise Problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                "foreign_host",
                f"This service is local and does not answer to the host name {host!r}.",
                remedy="Call it by 127.0.0.1 or localhost; to serve others, start it with --host and an API key.",
            )
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "foreign_origin",
                f"Requests from pages of {origin!r} are not accepted.",
                remedy="Call the service from a program, or from a page it serves itself.",
            )

    async def _let_in(self, scope: Scope) -> None:
        """Say in the request's state who calls, and how to ask that again."""
        again = scope["state"]["authenticate"] = partial(self._authenticate, scope)
        scope["state"]["principal"] = await again()

    async def _authenticate(self, scope: Scope) -> Principal:
        headers = Headers(scope=scope)
        credential = bearer(headers.get("authorization", ""))
        if credential is None:
            # Set by the sign-in page. The Origin was checked, and the browser sends it to nobody else's pages.
            credential = cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE)
        try:
            return await self._authenticator.authenticate(credential, headers.get(PROJECT_HEADER))
        except StoreUnavailable as error:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "store_unavailable",
                str(error),
                remedy="Try again in a moment.",
                headers={"Retry-After": "5"},
            ) from error


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _is_a_person(scope: Scope) -> bool:
    """Whether a browser asks for a page; programs are told what is wrong instead of being sent elsewhere."""
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")


def _place(origin: str) -> str | None:
    """Host and port of an Origin header; None where it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _host_name(host: str) -> str:
    """The name in a Host header, without its port; brackets of IPv6 addresses removed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class _Body:
    """Counts the body on its way in."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._num_bytes = 0

    async def check_length(self, scope: Scope) -> None:
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > BODY_LIMIT_BYTES:
            await self._refuse(int(length))

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            if self._num_bytes > BODY_LIMIT_BYTES:
                await self._refuse(None, more=message.get("more_body", False))
        return message

    async def _refuse(self, length: int | None, *, more: bool = True) -> None:
        while more and self._num_bytes <= _DRAIN_LIMIT_BYTES:
            message = await self._receive()
            self._num_bytes += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
        size = f"{length if length is not None else self._num_bytes:,} bytes"
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "body_too_large",
            f"The request body has {size}; at most {BODY_LIMIT_BYTES:,} are accepted.",
            remedy="Shorten the problem statement to 100,000 characters; put long material into a file of the "
            "repository and name that file.",
        )


class _Answer:
    """Puts the request id on the answer, one line into the log, and what was done into the audit log."""

    def __init__(self, scope: Scope, send: Send, identities: Identities) -> None:
        self._scope = scope
        self._send = send
        self._identities = identities
        self._started_at = time.monotonic()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._note(message)
            request_id = self._scope["state"]["request_id"]
            MutableHeaders(scope=message)["X-Request-Id"] = request_id
            logger.info(
                "%s %s %s",
                self._scope["method"],
                self._scope["path"],
                message["status"],
                extra={
                    "action": "request",
                    "request_id": request_id,
                    "duration_s": round(time.monotonic() - self._started_at, 4),
                },
            )
        await self._send(message)

    async def _note(self, start: Message) -> None:
        """Before the answer: what cannot be noted is not acknowledged."""
        try:
            await note(self._identities, self._scope, start)
        except StoreUnavailable as error:
            if start["status"] < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            # Such as that the store is away: nothing was acknowledged, and the caller should hear why.
            logger.warning("action=note_not status=%d error=%r", start["status"], str(error))
