"""Begins or resumes a conversation: everything that is built for it is built here."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from agent.cli import arguments
from agent.cli.chat.commands import Commands
from agent.cli.chat.conversation import (
    Conversation,
    ConversationBusy,
    Listed,
    Setting,
    list_conversations,
    new_folder,
    open_conversation,
)
from agent.cli.chat.custom import find_commands
from agent.cli.chat.host import WORKSPACE, HostSandbox
from agent.cli.chat.journal import Journal, JournalDamaged
from agent.cli.chat.screen import Screen
from agent.cli.chat.skills import find_skills
from agent.cli.children import embedded_model
from agent.cli.credentials import Credentials
from agent.cli.failure import ExitCode, Failure
from agent.cli.home import home
from agent.cli.mcp import KeptSignIn
from agent.cli.report import age
from agent.cli.settings import Settings, Trust, instructions, load, speaks, user_file
from agent.cli.terminal import one_line, open_terminal
from agent.config import ModelSettings
from agent.errors import GitError, StoreError
from agent.loop import LoopSettings
from agent.model import open_model
from agent.permissions.policy import Mode, other_tool
from agent.profiles.base import Profile
from agent.profiles.by_name import profile
from agent.tools.base import Tool
from agent.tools.hook import Hooked, Hooks
from agent.tools.mcp import McpCall, McpList, ToolServers
from agent.tools.skill import Skill, UseSkill, offer
from agent.types import Limits, ModelOptions
from sandbox.backends import open_backend

if TYPE_CHECKING:
    from agent.integrations.mcp import McpServers

_MODEL_RETRIES = 2
"""A person waits: an endpoint that is away is reported within seconds."""

_WALL_CLOCK_S = 24 * 3600.0
"""A turn waits for people, so that its length says nothing."""

_RESUMED_TURNS = 5
"""So many of the turns before are shown again."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The command line of ``mimo`` without a command."""

    root: Path
    resume: str | None
    """Id of a conversation; ``list`` asks which."""
    continued: bool
    """Go on with the newest conversation about this folder."""
    no_sandbox: bool
    model_url: str | None
    model: str | None
    mode: str | None
    no_color: bool


async def chat(options: ChatOptions, environment: Mapping[str, str]) -> None:
    """Talk until the user leaves.

    Raises:
        Failure: it could not begin; says what to do.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure(ExitCode.USAGE, "mimo without a command needs a terminal", 'without one: mimo run "..."')
    place = home(environment)
    conversations = place / "conversations"
    folder = _folder(options, conversations)
    root = _root_of(folder, options)
    trusted = _trusted(root, Trust(place))
    settings = load(environment, root if trusted else None).settings
    async with AsyncExitStack() as stack:
        model, embedded = await _model(options, settings, environment, place, stack)
        setting = await _setting(options, settings, model, embedded, root, trusted, environment, stack)
        going: Path | None = folder
        while going is not None:
            screen = Screen(
                model=model.name,
                context_tokens=setting.loop.context_tokens,
                history=place / "typed",
                no_color=options.no_color or bool(environment.get("NO_COLOR")),
            )
            going = await _converse(going, root, setting, screen, options, settings)


async def _converse(
    folder: Path, root: Path, setting: Setting, screen: Screen, options: ChatOptions, settings: Settings
) -> Path | None:
    """Show one conversation; the next one, or None where the user leaves."""
    try:
        async with open_conversation(folder, root, setting, screen) as conversation:
            commands = Commands(screen, conversation, prices=setting.loop.prices)
            begin = _Beginning(screen, conversation, options, settings)
            await screen.run(conversation, commands.names, commands, begin)
            _say_goodbye(conversation, commands.next_folder)
            return commands.next_folder
    except (ConversationBusy, JournalDamaged, GitError, StoreError) as error:
        raise Failure(ExitCode.FAILED, str(error)) from error


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What is on the screen before the user says anything."""

    screen: Screen
    conversation: Conversation
    options: ChatOptions
    settings: Settings

    async def __call__(self) -> None:
        conversation, screen = self.conversation, self.screen
        turns = conversation.state.turns
        where = "in a sandbox with a copy of it" if conversation.sandboxed else "WITHOUT A SANDBOX, as you"
        screen.print(
            Text(f"mimo · {conversation.history.root}", "bold"),
            Text(f"Commands run {where}. /help says what can be typed.", "dim"),
        )
        if not turns:
            conversation.choose(Mode(self.options.mode or self.settings.mode))
        if len(turns) > _RESUMED_TURNS:
            screen.note(f"… {len(turns) - _RESUMED_TURNS} earlier turns; /export writes all of them")
        for turn in turns[-_RESUMED_TURNS:]:
            for event in await conversation.events(turn):
                screen.event(event)
        if conversation.unfinished:
            chosen = await screen.choose("The last turn was not finished.", ["go on with it", "leave it as it is"])
            if chosen == 0:
                await screen.work(conversation.go_on())
            else:
                await conversation.drop_unfinished()


