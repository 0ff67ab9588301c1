"""What a Postgres server calls out (LISTEN), on a connection of its own."""

import asyncio
import logging
from collections.abc import Callable, Mapping

import psycopg
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import URL

CONNECT_TIMEOUT_S = 10

_LISTEN_AGAIN_S = 1.0

_logger = logging.getLogger(__name__)


async def listen(
    url: URL, heard: Mapping[str, Callable[[str], None]], connected: Callable[[bool], None] = lambda is_connected: None
) -> None:
    """Listen until cancelled; a lost connection is made again, and what was called meanwhile is not heard.

    Args:
        heard: what gets the payloads, by channel.
        connected: told when listening begins, and when it ends.
    """
    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(
                conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
            )
            async with connection:
                for channel in heard:
                    await connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
                connected(True)
                async for notification in connection.notifies():
                    heard[notification.channel](notification.payload)
        except (psycopg.OperationalError, ReadOnlySqlTransaction) as error:  # the latter of a standby
            _logger.warning("action=listen_lost error=%r", str(error))
        finally:
            connected(False)
        await asyncio.sleep(_LISTEN_AGAIN_S)
