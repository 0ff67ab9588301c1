"""SGLang as a child process, for machines without Kubernetes."""

import asyncio
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress

from model_server.sglang.arguments import Launch
from model_server.sglang.health import SGLangFailed

logger = logging.getLogger(__name__)

COMMAND = ("python3", "-m", "sglang.launch_server")
"""In SGLang's own environment, which is another one than ours."""
DRAIN_S = 900.0
"""The longest turns end within this time, s."""


class SGLangProcess:
    """Runs from ``start`` to ``stop``; may end by itself between them. It logs where we log."""

    def __init__(self, launch: Launch, command: Sequence[str] = COMMAND) -> None:
        self._launch = launch
        self._command = tuple(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    @property
    def is_stopping(self) -> bool:
        """Its end was asked for."""
        return self._is_stopping

    @property
    def is_alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Raises OSError where the program is not there."""
        self._child = subprocess.Popen(
            [*self._command, *self._launch.arguments],
            env={**os.environ, **self._launch.environment},
            stdin=subprocess.DEVNULL,
            stdout=2,  # our standard error, where all logs go
            # Its own group: Ctrl-C at a terminal is for us, who let it drain.
            start_new_session=True,
        )
        logger.info("sglang.started pid=%d", self._child.pid)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._child is not None, "not started"
        return self._child.wait()

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Let it end what runs; what then still lives of it is killed, so that its GPUs are free."""
        if self._child is None:
            return
        self._is_stopping = True
        self._child.terminate()
        try:
            logger.info("sglang.stopped code=%d", self._child.wait(drain_s))
        except subprocess.TimeoutExpired:
            logger.warning("sglang.killed drain_s=%g", drain_s)
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()


@contextmanager
def running(
    process: SGLangProcess,
    until_generating: Callable[[], Coroutine[None, None, float]],
    stop_serving: Callable[[], None],
) -> Iterator[None]:
    """SGLang, for as long as the caller serves in front of it. ``stop_serving`` is called, on a thread, when it does
    not come up or ends by itself.

    Raises:
        OSError: its program is not there.
        SGLangFailed: at the end, where that was why the caller stopped.
    """
    failures: list[str] = []

    def story() -> None:
        try:
            logger.info("sglang.generates seconds=%.1f", asyncio.run(until_generating()))
            raise SGLangFailed(f"SGLang ended by itself with code {process.wait()}")
        except SGLangFailed as error:
            if not process.is_stopping:
                logger.error("sglang.failed reason=%s", error)
                failures.append(str(error))
                stop_serving()

    process.start()
    try:
        threading.Thread(target=story, name="sglang", daemon=True).start()
        yield
    finally:
        process.stop()
    if failures:
        raise SGLangFailed(failures[0])
