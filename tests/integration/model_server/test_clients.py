"""Requests as unmodified coding clients send them, with their texts shortened, are taken as they are.

Recorded from mini-swe-agent 2.4.6, aider 0.86.2 and, with its own tools, qwen-code 0.15.10 in both protocols, which
were the newest on 2026-11-23.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_server.chat.markers import IM_END
from tests.integration.model_server.scripted_service import answering, service

pytestmark = pytest.mark.anyio

RECORDED = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted((Path(__file__).parents[2] / "data" / "client_requests").glob("*.json"))
}
CALL = "<tool_call>\n<function=bash>\n<parameter=command>ls</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize("recorded", RECORDED.values(), ids=RECORDED)
async def test_a_clients_request_is_answered_to_its_end(recorded: dict[str, Any]) -> None:
    body = recorded["body"]
    engine = answering(f"ok{CALL}{IM_END}")
    async with service(engine) as (_, url), httpx.AsyncClient(base_url=url) as http:
        answer = await http.post(recorded["path"], json=body)
    assert answer.status_code == 200, answer.text
    assert len(engine.requests) == 1
    if body.get("stream"):
        last = answer.text.strip().rsplit("\n", 1)[1]
        assert last in ("data: [DONE]", 'data: {"type":"message_stop"}')
    called = '"name":"bash"' in answer.text
    assert called == ("tools" in body)
