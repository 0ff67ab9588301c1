"""Builds what conversations work with, out of the configuration and what one folder adds to it."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import arguments
from agent.cli.chat.conversation import Setting
from agent.cli.chat.custom import find_commands
from agent.cli.chat.host import WORKSPACE, HostSandbox
from agent.cli.chat.skills import find_skills
from agent.cli.children import embedded_model
from agent.cli.credentials import Credentials
from agent.cli.failure import ExitCode, Failure
from agent.cli.home import home
from agent.cli.mcp import KeptSignIn
from agent.cli.settings import Settings, instructions, user_file
from agent.cli.terminal import open_terminal
from agent.config import ModelSettings
from agent.model import open_model
from agent.permissions.policy import other_tool
from agent.profiles.base import Profile
from agent.profiles.by_name import profile
from agent.profiles.equipped import equipped
from agent.steps.settings import LoopSettings
from agent.tools.hook import Hooked, Hooks
from agent.tools.mcp import ToolServers
from agent.tools.skill import Skill, offer
from agent.types import Limits, ModelOptions
from sandbox.backends import open_backend

if TYPE_CHECKING:
    from agent.integrations.mcp import McpServers

_MODEL_RETRIES = 2
"""A person waits: an endpoint that is away is reported within seconds."""

_WALL_CLOCK_S = 24 * 3600.0
"""A turn waits for people, so that its length says nothing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says, beside the configuration."""

    model_url: str | None
    model: str | None
    sandboxed: bool


@dataclass(frozen=True, slots=True)
class Folder:
    """What is talked about."""

    root: Path
    trusted: bool
    """Its own files may speak."""

    @property
    def speaking(self) -> Path | None:
        return self.root if self.trusted else None


async def open_endpoint(
    asked: Asked, settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack
) -> tuple[ModelSettings, bool]:
    """Whom to ask, and whether that is the embedded model, which is started."""
    url, name = asked.model_url or settings.model_url, asked.model or settings.model
    model, checkpoint = arguments.endpoint(environment, url=url, name=name)
    model = model.model_copy(update={"retries": min(model.retries, _MODEL_RETRIES)})
    if checkpoint is None:
        return model, False
    open_terminal().note(f"Starting the embedded model {checkpoint} (--model-url names another).")
    log = home(environment) / "logs" / "model.log"
    return await stack.enter_async_context(embedded_model(checkpoint, log, model)), True


async def open_setting(
    asked: Asked,
    settings: Settings,
    model: ModelSettings,
    embedded: bool,
    folder: Folder,
    environment: Mapping[str, str],
    stack: AsyncExitStack,
) -> Setting:
    """
    Raises:
        Failure: something in the configuration cannot be used.
    """
    sandbox = arguments.sandbox(environment)
    own = user_file(environment).parent
    chosen = profile(
        settings.profile or ("native" if embedded else "assistant"), checks_syntax=model.checks_syntax(None)
    )
    given = {"name": model.name, "temperature": settings.temperature, "thinking": settings.thinking}
    allowed = tuple(other_tool(name, tool) for name, server in settings.mcp_servers.items() for tool in server.allow)
    servers: ToolServers | None = None
    skills: tuple[Skill, ...] = ()
    if chosen.name == "assistant":  # The tools of the others are fixed.
        servers = await _servers(settings, environment, stack)
        skills = find_skills(own / "skills", folder.speaking, sandboxed=asked.sandboxed)
        chosen = equipped(chosen, skills, servers)
    hooks = Hooks(settings.hooks, HostSandbox(folder.root)) if settings.hooks else None
    if hooks is not None:
        chosen = replace(chosen, tools=tuple(Hooked(tool, hooks) for tool in chosen.tools))
    return Setting(
        await stack.enter_async_context(open_model(model)),
        _told(chosen, folder, skills, sandboxed=asked.sandboxed),
        ModelOptions.model_validate({name: value for name, value in given.items() if value is not None}),
        Limits(max_steps=settings.max_steps, max_tokens=10_000_000, wall_clock_s=_WALL_CLOCK_S),
        LoopSettings(prices=model.prices, context_tokens=model.context_tokens),
        (lambda: open_backend(settings.sandbox, sandbox)) if asked.sandboxed else None,
        allowed,
        servers,
        hooks,
        skills,
        find_commands(own / "commands", folder.speaking),
        takes_images=model.images and not embedded,
    )


async def _servers(settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack) -> "McpServers | None":
    """Those of the configuration; none of them is started yet."""
    if not settings.mcp_servers:
        return None
    try:
        from agent.integrations.mcp import McpServers, OnThisMachine
    except ImportError as error:
        remedy = "install mimo-coder[mcp], or take mcp_servers out of config.toml"
        raise Failure(ExitCode.USAGE, f"there are MCP servers, and no MCP here: {error}", remedy) from error
    place = home(environment)
    credentials = Credentials(place)
    way = OnThisMachine(environment, place / "logs", lambda server: KeptSignIn(credentials, server))
    servers = McpServers(settings.mcp_servers, way)
    return await stack.enter_async_context(servers)


def _told(chosen: Profile, folder: Folder, skills: Sequence[Skill], *, sandboxed: bool) -> Profile:
    """The profile, with what this folder and this machine add to its prompt."""
    # Models know the words of the native profile by heart: without need nothing is added.
    parts = [] if chosen.name == "native" else [_AT_A_TERMINAL]
    if not sandboxed:
        parts.append(f"There is no {WORKSPACE} here: commands run in {folder.root}, on the user's own machine.")
    if skills:
        parts.append(offer(skills))
    if folder.trusted and (text := instructions(folder.root)):
        parts.append(f"The user's instructions for this project:\n\n{text}")
    return chosen.told(*parts)


_AT_A_TERMINAL = (
    "The user reads you in a terminal and may answer. Where nothing is to be done, answer in short Markdown without a "
    "call, which gives the user the word."
)
