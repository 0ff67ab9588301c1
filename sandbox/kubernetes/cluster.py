"""The API server of one cluster, over plain HTTP and JSON; the one module that knows the package ``lightkube``.

Of that package only its reading of kubeconfigs and accounts is used. Calls are repeated here and nowhere else: as long
as the settings' patience lasts, with pauses that depend on the cause, and all repetitions of a service together at a
bounded rate, so that a server that comes back is not run over.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import httpx2
import msgspec
import yaml
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError
from pydantic import BaseModel, ConfigDict, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay

from sandbox.bucket import TokenBucket
from sandbox.config import KubernetesSettings
from sandbox.errors import NoRoom, SandboxUnavailable

_ANSWER_S = 20.0
"""How long one answer may take. The server itself gives up after a minute; we would rather ask again."""
_QUIET_S = 90.0
"""A watch says something at least once a minute (bookmarks); after so long without, it is not believed any more."""
_WATCH_S = 300
"""The server ends a watch after this, so that a restarted one of several servers gets its share."""
_MAX_CONNECTIONS = 64
_REPEATS_PER_S = 50.0
_FIRST_PAUSE_S = {"away": 0.2, "busy": 0.5, "conflict": 0.02, "broken": 0.5}
_LONGEST_PAUSE_S = {"away": 2.0, "busy": 10.0, "conflict": 0.5, "broken": 5.0}
_MAX_WORDS = 1000


class Refusal(Exception):
    """The server's answer is no."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """One of a closed set of words, such as ``AlreadyExists``."""


class _Answer(BaseModel):
    """What the server says where it does not say yes (``meta/v1 Status``)."""

    model_config = ConfigDict(frozen=True)

    reason: str | None = None
    message: str | None = None


class Cluster:
    """One API server, and who we are to it."""

    def __init__(self, settings: KubernetesSettings) -> None:
        """Nothing is asked yet.

        Raises:
            SandboxUnavailable: nothing says where the server is, or what does is not right.
        """
        try:
            config = _config(settings)
            given = ConnectionParams(timeout=httpx2.Timeout(_ANSWER_S, pool=None)).httpx_params(config)
        except (ConfigError, OSError, KeyError, ValueError, msgspec.MsgspecError, yaml.YAMLError) as error:
            raise SandboxUnavailable(
                f"there is no usable way to a cluster ({error}); name a kubeconfig in the settings "
                "(sandbox.kubernetes.kubeconfig) or the variable KUBECONFIG, or run the service in a pod of the cluster"
            ) from error
        given["headers"] = {
            "Accept-Encoding": "identity"
        }  # packing long lists would cost a server more than sending them
        given["limits"] = httpx2.Limits(max_connections=_MAX_CONNECTIONS)
        self.address = config.cluster.server
        self._client = httpx2.AsyncClient(**given)
        self._patience_s = settings.patience_s
        self._repeats = TokenBucket(_REPEATS_PER_S, _REPEATS_PER_S)

    async def ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] = MappingProxyType({}),
        *,
        body: Mapping[str, object] | None = None,
    ) -> bytes:
        """One call, repeated while the server is away or too busy. So it must be one that may be made twice.

        Raises:
            Refusal: the server says no, and would say so again.
            NoRoom: it did not answer in time.
        """
        repeating = AsyncRetrying(
            retry=retry_if_exception_type(_NotNow),
            wait=self._pause,
            stop=stop_after_delay(self._patience_s),
            reraise=True,
        )
        try:
            async for attempt in repeating:
                with attempt:
                    return await self._ask_once(method, path, params, body)
        except _NotNow as error:
            raise NoRoom(
                f"the API server at {self.address} does not answer ({error}); see that it runs and can be reached from "
                "here, then try again"
            ) from error
        raise AssertionError("a call that is repeated comes to an end")

    async def delete(self, path: str, params: Mapping[str, str | int]) -> bool:
        """Whether there was such an object; raises as :meth:`ask`."""
        try:
            await self.ask("DELETE", path, params)
        except Refusal as error:
            if error.status == httpx2.codes.NOT_FOUND:
                return False
            raise
        return True

    @asynccontextmanager
    async def watch(self, path: str, **params: str | int) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of a watch, until the server ends it or the connection breaks.

        Raises:
            Refusal: the server says no, such as ``Expired`` where it no longer knows the version.
            ConnectionError: it is away or busy, or the connection broke.
        """
        timeout = httpx2.Timeout(_ANSWER_S, read=_QUIET_S, pool=None)
        watching: dict[str, str | int] = {"watch": 1, "allowWatchBookmarks": "true", "timeoutSeconds": _WATCH_S}
        try:
            async with self._client.stream("GET", path, params=params | watching, timeout=timeout) as response:
                if response.status_code != httpx2.codes.OK:
                    await response.aread()
                    _raise_for(response)
                yield response.aiter_lines()
        except (httpx2.TransportError, _NotNow) as error:
            raise ConnectionError(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask_once(self, method: str, path: str, params: Mapping[str, str | int], body: object) -> bytes:
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        try:
            response = await self._client.request(method, path, params=params, json=body, headers=headers)
        except (httpx2.TransportError, ConfigError) as error:
            raise _NotNow("away", str(error) or type(error).__name__) from error
        if not response.is_success:
            _raise_for(response)
        return response.content

    def _pause(self, state: RetryCallState) -> float:
        """Seconds before the next try: a random part of a time that doubles, and no earlier than its turn comes."""
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, _NotNow), error
        now = asyncio.get_running_loop().time()
        turn = self._repeats.wait_s(now)
        self._repeats.charge(now)
        longest = min(_LONGEST_PAUSE_S[error.cause], _FIRST_PAUSE_S[error.cause] * 2 ** (state.attempt_number - 1))
        return max(turn, error.wanted_s, random.uniform(longest / 4, longest))


class _NotNow(Exception):
    """The same question may be answered later."""

    def __init__(self, cause: str, words: str, wanted_s: float = 0.0) -> None:
        super().__init__(words)
        self.cause = cause
        self.wanted_s = wanted_s
        """What the server asked us to wait."""


def _raise_for(response: httpx2.Response) -> None:
    try:
        answer = _Answer.model_validate_json(response.content)
    except ValidationError:
        answer = _Answer(message=response.text)
    status, words = response.status_code, (answer.message or "").strip()[:_MAX_WORDS]
    after = response.headers.get("Retry-After", "")
    wanted_s = float(after) if after.isdigit() else 0.0
    if status == httpx2.codes.TOO_MANY_REQUESTS:
        raise _NotNow("busy", words or "too many requests", wanted_s)
    if status == httpx2.codes.CONFLICT and answer.reason == "Conflict":  # two wrote one object at once, such as a quota
        raise _NotNow("conflict", words)
    if status >= httpx2.codes.INTERNAL_SERVER_ERROR:
        raise _NotNow("broken", f"HTTP {status} {words}", wanted_s)
    raise Refusal(status, answer.reason or "", words or f"HTTP {status}")


def _config(settings: KubernetesSettings) -> SingleConfig:
    if settings.kubeconfig is not None:
        known = KubeConfig.from_file(settings.kubeconfig)
    else:
        known = KubeConfig.from_env(default_config=Path(DEFAULT_KUBECONFIG).expanduser())
    config = known.get(settings.context)
    assert config is not None, "a kubeconfig without a default says so itself"
    return config._replace(user=config.user or User())
