"""A real server on a free port of this machine, in this process or one of its own, for as long as a test needs it."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI


@asynccontextmanager
async def serving(app: FastAPI, drain_s: int | None = None) -> AsyncGenerator[str, None]:
    """Yield the server's address, without a path. At the end its answers have ``drain_s`` to end, None is for ever."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, timeout_graceful_shutdown=drain_s
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), task
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def server_process(checkpoint: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str], None]:
    """The server's process and address, once it is ready."""
    arguments = ("-m", "model_server", "--checkpoint", checkpoint, "--port", "0", "--max-running", "4")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stderr=asyncio.subprocess.PIPE, env=environment
    )
    assert child.stderr is not None
    try:
        log = ""
        while (found := re.search(r"url=(\S+)", log)) is None:
            line = await child.stderr.readline()
            assert line, log
            log += line.decode()
        drain = asyncio.create_task(child.stderr.read())
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=8)) as http:
            assert (await http.get(f"{found[1].removesuffix('/v1')}/health")).status_code == 200
        yield child, found[1]
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
    await drain
