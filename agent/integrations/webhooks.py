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
from datetime import timedelta
from typing import Any

import httpx

from agent.integrations.addresses import ForbiddenAddress, Network, resolve
from agent.store.webhooks import Delivery, Outcome, Webhooks

logger = logging.getLogger(__name__)

_TIMEOUT_S = 15.0
_LEASE_S = 60.0
"""A sender that says nothing for so long is gone, and another one sends: four times the timeout."""
_IDLE_S = 1.0
_AT_ONCE = 16
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 6 * 3600.0
_MAX_ERROR_CHARS = 500


class Sender:
    """Sends what is due. Any number may run over one store."""

    def __init__(self, webhooks: Webhooks, *, allowed: tuple[Network, ...] = ()) -> None:
        """
        Args:
            allowed: networks that may be called although they are not on the public internet.
        """
        self._webhooks = webhooks
        self._allowed = allowed

    async def run(self) -> None:
        """Send until cancelled."""
        async with _client() as http:
            while True:
                try:
                    num_sent = await self._send_due(http)
                except Exception:  # The outermost loop: a database that is away comes back.
                    logger.exception("action=send_failed")
                    num_sent = 0
                if not num_sent:
                    await asyncio.sleep(_IDLE_S)

    async def drain(self) -> int:
        """Send what is due now, each once; how many that were."""
        num_sent = 0
        async with _client() as http:
            while sent := await self._send_due(http):
                num_sent += sent
        return num_sent

    async def _send_due(self, http: httpx.AsyncClient) -> int:
        due = await self._webhooks.take_due(_AT_ONCE, timedelta(seconds=_LEASE_S))
        await asyncio.gather(*(self._deliver(http, delivery) for delivery in due))
        return len(due)

    async def _deliver(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        begun = time.monotonic()
        try:
            status, error = await self._post(http, delivery), None
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
        url = httpx.URL(delivery.url)
        async with asyncio.timeout(_TIMEOUT_S):
            plain = url.scheme != "https"
            address = await resolve(url.host, url.port or (80 if plain else 443), self._allowed, plain=plain)
            body = json.dumps(delivery.body, separators=(",", ":")).encode()
            headers = {
                "Host": url.netloc.decode(),
                "Content-Type": "application/json",
                "User-Agent": "mimo-coder",
                **sign(delivery.secret, delivery.id, int(time.time()), body),
            }
            extensions: dict[str, Any] = {"sni_hostname": url.host}
            request = http.build_request(
                "POST", url.copy_with(host=address), content=body, headers=headers, extensions=extensions
            )
            response = await http.send(request, stream=True)
            await response.aclose()
        return response.status_code


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


def _client() -> httpx.AsyncClient:
    # No proxy of the environment and no redirect: both would lead past the check of the address.
    return httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False, follow_redirects=False)


def _pause(num_tries: int) -> timedelta:
    """Before the next try: doubling, and spread so that many do not come back at once."""
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 3.0**num_tries)
    return timedelta(seconds=pause_s * random.uniform(0.8, 1.2))
