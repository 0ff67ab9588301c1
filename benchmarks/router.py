"""How much of their prompts conversations find in a cache when several model servers stand behind the gateway smg.

    python -m benchmarks.router --servers 2 --conversations 64 --turns 16

Servers and gateway are processes on this machine, the model is mimo-v2-nano, the client is the agent's own. Each
conversation begins with the same words and goes on with its own; each answer has one token. Beside the policy that the
chart has, servers by turns are tried, which is what no routing key means.
"""

import argparse
import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from agent.config import ModelSettings
from agent.model import HttpModel, open_model
from agent.types import Message, ModelOptions, Usage

KEY = "benchmark"
POLICY = "consistent_hashing"
MODEL = "mimo-v2-nano"
_START_S = 300.0
_GATEWAY = Path(__file__).parents[1] / "helm" / "files" / "router.py"
"""As the chart starts it."""


@dataclass(slots=True)
class Server:
    """A model server that can be killed and started again at its address."""

    url: str
    process: asyncio.subprocess.Process

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def start_again(self) -> None:
        self.process = await _serve(self.port)


@asynccontextmanager
async def servers(count: int) -> AsyncIterator[list[Server]]:
    """Embedded model servers that answer."""
    started: list[Server] = []
    try:
        for _ in range(count):
            port = free_port()
            started.append(Server(f"http://127.0.0.1:{port}", await _serve(port)))
        for server in started:
            await answers(f"{server.url}/health")
        yield started
    finally:
        for server in started:
            await _end(server.process)


@asynccontextmanager
async def gateway(arguments: Sequence[str], prometheus_port: int = 0) -> AsyncIterator[str]:
    """The address of smg, which has all servers that its arguments name, once it answers.

    Its series are at that port; 0: at any.
    """
    port = free_port()
    command = [
        *arguments,
        "--host=127.0.0.1",
        f"--port={port}",
        f"--prometheus-port={prometheus_port or free_port()}",
        "--log-level=error",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(_GATEWAY), *command, env=_environment(), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await answers(f"http://127.0.0.1:{port}/readiness")
        yield f"http://127.0.0.1:{port}"
    finally:
        await _end(process)


@asynccontextmanager
async def client(url: str) -> AsyncIterator[HttpModel]:
    """The agent's own client of a gateway or a server."""
    settings = ModelSettings.model_validate({"url": f"{url}/v1", "name": MODEL, "api_key": KEY})
    async with open_model(settings) as model:
        yield model


async def converse(model: HttpModel, number: int, num_turns: int) -> Usage:
    """What the turns of a conversation cost."""
    rules = "You repair programs. " + "Read before you write, and run the tests. " * 10
    question = f"Task {number}: " + f"the function f{number} returns {number} too much. " * 6
    messages: list[Message] = [{"role": "system", "content": rules}, {"role": "user", "content": question}]
    used = Usage()
    for turn in range(num_turns):
        answer = await model.complete(messages, [], ModelOptions(max_tokens=1, temperature=0, thinking=False))
        used += answer.usage
        said: Message = {"role": "assistant", "content": answer.message.content or "..."}
        messages += [said, {"role": "user", "content": f"Result {turn}: " + "a line of output " * 3}]
    return used


async def converse_all(model: HttpModel, num_conversations: int, num_turns: int) -> Usage:
    """The same of many conversations, eight at once."""
    slots = asyncio.Semaphore(8)

    async def one(number: int) -> Usage:
        async with slots:
            return await converse(model, number, num_turns)

    return sum(await asyncio.gather(*map(one, range(num_conversations))), start=Usage())


async def answers(url: str) -> None:
    """Wait until it does."""
    deadline = time.monotonic() + _START_S
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {KEY}"}) as http:
        while time.monotonic() < deadline:
            try:
                if (await http.get(url)).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
    raise TimeoutError(f"{url} does not answer")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


async def _serve(port: int) -> asyncio.subprocess.Process:
    command = ("-m", "model_server", f"--checkpoint={MODEL}", f"--port={port}")
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, env=_environment(), stderr=asyncio.subprocess.DEVNULL
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "MIMO_MODEL_API_KEY": KEY, "OMP_NUM_THREADS": "1"}


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _measure(num_servers: int, num_conversations: int, num_turns: int) -> None:
    print("policy | requests | prompt tokens | from the cache | s")
    for policy in (POLICY, "round_robin"):
        async with AsyncExitStack() as stack:
            behind = await stack.enter_async_context(servers(num_servers))
            urls = [server.url for server in behind]
            told = (f"--policy={policy}", "--worker-startup-check-interval=1")
            url = await stack.enter_async_context(gateway([*told, "--worker-urls", *urls]))
            model = await stack.enter_async_context(client(url))
            begun = time.monotonic()
            used = await converse_all(model, num_conversations, num_turns)
        share = used.cached_tokens / used.prompt_tokens
        requests, took_s = num_conversations * num_turns, time.monotonic() - begun
        print(f"{policy} | {requests} | {used.prompt_tokens} | {share:.3f} | {took_s:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=16)
    given = parser.parse_args()
    asyncio.run(_measure(given.servers, given.conversations, given.turns))


if __name__ == "__main__":
    main()