def _say_goodbye(conversation: Conversation, next_folder: Path | None) -> None:
    if next_folder is not None:
        print(f"The conversation so far stays: mimo --resume {conversation.id}")  # noqa: T201
    elif conversation.state.turns:
        print(f"To go on: mimo --resume {conversation.id}")  # noqa: T201


def _folder(options: ChatOptions, conversations: Path) -> Path:
    if options.resume == "list":
        return _pick(list_conversations(conversations))
    if options.resume is not None:
        if "/" in options.resume or not (conversations / options.resume / "journal.jsonl").is_file():
            raise Failure(ExitCode.USAGE, f"there is no conversation {options.resume}", "mimo --resume list shows them")
        return conversations / options.resume
    if options.continued:
        known = list_conversations(conversations, options.root)
        if not known:
            raise Failure(ExitCode.USAGE, f"there is no conversation about {options.root}", "begin one: mimo")
        return known[0].folder
    return new_folder(conversations)


def _pick(known: list[Listed]) -> Path:
    if not known:
        raise Failure(ExitCode.USAGE, "there is no conversation to resume", "begin one: mimo")
    terminal = open_terminal()
    for number, listed in enumerate(known[:9], start=1):
        title = one_line(listed.title, max(terminal.err.width - 40, 20))
        terminal.note(
            f"{number}. {title}  ({age(time.time() - listed.changed_at)}, {listed.turns} turns, {listed.root})"
        )
    answer = input("Which? ").strip()
    if not answer.isdecimal() or not 1 <= int(answer) <= min(len(known), 9):
        raise Failure(ExitCode.USAGE, "no conversation was chosen")
    return known[int(answer) - 1].folder


def _root_of(folder: Path, options: ChatOptions) -> Path:
    """A conversation keeps its folder, wherever it is resumed from."""
    journal = folder / "journal.jsonl"
    try:
        root = Path(Journal(journal).state.root) if journal.exists() else options.root
    except JournalDamaged as error:
        raise Failure(ExitCode.FAILED, str(error)) from error
    if not root.is_dir():
        raise Failure(ExitCode.USAGE, f"{root} is not there any more")
    if root in (Path.home(), Path("/")):
        raise Failure(ExitCode.USAGE, f"{root} holds more than one project", "change into the folder of one")
    return root


def _trusted(root: Path, trust: Trust) -> bool:
    """Whether the folder's own files may speak; asked once."""
    if not speaks(root):
        return False
    known = trust.decided(root)
    if known is None:
        terminal = open_terminal()
        terminal.note(
            f"{root} has instructions for agents (AGENTS.md, .mimo or .agents). They can make the agent do "
            "things, and name programs that it starts."
        )
        known = input("Do you trust this folder? [y/N] ").strip().lower() in ("y", "yes")
        trust.decide(root, known)
    return known


async def _model(
    options: ChatOptions, settings: Settings, environment: Mapping[str, str], place: Path, stack: AsyncExitStack
) -> tuple[ModelSettings, bool]:
    """Whom to ask, and whether that is the embedded model, which is started."""
    url, name = options.model_url or settings.model_url, options.model or settings.model
    model, checkpoint = arguments.endpoint(environment, url=url, name=name)
    model = model.model_copy(update={"retries": min(model.retries, _MODEL_RETRIES)})
    if checkpoint is None:
        return model, False
    open_terminal().note(f"Starting the embedded model {checkpoint} (--model-url names another).")
    return await stack.enter_async_context(embedded_model(checkpoint, place / "logs" / "model.log", model)), True


