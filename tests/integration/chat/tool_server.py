"""A server of tools made with the ``mcp`` package. As a program it speaks on its standard streams."""

import asyncio
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_LIFE_S = 2


def tool_server(**more: object) -> MCPServer[object]:
    server: MCPServer[object] = MCPServer("peer", **more)  # type: ignore[arg-type]

    @server.tool()
    def repeat(text: str, times: int = 2) -> str:
        """Say it again.

        And again.
        """
        return " ".join([text] * times)

    @server.tool()
    def environment() -> str:
        """Names of the variables that there are."""
        return " ".join(sorted(os.environ))

    @server.resource("notes://today", description="What is to be done.")
    def today() -> str:
        return "repair the sign"

    @server.resource("notes://{day}/picture", mime_type="image/png")
    def picture(day: str) -> bytes:
        return b"\x89PNG"

    @server.tool()
    def refuse() -> str:
        """Always fails."""
        raise ToolError("not today")

    @server.tool()
    def die() -> str:
        """Ends the server in the middle of a call."""
        os._exit(3)

    return server


@contextmanager
def over_http(*, issuer: "Issuer | None" = None, heard: list[dict[str, str]] | None = None) -> Iterator[str]:
    """The address of one that is running; with an ``issuer`` it wants its tokens.

    Args:
        heard: takes the headers of every request.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        more: dict[str, object] = {}
        if issuer is not None:
            registration = ClientRegistrationOptions(enabled=True)
            here = AnyHttpUrl(address)
            auth = AuthSettings(
                issuer_url=here,
                resource_server_url=AnyHttpUrl(f"{address}/mcp"),
                client_registration_options=registration,
                validate_token_resource=True,
            )
            more = {"auth": auth, "auth_server_provider": issuer}
        app = tool_server(**more).streamable_http_app()
        if heard is not None:
            app.add_middleware(_Hearing, heard=heard)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"{address}/mcp"
        finally:
            server.should_exit = True
            thread.join()


class _Hearing:
    def __init__(self, app: ASGIApp, heard: list[dict[str, str]]) -> None:
        self._app = app
        self._heard = heard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._heard.append(dict(Headers(scope=scope)))
        await self._app(scope, receive, send)


class Issuer(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """Believes everyone, in memory. A renewal ends the tokens before it."""

    def __init__(self) -> None:
        self._clients: dict[str, OAuthClientInformationFull] = {}
        self._codes: dict[str, AuthorizationCode] = {}
        self._tokens: dict[str, AccessToken] = {}
        self._renewals: dict[str, RefreshToken] = {}

    async def end_tokens(self) -> None:
        """Once their time is over."""
        await asyncio.sleep(TOKEN_LIFE_S + 0.1)
        self._tokens.clear()

    def end_renewals(self) -> None:
        self._renewals.clear()

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self._clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        assert client_info.client_id is not None
        self._clients[client_info.client_id] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        assert client.client_id is not None
        code = secrets.token_hex()
        self._codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self._codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        return self._give(authorization_code.client_id, authorization_code.scopes, authorization_code.resource)

    def _give(self, client_id: str, scopes: list[str], resource: str | None) -> OAuthToken:
        token, renewal = secrets.token_hex(), secrets.token_hex()
        self._tokens = {token: AccessToken(token=token, client_id=client_id, scopes=scopes, resource=resource)}
        self._renewals = {renewal: RefreshToken(token=renewal, client_id=client_id, scopes=scopes, resource=resource)}
        return OAuthToken(access_token=token, refresh_token=renewal, expires_in=TOKEN_LIFE_S)

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> RefreshToken | None:
        return self._renewals.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        return self._give(refresh_token.client_id, scopes, refresh_token.resource)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        raise NotImplementedError

    async def load_access_token(self, token: str) -> AccessToken | None:
        return self._tokens.get(token)


if __name__ == "__main__":
    tool_server().run()
