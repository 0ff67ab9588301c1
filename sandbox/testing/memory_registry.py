"""A registry in memory."""

from collections.abc import Sequence

from sandbox.registry import Record


class MemoryRegistry:
    """A :class:`sandbox.registry.Registry` that ends with its process."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    async def put(self, record: Record) -> None:
        self._records[record.id] = record

    async def get(self, id: str) -> Record | None:  # noqa: A002  # the field's name
        return self._records.get(id)

    async def all(self) -> Sequence[Record]:
        return list(self._records.values())

    async def assign(self, id: str, run: str, tenant: str) -> None:  # noqa: A002
        self._change(id, run=run, tenant=tenant)

    async def hand_over(self, id: str, owner: str, lease_until: float) -> None:  # noqa: A002
        self._change(id, owner=owner, lease_until=lease_until)

    async def release(self, id: str, owner: str, lease_until: float) -> None:  # noqa: A002
        if id in self._records and self._records[id].owner == owner:
            self._change(id, owner="", lease_until=lease_until)

    async def renew(self, owner: str, lease_until: float) -> None:
        for record in await self.all():
            if record.owner == owner:
                self._change(record.id, lease_until=lease_until)

    async def forget(self, id: str) -> None:  # noqa: A002
        self._records.pop(id, None)

    def _change(self, id_: str, **values: object) -> None:
        if id_ in self._records:
            self._records[id_] = self._records[id_].model_copy(update=values)
