"""Whose a sandbox is: the first to come sets its key, and everybody later proves to know it."""

import asyncio
import hashlib
import hmac
import secrets
from contextlib import suppress

from sandbox.errors import SandboxLost, SandboxTaken
from sandbox.wire.dial import Dial
from sandbox.wire.link import Breach, Link, LinkLost, closed_on_failure

_VERSION = 1
_ANSWER_S = 20.0
_BACK_AFTER_S = (0.0, 0.1, 0.3, 1.0, 3.0)


async def claim(
    dial: Dial, *, lease_s: float, lifetime_s: float, memory_bytes: int, ready_s: float
) -> tuple[bytes, Link]:
    """The key of a new sandbox, and a connection to it; see :meth:`sandbox.wire.client.Client.claim`."""
    key = secrets.token_bytes(32)
    hello = {"op": "hello", "version": _VERSION, "key": key.hex(), "memory_bytes": memory_bytes}
    try:
        async with asyncio.timeout(ready_s):
            with closed_on_failure(Link(*await _first_connection(dial))) as link:
                answer, _ = await link.ask({**hello, "lease_s": lease_s, "lifetime_s": lifetime_s})
                if answer.error is not None:
                    raise SandboxLost(f"the sandbox refuses us: {answer.error}; somebody else may have come first")
    except TimeoutError as error:
        raise SandboxLost(f"the sandbox was not ready within {ready_s:.0f} seconds") from error
    except (LinkLost, Breach) as error:
        raise SandboxLost(f"the sandbox ended before it was ready ({error})") from error
    return key, link


async def attach(dial: Dial, key: bytes, boot_id: str, term: int) -> Link:
    """A new connection to a sandbox that is ours, unless somebody of a later term has it.

    Raises:
        SandboxLost: nobody is there any more, or somebody else.
    """
    reason: object = "no answer"
    for pause in _BACK_AFTER_S:
        await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await _prove(Link(*await dial()), key, boot_id, term)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise SandboxLost("the sandbox ended") from error  # nobody listens: trying again will not help
        except (OSError, LinkLost) as error:
            reason = error
        except Breach as error:
            raise SandboxLost("the sandbox broke the protocol") from error
    raise SandboxLost(f"the sandbox cannot be reached: {reason}")


async def _first_connection(dial: Dial) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A sandbox that is being started does not listen at once; nobody tells us when it does."""
    while True:
        with suppress(OSError):
            return await dial()
        await asyncio.sleep(0.002)


async def _prove(link: Link, key: bytes, boot_id: str, term: int) -> Link:
    """Both ends prove that they know the key, and neither says it."""
    with closed_on_failure(link):
        ours = secrets.token_hex(32)
        answer, _ = await link.ask({"op": "attach", "version": _VERSION, "nonce": ours})
        if answer.boot != boot_id:
            raise SandboxLost("the sandbox ended, and another has taken its place")
        expected = _proof(key, "sandbox", boot_id, ours, answer.nonce)
        if answer.error is not None or not hmac.compare_digest(answer.proof, expected):
            raise SandboxLost("whoever answers in the sandbox's place does not know its key")
        proof = _proof(key, "client", boot_id, ours, answer.nonce)
        answer, _ = await link.ask({"op": "prove", "version": _VERSION, "proof": proof, "term": term})
        if answer.error == "taken":
            raise SandboxTaken("somebody else has taken the sandbox over")
        if answer.error is not None:
            raise SandboxLost(f"the sandbox refuses us: {answer.error}")
    return link


def _proof(key: bytes, *parts: str) -> str:
    return hmac.new(key, b"".join(part.encode() + b"\0" for part in parts), hashlib.sha256).hexdigest()
