"""Has a double answer over HTTP on loopback."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp


@contextmanager
def serving(app: ASGIApp, port: int = 0, certificate: Path | None = None) -> Iterator[int]:
    """Serve in a thread, on a free port where none is given; yields the port.

    Args:
        certificate: file with a key and its certificate, for TLS.
    """
    with socket.create_server(("127.0.0.1", port)) as listener:
        settings = uvicorn.Config(
            app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1, ssl_certfile=certificate
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
