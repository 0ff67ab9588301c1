"""A service for as long as a measurement or the demo takes: ``mimo serve`` in a process of its own."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from agent.cli.children import Child, Command, describe_code, free_port, module
from agent.cli.failure import ExitCode, Failure
from agent.config import ModelSettings

_START_S = 360.0
"""Somewhat longer than the service itself waits for its model server, so that its reason is heard."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What the service shall be like."""

    model: ModelSettings
    checkpoint: str | None
    """Model that an embedded server shall serve; None where ``model`` says who is asked."""
    num_workers: int
    data: Path

    @property
    def model_name(self) -> str:
        return self.checkpoint or self.model.name


@asynccontextmanager
async def running_service(options: ServiceOptions) -> AsyncIterator[str]:
    """Yields the address of the service; ends it, and everything it started, at the end.

    Raises:
        Failure: it does not start; holds its last words.
    """
    port = free_port()
    asked = () if options.checkpoint else ("--model-url", options.model.url)
    arguments = (
        *("serve", "--quiet", "--port", str(port), "--data", str(options.data)),
        *("--workers", str(options.num_workers), "--model", options.model_name, *asked),
    )
    command = Command("service", module("agent.cli.app", *arguments), options.data / "logs" / "service.log")
    child = await Child.start(command)
    try:
        url = f"http://127.0.0.1:{port}"
        await _wait_ready(child, url)
        yield url
    finally:
        await child.end()


def api_key() -> str | None:
    """The key that a service of this environment asks for."""
    return os.environ.get("MIMO_API_KEY") or None


async def _wait_ready(child: Child, url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=5.0, trust_env=False) as http:
        for _ in range(int(_START_S / 0.2)):
            if child.ended is not None:
                raise Failure(
                    ExitCode.FAILED,
                    f"the service ended ({describe_code(child.ended)}):\n{child.last_words()}",
                    "correct what it names",
                )
            with suppress(httpx.TransportError):
                if (await http.get("/readyz")).is_success:
                    return
            await asyncio.sleep(0.2)
    raise Failure(
        ExitCode.RETRYABLE, f"the service was not ready after {_START_S:g} s; its output is in {child.command.log}"
    )
