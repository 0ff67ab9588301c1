"""Who may use the server, and who shares what is cached."""

import hashlib
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

    def salt(self, wanted: str | None) -> str:
        """Whose cached prefixes a request may share, and whose sessions are its own: those of the same key, and of
        the same salt where its caller wants one. How long an answer takes tells what is cached."""
        if self._key is None and wanted is None:
            return ""
        return hashlib.sha256(b"\0".join((self._key or b"", (wanted or "").encode()))).hexdigest()


def _sent_key(request: Request) -> bytes:
    """The key as either protocol's clients send it; empty where there is none."""
    alone = request.headers.get("x-api-key")
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return (key if kind == "Bearer" else alone or "").encode()
