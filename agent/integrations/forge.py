"""What opens pull requests on a git host; each kind of host has a file of its own."""

import ssl
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import httpx
from pydantic import StringConstraints, TypeAdapter, ValidationError

from agent.errors import RepositoryError
from agent.integrations.addresses import ForbiddenAddress
from agent.integrations.remote import Reach

WebAddress = Annotated[str, StringConstraints(pattern=r"^https?://")]
"""People follow it, so it is one of those."""

_Answer = TypeVar("_Answer")

_TIMEOUT_S = 30.0
_HEADERS = {"User-Agent": "mimo-coder", "Accept-Encoding": "identity"}
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A project names the host, and all projects share the memory of the service. GitHub says about 30 KB of a pull
request."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """One that is there."""

    number: int
    url: str
    """Where people read it."""


@dataclass(frozen=True, slots=True)
class NewPullRequest:
    """One that is wanted."""

    title: str
    body: str
    branch: str
    base: str
    """The branch that it shall be merged into."""
    draft: bool


class Forge(Protocol):
    """One repository on a host. Methods raise ``RepositoryError`` where the host refuses."""

    async def find(self, branch: str) -> PullRequest | None:
        """The newest pull request of a branch, also a closed one."""

    async def open(self, wanted: NewPullRequest) -> PullRequest:
        """Open one."""


class ForgeApi:
    """A host's API. It is called where the operator allows it, and redirects are not followed."""

    def __init__(self, url: str, headers: dict[str, str], reach: Reach) -> None:
        """
        Args:
            headers: of every request; they hold the credential.
        """
        self._url = httpx.URL(url.rstrip("/"))
        self._headers = headers
        self._reach = reach

    async def get(self, path: str, wanted: type[_Answer], **parameters: str) -> _Answer:
        return await self._send("GET", path, wanted, params=parameters)

    async def post(self, path: str, wanted: type[_Answer], body: dict[str, Any]) -> _Answer:
        return await self._send("POST", path, wanted, json=body)

    async def _send(self, method: str, path: str, wanted: type[_Answer], **arguments: Any) -> _Answer:
        url = httpx.URL(f"{self._url}{path}")
        plain = url.scheme == "http"
        try:
            address = await self._reach.address(url.host, url.port or (80 if plain else 443), plain=plain)
            async with (
                httpx.AsyncClient(verify=self._trusted(), timeout=_TIMEOUT_S, trust_env=False) as http,
                http.stream(
                    method,
                    url.copy_with(host=address),
                    headers=self._headers | _HEADERS | {"Host": url.netloc.decode()},
                    extensions={"sni_hostname": url.host},
                    **arguments,
                ) as answer,
            ):
                text = await self._read(answer)
        except (httpx.HTTPError, ForbiddenAddress) as error:
            raise RepositoryError(f"{self._url} cannot be called: {error}") from error
        if not answer.is_success:
            raise RepositoryError(f"{self._url} answers {answer.status_code}: {text.decode('utf-8', 'replace')[:500]}")
        try:
            return TypeAdapter(wanted).validate_json(text)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, problem["loc"])) or "the whole"
            message = f"{self._url} answers with something else than was asked for ({place}: {problem['msg']})"
            raise RepositoryError(f"{message}; is forge_url right?") from error

    async def _read(self, answer: httpx.Response) -> bytes:
        text = bytearray()
        async for piece in answer.aiter_raw():  # Not unfolded: a few bytes could stand for any number.
            text += piece
            if len(text) > _MAX_ANSWER_BYTES:
                raise RepositoryError(
                    f"{self._url} answers with more than {_MAX_ANSWER_BYTES} bytes; is forge_url right?"
                )
        return bytes(text)

    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._reach.ca_file)
