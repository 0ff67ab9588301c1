"""Begins or resumes a conversation: everything that is built for it is built here."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from agent.cli.chat.commands import Commands, when
from agent.cli.chat.conversation import Conversation, Setting, open_conversation
from agent.cli.chat.folders import ConversationBusy, Listed, expect_free, list_conversations, new_folder
from agent.cli.chat.journal import Journal, JournalDamaged, JournalTooNew
from agent.cli.chat.screen import Screen
from agent.cli.chat.setting import Asked, Folder, open_endpoint, open_setting
from agent.cli.chat.typed_ahead import TypedAhead
from agent.cli.failure import ExitCode, Failure
from agent.cli.home import home
from agent.cli.settings import Settings, Trust, load, speaks
from agent.cli.terminal import one_line, open_terminal, printable
from agent.errors import GitError, StoreError, StoreTooNew, StoreUnavailable
from agent.permissions.policy import Mode

_UPDATE = "update mimo to that release, or begin another conversation: mimo"

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
    typed = TypedAhead()
    place = home(environment)
    conversations = place / "conversations"
    folder = await _folder(options, conversations, typed)
    if folder.exists():
        try:
            expect_free(folder)  # A model may take long to start, to no end.
        except ConversationBusy as error:
            raise Failure(ExitCode.FAILED, str(error), "leave it there first, or begin another: mimo") from error
    root = _root_of(folder, options)
    trusted = await _trusted(root, Trust(place), typed)
    settings = load(environment, root if trusted else None).settings
    async with AsyncExitStack() as stack:
        asked = Asked(options.model_url, options.model, sandboxed=not options.no_sandbox)
        model, embedded = await open_endpoint(asked, settings, environment, stack)
        about = Folder(root, trusted)
        setting = await open_setting(asked, settings, model, embedded, about, environment, stack)
        going: Path | None = folder
        while going is not None:
            screen = Screen(
                model=model.name,
                context_tokens=setting.loop.context_tokens,
                prices=setting.loop.prices,
                history=place / "typed",
                no_color=options.no_color or bool(environment.get("NO_COLOR")),
            )
            going = await _converse(going, root, setting, screen, options, settings, typed)
            typed = TypedAhead()


async def _converse(
    folder: Path,
    root: Path,
    setting: Setting,
    screen: Screen,
    options: ChatOptions,
    settings: Settings,
    typed: TypedAhead,
) -> Path | None:
    """Show one conversation; the next one, or None where the user leaves."""
    try:
        async with open_conversation(folder, root, setting, screen) as conversation:
            commands = Commands(screen, conversation, prices=setting.loop.prices)
            begin = _Beginning(screen, conversation, options, settings)
            begin.greet()
            typed.take()
            screen.put(typed.text)
            try:
                await screen.run(conversation, commands.names, commands, begin)
            finally:
                _say_goodbye(conversation, commands.next_folder)
    except (JournalTooNew, StoreTooNew) as error:
        raise Failure(ExitCode.FAILED, str(error), _UPDATE) from error
    except (ConversationBusy, JournalDamaged, GitError, StoreError, StoreUnavailable, OSError) as error:
        raise Failure(ExitCode.FAILED, str(error)) from error
    if commands.between:
        # What went wrong it says itself; the conversation goes on in any case.
        await asyncio.to_thread(subprocess.run, commands.between, cwd=root, check=False)
    return commands.next_folder


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What is on the screen before the user says anything."""

    screen: Screen
    conversation: Conversation
    options: ChatOptions
    settings: Settings

    def greet(self) -> None:
        """Before the screen stands: tmux keeps a copy of a first screen that is erased to be drawn lower."""
        name = f"mimo · {printable(str(self.conversation.history.root))}"
        open_terminal(no_color=self.options.no_color).out.print(Text(name, "bold"))

    async def __call__(self) -> None:
        conversation, screen = self.conversation, self.screen
        turns = conversation.state.turns
        where = "in a sandbox with a copy of it" if conversation.sandboxed else "WITHOUT A SANDBOX, as you"
        screen.print(Text(f"Commands run {where}. /help says what can be typed.", "dim"))
        if not turns:
            conversation.choose(Mode(self.options.mode or self.settings.mode))
        if len(turns) > _RESUMED_TURNS:
            screen.note(f"… {len(turns) - _RESUMED_TURNS} earlier turns; /export writes all of them")
        for turn in turns[-_RESUMED_TURNS:]:
            screen.show_again(await conversation.events(turn))
        screen.spent(await conversation.usage())
        if conversation.unfinished:
            chosen = await screen.choose("The last turn was not finished.", ["go on with it", "leave it as it is"])
            if chosen == 0:
                await screen.work(conversation.go_on())
            else:
                await conversation.drop_unfinished()


def _say_goodbye(conversation: Conversation, next_folder: Path | None) -> None:
    if next_folder not in (None, conversation.folder):
        print(f"The conversation so far stays: mimo --resume {conversation.id}")  # noqa: T201
    elif next_folder is None and conversation.state.turns:
        print(f"To go on: mimo --resume {conversation.id}")  # noqa: T201


async def _folder(options: ChatOptions, conversations: Path, typed: TypedAhead) -> Path:
    if options.resume == "list":
        return await _pick(list_conversations(conversations), typed)
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


async def _pick(known: list[Listed], typed: TypedAhead) -> Path:
    if not known:
        raise Failure(ExitCode.USAGE, "there is no conversation to resume", "begin one: mimo")
    terminal = open_terminal()
    for number, listed in enumerate(known[:9], start=1):
        title = one_line(listed.title, max(terminal.err.width - 40, 20))
        terminal.note(f"{number}. {title}  ({when(listed)}, {listed.root})")
    answer = await _ask("Which? ", typed)
    if not answer.isdecimal() or not 1 <= int(answer) <= min(len(known), 9):
        raise Failure(ExitCode.USAGE, "no conversation was chosen")
    return known[int(answer) - 1].folder


def _root_of(folder: Path, options: ChatOptions) -> Path:
    """A conversation keeps its folder, wherever it is resumed from."""
    journal = folder / "journal.jsonl"
    try:
        root = Path(Journal(journal).state.root) if journal.exists() else options.root
    except JournalTooNew as error:
        raise Failure(ExitCode.FAILED, str(error), _UPDATE) from error
    except JournalDamaged as error:
        raise Failure(ExitCode.FAILED, str(error)) from error
    if not root.is_dir():
        raise Failure(ExitCode.USAGE, f"{root} is not there any more")
    if root in (Path.home(), Path("/")):
        raise Failure(ExitCode.USAGE, f"{root} holds more than one project", "change into the folder of one")
    return root


async def _trusted(root: Path, trust: Trust, typed: TypedAhead) -> bool:
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
        answer = await _ask("Do you trust this folder? [y/N] ", typed)
        known = answer.lower() in ("y", "yes")
        trust.decide(root, known)
    return known


async def _ask(question: str, typed: TypedAhead) -> str:
    """What was typed before the question is no answer to it."""
    typed.take()
    print(question, end="", flush=True)  # noqa: T201
    loop, typing, answered = asyncio.get_running_loop(), sys.stdin.fileno(), asyncio.Event()
    # Not input(): it misses a signal that comes just before it reads.
    loop.add_reader(typing, answered.set)
    try:
        await answered.wait()
        line = os.read(typing, 65_536)
    except asyncio.CancelledError:
        line = b""
    finally:
        loop.remove_reader(typing)
    if not line:
        open_terminal().note("")  # The cursor stands behind the question.
        raise Failure(ExitCode.INTERRUPTED, "no answer was given")
    return line.decode("utf-8", "replace").strip()
