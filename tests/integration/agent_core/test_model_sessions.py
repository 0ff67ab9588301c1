"""The conversations of a run as sessions of our model server."""

import pytest
import torch

from agent.config import ModelSettings
from agent.history import assistant_message
from agent.model import HttpModel, open_model
from agent.testing import ScriptedEndpoint
from agent.types import AssistantMessage, Message, ModelOptions, Usage
from model_server.__main__ import find_checkpoint
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.engine import EmbeddedEngine
from model_server.server.app import create_app
from model_server.server.settings import ServerSettings
from model_server.weights.load import load_model
from tests.integration.model_server.serving import serving

pytestmark = pytest.mark.anyio

QUESTION: list[Message] = [{"role": "system", "content": "You work."}, {"role": "user", "content": "add() subtracts"}]


async def _turns(model: HttpModel, num: int) -> list[Usage]:
    """What each answer of a conversation used."""
    messages, used = list(QUESTION), []
    for _ in range(num):
        answer = await model.complete(messages, [], ModelOptions(temperature=1.0, seed=7, max_tokens=40))
        used.append(answer.usage)
        messages += [assistant_message(answer.message), {"role": "user", "content": "go on"}]
    return used


async def test_a_turn_goes_on_from_the_tokens_of_the_one_before() -> None:
    checkpoint = find_checkpoint("mimo-v2-nano")
    engine = EmbeddedEngine(load_model(checkpoint, torch.float32), context_length=4096)
    app = create_app(engine, ChatTokenizer.load(checkpoint), ServerSettings(model_name="nano"))
    async with serving(app) as url:
        settings = ModelSettings(url=f"{url}/v1", name="nano", sessions=True)
        async with open_model(settings) as model:
            one = await _turns(model.of_run("run_1"), 3)
            other = await _turns(model.of_run("run_2"), 2)

    for used in (one, other):
        # All that was there but its newest token, which was sampled and never computed with.
        known = [turn.prompt_tokens + turn.completion_tokens - 1 for turn in used]
        assert [turn.cached_tokens for turn in used[1:]] == known[:-1]


async def test_runs_and_what_they_delegate_have_sessions_of_their_own() -> None:
    endpoint = ScriptedEndpoint(lambda messages: AssistantMessage(content="hm"))
    with endpoint.running() as url:
        async with open_model(ModelSettings(url=url, name="scripted", sessions=True)) as model:
            await _turns(model.of_run("run_1"), 2)
            await _turns(model.of_run("run_2"), 1)
            delegated = [QUESTION[0], {"role": "user", "content": "look for callers"}]
            await model.of_run("run_1").complete(delegated, [], ModelOptions())
            await model.complete(QUESTION, [], ModelOptions())

    first, again, second, delegate, nobody = (request.get("session_id") for request in endpoint.requests)
    assert first == again
    assert nobody is None
    assert len({first, second, delegate}) == 3


async def test_endpoints_are_not_asked_for_sessions_that_nobody_says_they_have() -> None:
    endpoint = ScriptedEndpoint(lambda messages: AssistantMessage(content="hm"))
    with endpoint.running() as url:
        async with open_model(ModelSettings(url=url, name="scripted")) as model:
            await _turns(model.of_run("run_1"), 1)

    assert "session_id" not in endpoint.requests[0]
