"""How an application is served, whichever process does it."""

import asyncio
import gc
import logging

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.api.gate import BODY_LIMIT_BYTES

logger = logging.getLogger(__name__)


class Connection(H11Protocol):
    """Hangs up on a client that does not say what it wants: uvicorn waits for ever, and files are not endless."""

    head_s = 20.0
    """From the connection, or the first byte of a further request, to the end of a request's head, s."""
    body_s = 120.0
    """From there to the end of its body, s."""

    _awaited: object = None
    """The part of a request that is to come, as h11 names it."""
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_rest()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        super().connection_lost(exc)

    def _await_rest(self) -> None:
        is_ours = self.transport.get_protocol() is self  # It is not once it is a WebSocket.
        self._await(self.conn.their_state if is_ours else None)

    def _await(self, part: object) -> None:
        if part is self._awaited:
            return
        if self._patience is not None:
            self._patience.cancel()
        self._awaited = part
        waits_s: dict[object, float] = {h11.IDLE: self.head_s, h11.SEND_BODY: self.body_s}
        wait_s = waits_s.get(part)
        self._patience = None if wait_s is None else self.loop.call_later(wait_s, self._hang_up)

    def _hang_up(self) -> None:
        logger.info("action=hang_up reason=slow awaited=%s", self._awaited)
        self.transport.close()


def server_settings(
    app: FastAPI,
    *,
    stop_s: int,
    host: str = "127.0.0.1",
    port: int = 8000,
    connection: type[Connection] = Connection,
) -> uvicorn.Config:
    """
    Args:
        stop_s: requests have so long to end when the server stops, s.
        connection: how long it waits for clients.
    """
    return uvicorn.Config(
        app,
        http=connection,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=stop_s,
        ws_max_size=BODY_LIMIT_BYTES,
        ws_per_message_deflate=False,  # A message would be bounded only after it was unpacked.
    )


def collect_rarely() -> None:
    """Have the garbage collector leave alone what is there from the start, and look at what has lived for long twenty
    times more rarely than it does by itself: beside a thousand readers that takes 0.3 s, in which none of them hears
    anything. What dies young is found as before."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 200)
