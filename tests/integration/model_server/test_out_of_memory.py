"""A server whose machine gives it no more memory in the middle of its work."""

import asyncio
import json
import resource
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_server.weights.save import save_checkpoint
from tests.integration.model_server.serving import server_process
from tests.integration.model_server.tiny_model import tiny_model
from tests.unit.model_server.small_tokenizer import small_tokenizer

pytestmark = pytest.mark.anyio

VOCABULARY = 100_000
SPARE_BYTES = 64 * 1024**2
"""Enough for one row of scores over the vocabulary and all else, not for the rows of a whole prompt: 160 MB in f32."""


async def test_a_request_that_gets_no_memory_fails_alone_and_the_next_is_served(tmp_path: Path) -> None:
    greedy = {"model": "tiny", "temperature": 0}
    short = greedy | {"prompt": "a", "max_tokens": 300, "stream": True}
    hungry = greedy | {"prompt": "b" * 400, "max_tokens": 1, "echo": True, "logprobs": 1}
    save_checkpoint(tiny_model(VOCABULARY), tmp_path / "tiny", quantize=False)
    small_tokenizer().save(str(tmp_path / "tiny" / "tokenizer.json"))
    async with server_process(str(tmp_path / "tiny")) as (child, url), httpx.AsyncClient(base_url=url) as http:
        alone = await _text(http, short)
        began = asyncio.Event()
        beside = asyncio.create_task(_text(http, short, began))
        await began.wait()
        limits = resource.prlimit(child.pid, resource.RLIMIT_AS)
        resource.prlimit(child.pid, resource.RLIMIT_AS, (_address_space(child.pid) + SPARE_BYTES, limits[1]))
        refused = await http.post("/completions", json=hungry, timeout=60)
        assert await beside == alone
        resource.prlimit(child.pid, resource.RLIMIT_AS, limits)
        served = await http.post("/completions", json=hungry, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "out_of_memory")
    assert refused.headers["retry-after"]
    assert served.status_code == 200


async def _text(http: httpx.AsyncClient, ask: dict[str, Any], began: asyncio.Event | None = None) -> str:
    text = ""
    async with http.stream("POST", "/completions", json=ask, timeout=60) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                text += "".join(choice["text"] for choice in json.loads(line.removeprefix("data: "))["choices"])
                if began is not None:
                    began.set()
    return text


def _address_space(pid: int) -> int:
    """Bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()
