"""Tells other services of events, signed after the Standard Webhooks specification (standardwebhooks.com).

What is to be sent are rows of the store, written with the event they tell of; so nothing is lost and, since an answer
may be, some things are said twice. The body is thin: what happened to which task, never its contents.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx

from agent.errors import SettingsError
from agent.integrations.addresses import ForbiddenAddress, Network, resolve
from agent.store.webhooks import Delivery, Outcome, Webhooks

logger = logging.getLogger(__name__)

_TIMEOUT_S = 15.0
_LEASE_S = 60.0
"""A sender that says nothing for so long is gone, and another one sends: four times the timeout."""
_IDLE_S = 1.0
_AT_ONCE = 16
_AT_ONCE_TO_ONE = 4
"""Messages to one service: where it is slow, the others are told all the same."""
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 6 * 3600.0
_MAX_TRIES = 20
"""That make a pause longer."""
_MAX_ERROR_CHARS = 500


class Sender:
    """Sends what is due. Any number may run over one store."""

    def __init__(self, webhooks: Webhooks, *, allowed: tuple[Network, ...] = (), timeout_s: float = _TIMEOUT_S) -> None:
        """
        Args:
            allowed: networks that may be called although they are not on the public internet.
            timeout_s: for a service to answer.
        """
        self._webhooks = webhooks
        self._allowed = allowed
        self._timeout_s = timeout_s

    async def run(self) -> None:
        """Send until cancelled."""
        async with self._sending() as sending:
            while True:
                try:
                    num_begun = await self._begin_due(sending)
                except Exception:  # The outermost loop: a database that is away comes back.
                    logger.exception("action=send_failed")
                    num_begun = 0
                if sending.free <= 0:
                    await sending.one_ended()
                elif not num_begun:
                    await asyncio.sleep(_IDLE_S)

    async def drain(self) -> int:
        """Send what is due now, each once; how many that were."""
        num_sent = 0
        async with self._sending() as sending:
            while (num_begun := await self._begin_due(sending)) or sending.num:
                num_sent += num_begun
                if not num_begun or sending.free <= 0:
                    await sending.one_ended()
        return num_sent

    @asynccontextmanager
    async def _sending(self) -> AsyncIterator["_Sending"]:
        async with _client(self._timeout_s) as http:
            sending = _Sending(http)
            try:
                yield sending
            finally:
                await sending.stop()

    async def _begin_due(self, sending: "_Sending") -> int:
        most = min(_AT_ONCE_TO_ONE, sending.free)
        due = await self._webhooks.take_due(most, timedelta(seconds=_LEASE_S), besides=sending.busy)
        for delivery in due:
            sending.begin(delivery, self._deliver(sending.http, delivery))
        return len(due)

    async def _deliver(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        begun = time.monotonic()
        try:
            status, error = await self._post(http, delivery), None
        except SettingsError as failure:
            status, error = None, str(failure)[:_MAX_ERROR_CHARS]
        except (httpx.HTTPError, httpx.InvalidURL, ForbiddenAddress, TimeoutError) as failure:
            status, error = None, f"{type(failure).__name__}: {failure}"[:_MAX_ERROR_CHARS]
        outcome = Outcome(status=status, error=error, duration_s=time.monotonic() - begun)
        await self._webhooks.record(delivery, outcome, retry_in=_pause(delivery.num_tries))
        logger.info(
            "action=deliver webhook=%s delivery=%s try=%d status=%s error=%r",
            *(delivery.webhook_id, delivery.id, delivery.num_tries, status, error),
        )

    async def _post(self, http: httpx.AsyncClient, delivery: Delivery) -> int:
        """The answer's status; what else it says is not read."""
        url, secret = httpx.URL(delivery.url), self._webhooks.secret_of(delivery)
        async with asyncio.timeout(self._timeout_s):
            plain = url.scheme != "https"
            address = await resolve(url.host, url.port or (80 if plain else 443), self._allowed, plain=plain)
            body = json.dumps(delivery.body, separators=(",", ":")).encode()
            headers = {
                "Host": url.netloc.decode(),
                "Content-Type": "application/json",
                "User-Agent": "mimo-coder",
                **sign(secret, delivery.id, int(time.time()), body),
            }
            extensions: dict[str, Any] = {"sni_hostname": url.host}
            request = http.build_request(
                "POST", url.copy_with(host=address), content=body, headers=headers, extensions=extensions
            )
            response = await http.send(request, stream=True)
            await response.aclose()
        return response.status_code


class _Sending:
    """Messages under way."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self._under_way: dict[asyncio.Task[None], str] = {}
        """With the webhook of each."""

    @property
    def num(self) -> int:
        return len(self._under_way)

    @property
    def free(self) -> int:
        """How many more may go."""
        return _AT_ONCE - self.num

    @property
    def busy(self) -> set[str]:
        """Webhooks that get no more for now."""
        return {its for its, num in Counter(self._under_way.values()).items() if num >= _AT_ONCE_TO_ONE}

    def begin(self, delivery: Delivery, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way[task] = delivery.webhook_id
        task.add_done_callback(self._end)

    async def one_ended(self) -> None:
        await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Break off those under way: they are sent again."""
        tasks = tuple(self._under_way)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("action=send_failed error=%r", error, exc_info=error)


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks (section "Signature scheme": HMAC-SHA256 of id, time and body).

    Args:
        secret: ``whsec_`` and the key in base64.
        timestamp: seconds since 1970; receivers refuse what is older than some minutes.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def _client(timeout_s: float) -> httpx.AsyncClient:
    # No proxy of the environment and no redirect: both would lead past the check of the address.
    return httpx.AsyncClient(timeout=timeout_s, trust_env=False, follow_redirects=False)


def _pause(num_tries: int) -> timedelta:
    """Before the next try: doubling, and spread so that many do not come back at once."""
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 3.0 ** min(num_tries, _MAX_TRIES))
    return timedelta(seconds=pause_s * random.uniform(0.8, 1.2))
