"""How an application is served, whichever process does it."""

import uvicorn
from fastapi import FastAPI

from agent.api.gate import BODY_LIMIT_BYTES


def server_settings(app: FastAPI, *, stop_s: int, host: str = "127.0.0.1", port: int = 8000) -> uvicorn.Config:
    """
    Args:
        stop_s: requests have so long to end when the server stops, s.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=stop_s,
        ws_max_size=BODY_LIMIT_BYTES,
        ws_per_message_deflate=False,  # A message would be bounded only after it was unpacked.
    )
