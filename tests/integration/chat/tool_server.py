"""A server of tools made with the ``mcp`` package. As a program it speaks on its standard streams."""

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
def over_http(*, sign_in: bool = False) -> Iterator[str]:
    """The address of one that is running; with ``sign_in`` it wants a token, and gives one to whoever asks."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        more: dict[str, object] = {}
        if sign_in:
            registration = ClientRegistrationOptions(enabled=True)
            here = AnyHttpUrl(address)
            auth = AuthSettings(
                issuer_url=here,
                resource_server_url=AnyHttpUrl(f"{address}/mcp"),
                client_registration_options=registration,
                validate_token_resource=True,
            )
            more = {"auth": auth, "auth_server_provider": _Issuer()}
        app = tool_server(**more).streamable_http_app()
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


class _Issuer(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """Believes everyone, in memory."""

    def __init__(self) -> None:
        self._clients: dict[str, OAuthClientInformationFull] = {}
        self._codes: dict[str, AuthorizationCode] = {}
        self._tokens: dict[str, AccessToken] = {}

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
        token = secrets.token_hex()
        self._tokens[token] = AccessToken(
            token=token,
            client_id=authorization_code.client_id,
            scopes=authorization_code.scopes,
            resource=authorization_code.resource,
        )
        return OAuthToken(access_token=token)

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> None:
        return None

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        raise NotImplementedError

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        raise NotImplementedError

    async def load_access_token(self, token: str) -> AccessToken | None:
        return self._tokens.get(token)


if __name__ == "__main__":
    tool_server().run()
