"""Those who read and write at the same moment, and the connections that there are for them."""

import asyncio

import pytest
from sqlalchemy.pool import QueuePool

from agent.store.sql import SqlStore

pytestmark = pytest.mark.anyio


async def test_who_waits_for_a_connection_goes_before_all_who_come_later(store: SqlStore) -> None:
    pool = store.database.engine.pool
    assert isinstance(pool, QueuePool)
    num_reading, order = asyncio.Semaphore(0), list[str]()
    leave = [asyncio.Event() for _ in range(pool.size())]

    async def stay(until: asyncio.Event) -> None:
        async with store.database.reading():
            num_reading.release()
            await until.wait()

    async def read(name: str) -> None:
        async with store.database.reading():
            order.append(name)

    staying = [asyncio.ensure_future(stay(each)) for each in leave]
    for _ in staying:
        await num_reading.acquire()
    reading = [asyncio.ensure_future(read("waited"))]
    await asyncio.sleep(0)  # It asks now, and all connections are taken.
    leave[0].set()
    while not order:
        reading.append(asyncio.ensure_future(read("came later")))
        await asyncio.sleep(0)
    for each in leave:
        each.set()
    await asyncio.gather(*staying, *reading)

    assert order[0] == "waited"
