"""A service of its own that makes a sandbox and is killed while a command runs in it."""

import asyncio
import signal
import subprocess
import sys

from sandbox.config import KubernetesSettings
from sandbox.inventory import Handle
from sandbox.types import SandboxSpec

SERVICE = """
import asyncio, sys
from sandbox.backends import open_backend
from sandbox.config import KubernetesSettings, SandboxSettings
from sandbox.types import Command, SandboxSpec

async def main():
    settings = KubernetesSettings.model_validate_json(sys.argv[1])
    backend = open_backend("kubernetes", SandboxSettings(kubernetes=settings))
    sandbox = await backend.acquire(SandboxSpec.model_validate_json(sys.argv[2]))
    handle = sandbox.handle
    print(handle.id, handle.address, handle.boot_id, handle.key.hex(), flush=True)
    await sandbox.exec(Command(sys.argv[3], "intent-1", 60))

asyncio.run(main())
"""


async def killed_service(settings: KubernetesSettings, spec: SandboxSpec, line: str, **changes: object) -> Handle:
    """What the next service has to know of the sandbox. Its command has the id ``intent-1``."""
    given = settings.model_copy(update={"accept_open_network": True, **changes}).model_dump_json()
    arguments = (given, spec.model_dump_json(), line)
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, *arguments, stdout=subprocess.PIPE)
    assert service.stdout is not None
    id_, address, boot_id, key = (await service.stdout.readline()).decode().split()
    await asyncio.sleep(0.3)
    service.send_signal(signal.SIGKILL)
    await service.communicate()
    return Handle(id_, address, boot_id, bytes.fromhex(key))
