"""Whether SGLang generates, which is more than that it listens: a server whose scheduler died still answers."""

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing

import anyio

from model_server.types import Engine, EngineError, GenerateRequest, SamplingParams

logger = logging.getLogger(__name__)

START_BUDGET_S = 3600.0
"""315 GB of weights from a slow disk take ten minutes, and a first compilation of kernels twenty more."""
_PROBE_S = 60.0
"""One token, behind whatever else runs."""


class SGLangFailed(Exception):
    """SGLang did not come up, or ended by itself; the message says why."""


async def problem(engine: Engine, timeout_s: float = _PROBE_S) -> str | None:
    """What keeps the engine from generating a token now; None if it generated one."""
    probe = GenerateRequest(f"probe-{uuid.uuid4().hex}", (0,), SamplingParams(temperature=0.0, max_tokens=1))
    try:
        with anyio.fail_after(timeout_s):
            async with aclosing(engine.generate(probe)) as events:
                async for _ in events:
                    return None
    except EngineError as error:
        return str(error)
    except TimeoutError:
        return f"no token came in {timeout_s:g} s"
    return "no token came"


async def until_generating(
    engine: Engine,
    *,
    is_alive: Callable[[], bool] = lambda: True,
    budget_s: float = START_BUDGET_S,
    interval_s: float = 2.0,
    probe_s: float = _PROBE_S,
) -> float:
    """Wait for the first token; returns how long it took, s.

    Raises:
        SGLangFailed: the budget is over, or the process is.
    """
    started, last = time.monotonic(), ""
    while (found := await problem(engine, probe_s)) is not None:
        if not is_alive():
            raise SGLangFailed("SGLang ended while it started: see its log")
        if time.monotonic() - started > budget_s:
            raise SGLangFailed(f"SGLang generated nothing in {budget_s:g} s: {found}")
        if found != last:
            logger.info("sglang.waiting reason=%s", found)
        last = found
        await anyio.sleep(interval_s)
    return time.monotonic() - started
