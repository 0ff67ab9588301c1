"""Builds the agent of ``mimo acp`` and speaks on the standard streams until the editor hangs up."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from importlib.metadata import version

import acp

from agent.cli.acp.agent import EditorAgent, Means
from agent.cli.chat.setting import Asked, open_endpoint
from agent.cli.home import home
from agent.cli.settings import load


async def serve(asked: Asked, mode: str | None, environment: Mapping[str, str]) -> None:
    """
    Raises:
        Failure: it could not begin; says what to do.
    """
    async with AsyncExitStack() as stack:
        model, embedded = await open_endpoint(asked, load(environment).settings, environment, stack)
        means = Means(model, embedded, asked, mode, home(environment), environment, version("mimo-coder"))
        agent = await stack.enter_async_context(EditorAgent(means))
        # It lacks the optional parts of the interface, which editors are told in initialize.
        await acp.run_agent(agent)  # type: ignore[arg-type]
