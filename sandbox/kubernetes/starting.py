"""From a pod that was asked for to a sandbox that serves, or to why it never will."""

import asyncio
from collections.abc import Awaitable, Callable

from sandbox.errors import ImageMismatch, NoRoom, SandboxError, SandboxUnavailable, UnknownImage
from sandbox.kubernetes.following import Following
from sandbox.kubernetes.sandbox import loss
from sandbox.kubernetes.state import Cause, PodState
from sandbox.wire.client import Client
from sandbox.wire.dial import Dial

_CONNECT_S = 1.0
"""Where packets were dropped until a moment ago, it is quicker to begin anew than to wait for the kernel to do so."""
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.25


async def first_contact(
    following: Following, name: str, port: int, claim: Callable[[Dial], Awaitable[Client]]
) -> tuple[Client, str]:
    """Claim a pod as soon as it serves; also says its address.

    The cluster tells of a container that runs up to a second late (the kubelet looks once a second), so we knock from
    when there is an address.

    Raises:
        Unstarted: the cluster says that it will not come to serve.
        SandboxLost: it serves somebody else.
    """

    async def knock() -> tuple[Client, str]:
        state = await following.until(name, lambda state: bool(state.address))
        assert state.address is not None, state
        return await claim(_Door(state.address, port)), state.address

    knocking = asyncio.create_task(knock())
    failing = asyncio.create_task(following.until(name, _is_hopeless))
    try:
        await asyncio.wait({knocking, failing}, return_when=asyncio.FIRST_COMPLETED)
        if not knocking.done():
            raise Unstarted(failing.result())
        return knocking.result()
    finally:
        knocking.cancel()
        failing.cancel()


class Unstarted(Exception):
    """The cluster says that a pod will not come to serve."""

    def __init__(self, state: PodState) -> None:
        super().__init__(state.detail)
        self.state = state


def failure(name: str, state: PodState, image: str) -> SandboxError:
    """The error for a pod that did not come to serve, with what to do."""
    if state.over:
        return SandboxUnavailable(f"{loss(name, state)}; before it served")
    match state.cause:
        case Cause.NO_IMAGE if "@" in image:
            return ImageMismatch(f"no image {image!r} is to be had: none of that name has this digest ({state.detail})")
        case Cause.NO_IMAGE:
            return UnknownImage(
                f"no image {image!r} is to be had ({state.detail}); push it to where the nodes fetch images from"
            )
        case Cause.PULL:
            return NoRoom(
                f"the image {image!r} did not come ({state.detail}); see that the nodes reach its registry and may "
                "read it (imagePullSecrets of the pods' account), then try again"
            )
        case Cause.UNSCHEDULABLE:
            return NoRoom(f"no node has room for another sandbox ({state.detail}); wait, or add nodes")
        case Cause.FULL:
            return NoRoom(f"the namespace is full: {state.detail}; wait for others to end, or raise its quota")
    return SandboxUnavailable(f"the pod {name} does not come to serve: {state.detail or 'nothing is said of it'}")


def _is_hopeless(state: PodState) -> bool:
    """Waiting will not help. Room on a node may come, and so may an image that did not come at once."""
    return state.over or state.cause in (Cause.NO_IMAGE, Cause.REFUSED, Cause.FULL)


class _Door:
    """Opens connections to a pod, slower and slower as long as nobody listens."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._pause_s = _FIRST_PAUSE_S

    async def __call__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(_CONNECT_S):
                connection = await asyncio.open_connection(self._host, self._port)
        except OSError:
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(_LONGEST_PAUSE_S, 1.1 * self._pause_s)
            raise
        self._pause_s = _FIRST_PAUSE_S
        return connection
