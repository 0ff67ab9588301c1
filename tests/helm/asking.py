"""Ask for addresses from inside a sandbox that is made as the worker makes them; to be run in a worker's container.

python asking.py URL...   prints one JSON object: address -> what was answered, null where nothing was
"""

import asyncio
import json
import os
import sys

from sandbox.backends import open_backend
from sandbox.config import sandbox_settings
from sandbox.types import Command, Exited, NetworkMode, SandboxSpec

_ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).status)"


async def main(addresses: list[str]) -> None:
    settings = sandbox_settings(os.environ)
    backend = open_backend("kubernetes", settings)
    try:
        spec = SandboxSpec(network=NetworkMode.PROXY, allow_hosts=settings.egress.allow_hosts)
        sandbox = await backend.acquire(spec)
        answers: dict[str, int | None] = {}
        for address in addresses:
            outcome = await sandbox.exec(Command(f"python3 -c '{_ASK}' {address}", address[-20:], 120.0))
            assert isinstance(outcome, Exited), outcome
            answers[address] = int(outcome.output) if outcome.code == 0 else None
        print(json.dumps(answers))
    finally:
        await backend.close()


asyncio.run(main(sys.argv[1:]))
