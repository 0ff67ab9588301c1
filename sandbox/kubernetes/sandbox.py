"""One sandbox that is a pod."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from sandbox.errors import LifetimeOver, MachineLost, SandboxEvicted, SandboxLost
from sandbox.inventory import Handle
from sandbox.kubernetes.following import Following
from sandbox.kubernetes.state import Cause, PodState
from sandbox.kubernetes.way_out import WayOut
from sandbox.wire.client import Client
from sandbox.wire.ending import Ended, Result
from sandbox.wire.link import Health
from sandbox.wire.machine import Machine

_WORD_S = 3.0
"""A connection ends before the API server has heard why; so long we wait for it to say."""


class KubernetesSandbox(Machine):
    """One running pod."""

    def __init__(
        self,
        client: Client,
        following: Following,
        handle: Handle,
        discard: Callable[[str], Awaitable[None]],
        way_out: WayOut | None = None,
    ) -> None:
        self._pod = _PodWire(client, following, handle.id)
        super().__init__(self._pod, client.boot_id)
        self.name = handle.id
        """Of the pod, or of the claim that it is for."""
        self.handle = handle
        self.client = client
        self._discard = discard
        self._way_out = way_out

    async def health(self) -> Health:
        """What holds this sandbox, as its first process says."""
        return await self.client.health()

    async def _part(self) -> None:
        self._pod.stop_watching()
        if self._way_out is not None:
            await self._way_out.close()

    async def _release(self) -> None:
        await self._discard(self.name)


class _PodWire:
    """The connection to a pod's sandboxd, and beside it what the cluster says of the pod."""

    def __init__(self, client: Client, following: Following, name: str) -> None:
        self._client = client
        self._following = following
        self._name = name
        self._closed = False
        self._ending = asyncio.create_task(self._end_with_pod())

    async def run(self, request: Mapping[str, object], data: bytes, timeout_s: float, limit: int) -> Result:
        try:
            return await self._client.run(request, data, timeout_s, limit)
        except SandboxLost as lost:
            raise await self._explained(lost) from lost

    async def follow(
        self, request: Mapping[str, object], data: bytes | memoryview, timeout_s: float, limit: int
    ) -> AsyncIterator[bytes | Ended]:
        try:
            async for part in self._client.follow(request, data, timeout_s, limit):
                yield part
        except SandboxLost as lost:
            raise await self._explained(lost) from lost

    def check(self) -> None:
        try:
            self._client.check()
        except SandboxLost as lost:
            raise self._named(lost) from lost

    def close(self, reason: str) -> None:
        self._closed = True
        self._client.close(reason)

    async def wait_closed(self) -> None:
        await self._client.wait_closed()

    def stop_watching(self) -> None:
        self._ending.cancel()

    async def _end_with_pod(self) -> None:
        """A connection to a node that is gone would break only much later."""
        state = await self._following.until(self._name, lambda state: state.over)
        self._client.close(state.detail)

    async def _explained(self, lost: SandboxLost) -> SandboxLost:
        if not self._closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WORD_S):
                    await self._following.until(self._name, lambda state: state.over)
        return self._named(lost)

    def _named(self, lost: SandboxLost) -> SandboxLost:
        state = self._following.state(self._name)
        return lost if self._closed or not state.over else loss(self._name, state)


def loss(name: str, state: PodState) -> SandboxLost:
    """The error for a pod that is over."""
    words = f"the pod {name} is over: {state.detail}"
    match state.cause:
        case Cause.EVICTED:
            return SandboxEvicted(f"{words}; its node needed the room, or it took more than it had asked for")
        case Cause.NODE_LOST:
            return MachineLost(f"{words}; its node is gone")
        case Cause.DEADLINE:
            return LifetimeOver(f"{words}; ask for a longer lifetime")
    return SandboxLost(words)
