"""What a command does, to its end: on an event loop, and with a service where it needs one."""

import gc
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from agent.cli.failure import ExitCode, Failure

if TYPE_CHECKING:
    from agent.cli.client import Client

_T = TypeVar("_T")

_ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What ends a command in order, beside SIGINT, which is asyncio's own."""

_DEAF_S = 5.0
"""Longer than an end in order takes; who repeats it then means an end that hangs."""


def with_client(server: str, work: "Callable[[Client], Awaitable[_T]]") -> _T:
    """Do something with a service, and say in plain words where it refuses or does not answer."""
    from agent.cli.client import Client, ServiceProblem, ServiceUnreachable
    from agent.cli.credentials import Credentials
    from agent.cli.home import home
    from agent.cli.login import credential_for
    from agent.cli.task import failure

    async def session() -> _T:
        credential = await credential_for(server, os.environ, Credentials(home(os.environ)))
        async with Client(server, api_key=credential) as client:
            return await work(client)

    try:
        return complete(session())
    except (ServiceProblem, ServiceUnreachable) as error:
        raise failure(error) from error


async def _in_order(work: "Coroutine[Any, Any, _T]") -> _T:
    """Whoever ends the process or closes its terminal has it end as Ctrl-C does. Repeated at once, that is not heard:
    an end that is interrupted leaves a terminal or a store behind as it should not be."""
    import asyncio

    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    heard_at = -math.inf

    def end() -> None:
        nonlocal heard_at
        if loop.time() - heard_at > _DEAF_S:
            heard_at = loop.time()
            task.cancel()

    for number in _ENDING:
        loop.add_signal_handler(number, end)
    try:
        return await work
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def complete(work: "Coroutine[Any, Any, _T]") -> _T:
    import asyncio

    gc.enable()  # The start is over; see ``app.main``.
    in_order = _in_order(work)
    try:
        return asyncio.run(in_order)
    except KeyboardInterrupt as error:
        raise Failure(ExitCode.INTERRUPTED, "interrupted") from error
    except asyncio.CancelledError as error:
        raise Failure(ExitCode.INTERRUPTED, "ended by a signal") from error
    except BrokenPipeError as error:
        # Typer ends without a word, as is right where nobody reads standard output any more.
        if sys.stdout.isatty():
            raise Failure(ExitCode.FAILED, f"a program or a connection ended too early: {error}") from error
        raise
    finally:
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        for begun in (in_order, work):  # Neither was, where Ctrl-C came first; Python would remark upon that.
            begun.close()
