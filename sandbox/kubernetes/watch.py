"""Objects of one kind, as the API server last said: one list and one watch, however many sandboxes there are."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Generic

from pydantic import Field, TypeAdapter, ValidationError

from sandbox.errors import SandboxError
from sandbox.kubernetes.cluster import Cluster, Refusal
from sandbox.kubernetes.following import Following
from sandbox.kubernetes.objects import AnyObject, AnyRecord, Change, Listed, WatchError
from sandbox.kubernetes.state import DELETED

_PAGE = 500
_PAUSES_S = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Before a watch that broke is begun again; the last, whenever that goes on."""
_log = logging.getLogger(__name__)


async def list_objects(
    cluster: Cluster, path: str, selector: str, kind: type[AnyObject]
) -> tuple[Sequence[AnyObject], str]:
    """All objects with these labels, and the version from which on a watch misses nothing.

    Raises:
        Refusal, NoRoom: as :meth:`Cluster.ask`.
    """
    objects: list[AnyObject] = []
    more: str = ""
    while True:
        params: dict[str, str | int] = {"labelSelector": selector, "limit": _PAGE}
        params |= {"continue": more} if more else {}
        page = Listed[kind].model_validate_json(await cluster.ask("GET", path, params))  # type: ignore[valid-type]
        objects += page.items
        more = page.metadata.continue_
        if not more:
            return objects, page.metadata.resource_version


class Watch(Generic[AnyRecord]):
    """Tells what objects say of sandboxes, from when it is made."""

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        selector: str,
        kind: type[AnyRecord],
        following: Following,
        *,
        stands_for: Callable[[AnyRecord], str] = lambda each: each.name,
        last: bool = True,
    ) -> None:
        """
        Args:
            stands_for: the name of the object's sandbox.
            last: without such an object, nothing is left of the sandbox.
        """
        self._cluster = cluster
        self._path = path
        self._selector = selector
        self._kind = kind
        self._following = following
        self._stands_for = stands_for
        self._deleted = replace(DELETED, gone=last)
        self._line: TypeAdapter[Change[AnyRecord] | WatchError] = watch_line(kind)
        self._running = asyncio.create_task(self._run())

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
                        event = self._line.validate_json(line)
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
        known = self._following.known_to(self._path)  # any other may only now be made
        objects, version = await list_objects(self._cluster, self._path, self._selector, self._kind)
        names = {self._stands_for(each): each.state() for each in objects}
        for name in known:
            names.setdefault(name, self._deleted)
        for name, state in names.items():
            self._following.say(name, self._path, state)
        return version

    def _take(self, event: Change[AnyRecord]) -> None:
        if event.type == "BOOKMARK":
            return
        state = event.object.state()
        if event.type == "DELETED":
            state = replace(state, gone=self._deleted.gone) if state.over else self._deleted
        self._following.say(self._stands_for(event.object), self._path, state)


def watch_line(kind: type[AnyRecord]) -> TypeAdapter[Change[AnyRecord] | WatchError]:
    """Reads one line of a watch."""
    return TypeAdapter(Annotated[Change[kind] | WatchError, Field(discriminator="type")])  # type: ignore[valid-type,arg-type]
