"""A sandbox is made, held as the settings say, runs a command and ends: test of an installation, as the worker does it.

Before the first sandbox, the backend tries what can be reached from inside one, and refuses where that is anything.
"""

import asyncio
import os

from sandbox.backends import open_backend
from sandbox.config import sandbox_settings
from sandbox.types import Command, Exited, SandboxSpec


async def main() -> None:
    backend = open_backend("kubernetes", sandbox_settings(os.environ))
    try:
        sandbox = await backend.acquire(SandboxSpec())
        outcome = await sandbox.exec(Command("id -u", "installed", 20.0))
        await sandbox.close()
        assert isinstance(outcome, Exited), outcome
        assert outcome.code == 0, outcome
        print(f"a sandbox ran a command as user {outcome.output.decode().strip()}")
    finally:
        await backend.close()


asyncio.run(main())
