"""What a worker has of a Ray cluster that is elsewhere: run as a program.

    python -m tests.integration.sandbox.ray_worker FOLDER [--alone]

Starts a cluster, works in it, ends it, starts another at the same address, and works on; prints one JSON object, and
waits in the middle of other work until it is killed. Or asks where there is none, and prints what it is told. A program
of its own, since Ray leaves threads and settings in the process that uses it.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from sandbox.config import LocalSettings, SandboxSettings
from sandbox.errors import SandboxUnavailable
from sandbox.toolbox.calls import Caller
from sandbox.toolbox.config import RaySettings
from sandbox.toolbox.open import open_on_ray
from sandbox.toolbox.toolbox import Toolbox
from sandbox.types import Command, Exited, SandboxSpec

LARGE = 3_000_000
LEASE_S = 6.0
NUM_HELD = 3


@contextmanager
def head(folder: Path, port: int, port_of_clients: int) -> Iterator[int]:
    """A cluster of one machine, which ends as when its machine is lost; the process group of all that belongs to it."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"),
        *(f"--port={port}", f"--ray-client-server-port={port_of_clients}", "--node-ip-address=127.0.0.1"),
        *("--num-cpus=0", "--object-store-memory=100000000", f"--temp-dir={folder}", "--disable-usage-stats"),
    ]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for attempt in Retrying(
            retry=retry_if_exception_type(OSError), stop=stop_after_delay(180), wait=wait_fixed(0.2)
        ):
            with attempt:
                socket.create_connection(("127.0.0.1", port_of_clients)).close()
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked to end, it takes half a minute for its clients' sake
        process.wait(60)


async def work(toolbox: Toolbox, run: str) -> dict[str, object]:
    """What a command says in a sandbox of this run, and how much comes back of a large file."""
    async with toolbox.of(Caller(run, "job", "tenant")) as tools:
        sandbox = await tools.acquire(SandboxSpec())
        await sandbox.write("/workspace/large", bytes(LARGE))
        outcome = await sandbox.exec(Command("echo from a sandbox; wc -c < large", "once", 60))
        assert isinstance(outcome, Exited), outcome
        return {"output": outcome.output.decode(), "read": len(await sandbox.read("/workspace/large"))}


async def hold(toolbox: Toolbox, told: dict[str, object]) -> None:
    """Have commands run in some sandboxes, and print what there is to tell once they do."""
    async with toolbox.of(Caller("held", "job", "tenant")) as tools:
        sandboxes = [await tools.acquire(SandboxSpec()) for _ in range(NUM_HELD)]
        running = [asyncio.ensure_future(each.exec(Command("sleep 600", "held", 900))) for each in sandboxes]
        print(json.dumps(told), flush=True)
        await asyncio.gather(*running)


def settings_of(folder: Path) -> SandboxSettings:
    """Of the worker in this folder and its executors."""
    return SandboxSettings(local=LocalSettings(lease_s=LEASE_S, sockets=folder / "s"))


async def main(folder: Path, *, alone: bool) -> None:
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(32).hex(),
        "GRPC_ENABLE_FORK_SUPPORT": "0",  # as the chart says
        # Machines that run tests are slow.
        "RAY_raylet_start_wait_time_s": "180",
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "180",
    }
    port, port_of_clients = free_ports(2)
    settings = RaySettings(address=f"ray://127.0.0.1:{port_of_clients}", executors=1)
    opening = open_on_ray("local", settings_of(folder), settings, f"sqlite:///{folder}/sandboxes.db")
    if alone:
        try:
            async with opening:
                raise AssertionError("somebody answers")
        except SandboxUnavailable as error:
            print(error)
        return
    with ExitStack() as first:
        first.enter_context(head(folder / "1", port, port_of_clients))
        async with opening as toolbox:
            before = await work(toolbox, "before")
            first.close()
            with head(folder / "2", port, port_of_clients) as group:
                told = {"before": before, "after": await work(toolbox, "after"), "cluster": group}
                await hold(toolbox, told)


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in taken]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), alone="--alone" in sys.argv))
