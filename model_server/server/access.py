"""Who may use the server."""

import hmac

from pydantic import SecretStr
from starlette.requests import Request

from model_server.server.errors import ApiError


class Access:
    """Lets a request through that has the key, if there is one; a dependency of routes."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = None if key is None else key.get_secret_value().encode()

    async def __call__(self, request: Request) -> None:
        """Raises ApiError where the key is missing or wrong."""
        if self._key is not None and not hmac.compare_digest(_sent_key(request), self._key):
            raise ApiError(
                "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'.",
                status=401,
                code="invalid_api_key",
            )


def _sent_key(request: Request) -> bytes:
    """The key as either protocol's clients send it; empty where there is none."""
    alone = request.headers.get("x-api-key")
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return (key if kind == "Bearer" else alone or "").encode()
