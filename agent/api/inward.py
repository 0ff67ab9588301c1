"""Requests to the REST API of this process, in the name of somebody who is connected by another protocol: keys,
projects, scopes, rates, errors and the audit log are those of REST."""

from typing import Any

import httpx
from starlette.requests import HTTPConnection

from agent.api.auth import PROJECT_HEADER
from agent.api.web.session import address
from agent.client.operations import Send

_CALLER = ("authorization", "cookie", PROJECT_HEADER, "traceparent")
"""What of a request says who calls, and in whose name."""


class Refused(Exception):
    """The API did not do it; the message says why, and what to do."""

    def __init__(self, answered: httpx.Response) -> None:
        problem = answered.json()
        wait_s = answered.headers.get("Retry-After")
        wait = [f"Retry-After: {wait_s}."] if wait_s else []
        words = " ".join([f"{problem['detail'].rstrip('.')}.", problem["remedy"], *wait])
        super().__init__(f"{words} ({problem['code']}, {problem['request_id']})")
        self.code = str(problem["code"])


def sender(connection: HTTPConnection) -> Send:
    """Sends requests as the caller of ``connection``."""
    caller = {name: connection.headers[name] for name in _CALLER if name in connection.headers}
    transport = httpx.ASGITransport(connection.app, raise_app_exceptions=False)

    async def send(method: str, path: str, query: dict[str, Any], headers: dict[str, str], body: Any) -> bytes:
        async with httpx.AsyncClient(transport=transport, base_url=address(connection)) as http:
            answered = await http.request(method, path, params=query, headers=caller | headers, json=body)
        if answered.is_error:
            raise Refused(answered)
        return answered.content

    return send
