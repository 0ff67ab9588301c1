"""The pods of one service, as the API server last said: one list and one watch, however many sandboxes there are."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from sandbox.errors import SandboxError
from sandbox.kubernetes.cluster import Cluster, Refusal
from sandbox.kubernetes.pod import WATCH_LINE, Cause, Pod, PodChange, PodList, PodState, WatchError

_PAGE = 500
_PAUSES_S = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Before a watch that broke is begun again; the last, whenever that goes on."""
_UNKNOWN = PodState()
_GONE = PodState(over=True, gone=True, cause=Cause.ENDED, detail="it was deleted")
_log = logging.getLogger(__name__)


async def list_pods(cluster: Cluster, path: str, selector: str) -> tuple[Sequence[Pod], str]:
    """All pods with these labels, and the version from which on a watch misses nothing.

    Raises:
        Refusal, NoRoom: as :meth:`Cluster.ask`.
    """
    pods: list[Pod] = []
    more: str = ""
    while True:
        params: dict[str, str | int] = {"labelSelector": selector, "limit": _PAGE}
        params |= {"continue": more} if more else {}
        answer = await cluster.ask("GET", path, params)
        page = PodList.model_validate_json(answer)
        pods += page.items
        more = page.metadata.continue_
        if not more:
            return pods, page.metadata.resource_version


@dataclass(slots=True)
class _Followed:
    state: PodState = _UNKNOWN
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class PodWatch:
    """Follows pods by name, from before they are made until nobody asks any more."""

    def __init__(self, cluster: Cluster, path: str, selector: str) -> None:
        self._cluster = cluster
        self._path = path
        self._selector = selector
        self._pods: dict[str, _Followed] = {}
        self._running = asyncio.create_task(self._run())

    def follow(self, name: str) -> None:
        """From now on; before the pod is made, so that nothing is missed."""
        self._pods[name] = _Followed()

    def forget(self, name: str) -> None:
        self._pods.pop(name, None)

    def state(self, name: str) -> PodState:
        """What is known now; of a pod that is not followed, that it is gone."""
        followed = self._pods.get(name)
        return followed.state if followed else _GONE

    async def until(self, name: str, happened: Callable[[PodState], bool]) -> PodState:
        """The first state of which this is true."""
        while not happened(state := self.state(name)):
            await self._pods[name].changed.wait()
        return state

    async def close(self) -> None:
        self._running.cancel()
        await asyncio.wait({self._running})

    async def _run(self) -> None:
        tries = 0
        version = ""
        while True:
            try:
                await asyncio.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
                tries += 1
                version = version or await self._list()
                async with self._cluster.watch(
                    self._path, labelSelector=self._selector, resourceVersion=version
                ) as lines:
                    async for line in lines:
                        event = WATCH_LINE.validate_json(line)
                        if isinstance(event, WatchError):
                            version = ""  # what came in between is not known any more
                            break
                        version = event.object.metadata.resource_version
                        tries = 0
                        self._take(event)
            except Refusal as error:
                version = ""
                _log.warning("action=watch_refused status=%d reason=%s", error.status, error.reason)
            except (ConnectionError, ValidationError, SandboxError) as error:
                _log.info("action=watch_broken error=%s", str(error)[:200])

    async def _list(self) -> str:
        """Catch up; returns the version from which to go on."""
        asked = set(self._pods)
        pods, version = await list_pods(self._cluster, self._path, self._selector)
        for pod in pods:
            self._set(pod.name, pod.state())
        for name in asked - {pod.name for pod in pods}:
            if name in self._pods and self._pods[name].state != _UNKNOWN:  # else it may only now be made
                self._set(name, _GONE)
        return version

    def _take(self, event: PodChange) -> None:
        if event.type == "DELETED":
            last = event.object.state()
            self._set(event.object.name, replace(last, gone=True) if last.over else _GONE)
        elif event.type != "BOOKMARK":
            self._set(event.object.name, event.object.state())

    def _set(self, name: str, state: PodState) -> None:
        if followed := self._pods.get(name):
            followed.state = state
            followed.changed.set()
            followed.changed = asyncio.Event()