async def _setting(
    options: ChatOptions,
    settings: Settings,
    model: ModelSettings,
    embedded: bool,
    root: Path,
    trusted: bool,
    environment: Mapping[str, str],
    stack: AsyncExitStack,
) -> Setting:
    sandbox = arguments.sandbox(environment)
    own = user_file(environment).parent
    chosen = profile(settings.profile or ("native" if embedded else "assistant"))
    given = {"temperature": settings.temperature, "thinking": settings.thinking}
    allowed = tuple(other_tool(name, tool) for name, server in settings.mcp_servers.items() for tool in server.allow)
    servers: ToolServers | None = None
    skills: tuple[Skill, ...] = ()
    if chosen.name == "assistant":  # The tools of the others are fixed.
        servers = await _servers(settings, environment, stack)
        skills = find_skills(own / "skills", root if trusted else None, sandboxed=not options.no_sandbox)
        chosen = _with(chosen, servers, skills)
    hooks = Hooks(settings.hooks, HostSandbox(root)) if settings.hooks else None
    if hooks is not None:
        chosen = replace(chosen, tools=tuple(Hooked(tool, hooks) for tool in chosen.tools))
    return Setting(
        await stack.enter_async_context(open_model(model)),
        _told(chosen, root, skills, trusted=trusted, sandboxed=not options.no_sandbox),
        ModelOptions.model_validate({name: value for name, value in given.items() if value is not None}),
        Limits(max_steps=settings.max_steps, max_tokens=10_000_000, wall_clock_s=_WALL_CLOCK_S),
        LoopSettings(prices=model.prices, context_tokens=model.context_tokens),
        None if options.no_sandbox else lambda: open_backend(settings.sandbox, sandbox),
        allowed,
        servers,
        hooks,
        skills,
        find_commands(own / "commands", root if trusted else None),
    )


def _with(chosen: Profile, servers: ToolServers | None, skills: tuple[Skill, ...]) -> Profile:
    added: list[Tool] = [UseSkill(skills)] if skills else []
    if servers is not None:
        added += [McpList(servers), McpCall(servers)]
    return replace(chosen, tools=(*chosen.tools, *added))


async def _servers(settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack) -> "McpServers | None":
    """Those of the configuration; none of them is started yet."""
    if not settings.mcp_servers:
        return None
    try:
        from agent.integrations.mcp import McpServers
    except ImportError as error:
        remedy = "install mimo-coder[mcp], or take mcp_servers out of config.toml"
        raise Failure(ExitCode.USAGE, f"there are MCP servers, and no MCP here: {error}", remedy) from error
    place = home(environment)
    credentials = Credentials(place)
    servers = McpServers(
        settings.mcp_servers,
        environment=environment,
        logs=place / "logs",
        vault=lambda server: KeptSignIn(credentials, server),
    )
    return await stack.enter_async_context(servers)


def _told(chosen: Profile, root: Path, skills: Sequence[Skill], *, trusted: bool, sandboxed: bool) -> Profile:
    """The profile, with what this folder and this machine add to its prompt."""
    # Models know the words of the native profile by heart: without need nothing is added.
    parts = [] if chosen.name == "native" else [_AT_A_TERMINAL]
    if not sandboxed:
        parts.append(f"There is no {WORKSPACE} here: commands run in {root}, on the user's own machine.")
    if skills:
        parts.append(offer(skills))
    if trusted and (text := instructions(root)):
        parts.append(f"The user's instructions for this project:\n\n{text}")
    added = "".join(f"\n\n{part}" for part in parts).replace("{", "{{").replace("}", "}}")
    return replace(chosen, prompt=chosen.prompt + added)


_AT_A_TERMINAL = (
    "The user reads you in a terminal and may answer. Where nothing is to be done, answer in short Markdown without a "
    "call, which gives the user the word."
)
