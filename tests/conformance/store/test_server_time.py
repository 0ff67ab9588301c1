"""Whose clock counts where the processes of a service run on several machines: that of their Postgres."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from agent.errors import LeaseLost
from agent.identity import DEFAULT_PROJECT
from agent.store.base import RunResult
from agent.store.open import open_store
from agent.types import Status, TaskRequest
from tests.postgres import PostgresServer

pytestmark = pytest.mark.anyio

REQUEST = TaskRequest(repository="/repository", problem_statement="Repair it.")

_MOVED = """
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql
    RETURN pg_catalog.clock_timestamp() + (SELECT by_s FROM public.moved) * interval '1 second'
"""


class Server:
    """A database whose clock is not that of the machine of this process."""

    def __init__(self, url: str, ahead: timedelta) -> None:
        self.url = url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE moved AS SELECT CAST(%s AS float) AS by_s", [ahead.total_seconds()])
            connection.execute(_MOVED)
            named = sql.Identifier(connection.info.dbname)
            connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = public, pg_catalog").format(named))

    def pass_time(self, seconds: float) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("UPDATE moved SET by_s = by_s + %s", [seconds])


@pytest.fixture(params=[timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
def server(request: pytest.FixtureRequest, postgres: PostgresServer) -> Server:
    return Server(postgres.new_database(), request.param)


async def test_worker_whose_clock_is_an_hour_off_neither_steals_a_run_nor_keeps_one(server: Server) -> None:
    async with open_store(server.url) as first, open_store(server.url) as second:
        task = await first.of(DEFAULT_PROJECT).submit(REQUEST)
        claim = await first.claim("first", 300)
        assert claim is not None
        server.pass_time(290)
        assert await second.claim("second", 300) is None
        await first.renew(claim.run_id, claim.generation, 300)
        server.pass_time(290)
        assert await second.claim("second", 300) is None
        server.pass_time(20)

        again = await second.claim("second", 300)

        assert again is not None
        assert (again.run_id, again.generation) == (claim.run_id, 2)
        with pytest.raises(LeaseLost):
            await first.renew(claim.run_id, claim.generation, 300)
        ended = await second.finish(again.run_id, again.generation, RunResult(status=Status.SUCCEEDED))
        log = await first.of(DEFAULT_PROJECT).events(task.id)
    off = abs(log[0].at - datetime.now(UTC))
    assert timedelta(minutes=50) < off < timedelta(minutes=70)
    assert ended.duration_s is not None
    assert 600 <= ended.duration_s < 700


async def test_key_expires_when_the_server_says(server: Server) -> None:
    async with open_store(server.url) as store:
        with psycopg.connect(server.url) as connection:
            now = connection.execute("SELECT clock_timestamp()").fetchone()
        assert now is not None
        expires_at = now[0] + timedelta(seconds=300)
        _, token = await store.identities.create_key(
            DEFAULT_PROJECT, "mine", frozenset({"tasks:read"}), created_by="me", expires_at=expires_at
        )
        assert await store.identities.key_of(token) is not None
        server.pass_time(301)
        assert await store.identities.key_of(token) is None
