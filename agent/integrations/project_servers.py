"""How workers reach the servers of tools that projects name: over HTTP, on the public internet, with secrets that
neither the model nor a sandbox sees."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from agent.errors import RepositoryError, SettingsError
from agent.integrations.addresses import ForbiddenAddress, Network, resolve
from agent.integrations.mcp import ServerFailed
from agent.integrations.mcp_server import McpServer
from agent.store.mcp_servers import McpServerSettings

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of one response, so that no server fills the memory that all runs of a worker share."""


class ProjectWay:
    """The way to the servers of one project."""

    def __init__(
        self,
        settings: Mapping[str, McpServerSettings],
        secret: Callable[[str], Awaitable[str]],
        allowed: tuple[Network, ...],
    ) -> None:
        """
        Args:
            secret: opens one of the project by its name. Raises ``RepositoryError`` or ``SettingsError``.
            allowed: networks that may be called although they are not public.
        """
        self._settings = settings
        self._secret = secret
        self._allowed = allowed
        self._opened: dict[str, str] = {}

    async def open(self, name: str, server: McpServer, stack: AsyncExitStack) -> Any:
        settings = self._settings[name]
        try:
            url = httpx2.URL(settings.url)
            await _address(url, self._allowed)
            secrets = {wanted: await self._secret(wanted) for wanted in settings.secrets}
        except (ForbiddenAddress, httpx2.InvalidURL, RepositoryError, SettingsError) as error:
            raise ServerFailed(f"{name}: {error}") from error
        for wanted, value in secrets.items():
            if not (value.isascii() and value.isprintable()):
                raise ServerFailed(f"{name}: the secret {wanted} holds characters that no header can")
        self._opened |= secrets
        # No proxy of the environment: it would look the name up anew.
        http = httpx2.AsyncClient(
            headers={"Accept-Encoding": "identity"} | settings.filled(secrets),
            timeout=httpx2.Timeout(30.0, read=settings.timeout_s),
            transport=_Guarded(self._allowed),
            trust_env=False,
        )
        return streamable_http_client(settings.url, http_client=await stack.enter_async_context(http))

    def hide(self, text: str) -> str:
        for name, value in self._opened.items():
            text = text.replace(value, f"[the secret {name}]")
        return text


class _Guarded(httpx2.AsyncBaseTransport):
    """Connects to the address that was looked at, and to no other that the name may lead to by then."""

    def __init__(self, allowed: tuple[Network, ...]) -> None:
        self._allowed = allowed
        self._inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            address = await _address(request.url, self._allowed)
        except ForbiddenAddress as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        pinned = httpx2.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,  # the name is among them, as Host
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": request.url.host},
        )
        response = await self._inner.handle_async_request(pinned)
        if (
            response.headers.get("Content-Encoding", "identity") != "identity"
        ):  # A few bytes could stand for any number.
            await response.aclose()
            raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for", request=request)
        assert isinstance(response.stream, httpx2.AsyncByteStream), response.stream
        response.stream = _Bounded(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for piece in self._stream:
            num_bytes += len(piece)
            if num_bytes > MAX_ANSWER_BYTES:
                raise httpx2.ReadError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _address(url: httpx2.URL, allowed: tuple[Network, ...]) -> str:
    """
    Raises:
        ForbiddenAddress
    """
    plain = url.scheme != "https"
    return await resolve(url.host, url.port or (80 if plain else 443), allowed, plain=plain)
