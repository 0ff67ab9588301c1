"""What begins with a slash, and ``!`` for the shell."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from agent.cli.chat.before import Changed
from agent.cli.chat.conversation import Conversation
from agent.cli.chat.folders import ConversationBusy, Listed, expect_free, fork, list_conversations, new_folder
from agent.cli.chat.indented import Indented
from agent.cli.chat.lines import answer, diff_lines, named, spent
from agent.cli.chat.screen import Screen
from agent.cli.terminal import age, one_line, printable, readable
from agent.config import Prices
from agent.errors import AgentError
from agent.types import Message

_INIT = (
    "Write AGENTS.md at the top of this project, for coding agents that work on it: how to build, test and check it, "
    "how it is laid out, and the conventions that its code follows. Read what is there first. At most one page."
)

_MIMO = (sys.executable, "-m", "agent.cli.app")

_SAME = {"/clear": "/new", "/quit": "/exit", "/q": "/exit"}
"""What some commands are called elsewhere."""

_ASK_THE_MODEL = ("/btw", "/compact")
"""That may take long, and the next command does not wait for it."""

_MOST_LISTED = 9
"""What a digit chooses."""

_PAGER_LINES = 40
"""A longer diff goes into the pager."""


class Commands:
    """The commands of one conversation on one screen."""

    def __init__(self, screen: Screen, conversation: Conversation, *, prices: Prices | None) -> None:
        self._screen = screen
        self._conversation = conversation
        self._prices = prices
        self._custom = {command.name: command for command in conversation.commands}
        self._one_by_one = asyncio.Lock()
        self.next_folder: Path | None = None
        """The conversation to go on with instead of this one."""
        self.between: Sequence[str] = ()
        """A program to run before that."""
        self._known: dict[str, tuple[str, Callable[[str], Awaitable[None]]]] = {
            "/help": ("what can be typed", self._help),
            "/image": ("show the model a file's image, or the clipboard's", self._image),
            "/rewind": ("back to an earlier turn: files, conversation or both", self._rewind),
            "/fork": ("go on in a copy of this conversation", self._fork),
            "/new": ("begin another conversation; this one can be resumed", self._new),
            "/resume": ("go on with an earlier conversation about this folder", self._resume),
            "/compact": ("sum up what was said, with a focus if you name one", self._compact),
            "/btw": ("ask something beside the matter; it is not remembered", self._btw),
            "/tasks": ("tasks of the service", self._tasks),
            "/push": ("hand conversation and files to the service, with what is to be done there", self._push),
            "/pull": ("bring back what became of the newest push, or of the task you name", self._pull),
            "/context": ("what fills the model's context", self._context),
            "/cost": ("tokens, and money where prices are set", self._cost),
            "/diff": ("what changed since the conversation began", self._diff),
            "/permissions": ("what is always allowed", self._permissions),
            "/mcp": ("other programs whose tools the agent may call", self._mcp),
            "/skills": ("what the agent can read up on", self._skills),
            "/copy": ("the newest answer into the clipboard", self._copy),
            "/thinking": ("the newest thoughts in full", self._thinking),
            "/export": ("write the conversation to a Markdown file", self._export),
            "/init": ("have AGENTS.md written", self._init),
            "/exit": ("leave; the conversation can be resumed", self._exit),
        }

    @property
    def names(self) -> list[tuple[str, str]]:
        own = [(name, meaning) for name, (meaning, _) in self._known.items()]
        return own + [(command.name, command.meaning) for command in self._custom.values()]

    async def __call__(self, text: str) -> None:
        """Do what the user typed."""
        if text.startswith("!"):
            async with self._in_turn(text):
                await self._do(self._shell, text[1:].strip())
            return
        typed, _, rest = text.partition(" ")
        typed = _SAME.get(typed, typed)
        names = [name for name, _ in self.names]
        meant = [typed] if typed in names else [name for name in names if name.startswith(typed)]
        if len(meant) != 1:
            several = f"it could be {', '.join(meant)}" if meant else "/help lists what there is"
            async with self._in_turn(text):
                self._screen.note(f"there is no {typed}; {several}", "red")
        elif custom := self._custom.get(meant[0]):
            self._echo(text)
            await self._screen.submit(custom.filled(rest.strip()), steer=False)
        else:
            async with self._in_turn(text):
                doing = self._do(self._known[meant[0]][1], rest.strip())
                if meant[0] not in _ASK_THE_MODEL:
                    await doing
                    return
            await doing

    @asynccontextmanager
    async def _in_turn(self, text: str) -> AsyncIterator[None]:
        """What a command prints stands below it, however fast the next one is typed."""
        async with self._one_by_one:
            self._echo(text)
            yield

    def _echo(self, text: str) -> None:
        self._screen.note(f"> {one_line(text, self._screen.width - 6)}")

    async def _do(self, command: Callable[[str], Awaitable[None]], rest: str) -> None:
        try:
            await command(rest)
        except (AgentError, OSError) as error:
            self._screen.note(f"! {error}", "red")

    async def _help(self, rest: str) -> None:
        self._screen.print("", _table(self.names), "", _table(_KEYS), "")

    async def _shell(self, command: str) -> None:
        """The user's own shell, on the machine itself: the agent is not told."""
        if command:
            shell = os.environ.get("SHELL") or "/bin/sh"
            code = await self._screen.outside([shell, "-c", command], self._conversation.history.root)
            if code:
                self._screen.note(f"exit {code}", "red")

    async def _image(self, rest: str) -> None:
        named = rest.strip("'\"").replace("\\ ", " ")
        file = self._conversation.history.root / await anyio.Path(named).expanduser() if named else None
        await self._screen.attach(file)

    async def _rewind(self, rest: str) -> None:
        conversation = self._conversation
        if self._busy():
            return
        turns, put_back = conversation.state.turns, conversation.state.put_back
        if not turns and not put_back:
            self._screen.note("there is nothing to go back to")
            return
        shown = turns[-_MOST_LISTED + len(put_back[-1:]) :]
        titles = [one_line(turn.text, self._screen.width - 6) for turn in shown]
        undo = ["the files as they were before the newest /rewind"] if put_back else []
        title = "Back to before which turn? (Esc leaves all as it is)"
        chosen = await self._screen.choose(title, [*titles, *undo])
        if chosen is None:
            return
        if chosen == len(shown):
            await conversation.put_back(put_back[-1].until_now)
            self._screen.note("the files are as they were before the newest /rewind", "yellow")
            return
        turn, at = shown[chosen], len(turns) - len(shown) + chosen
        changed = await conversation.changed(turn)
        options = ["files and conversation", "conversation alone", "files alone"]
        if len(changed) > 1:
            options.append("files alone, to before one of its calls")
        what = await self._screen.choose("What?", options)
        if what is None:
            return
        if what == 3:
            await self._put_back_to_call(changed)
            return
        if what in (0, 2):
            await conversation.put_back(turn.before)
        if what in (0, 1):
            conversation.rewind(at)
        self._screen.note(f"back to before: {one_line(turn.text, self._screen.width - 24)}", "yellow")

    async def _put_back_to_call(self, changed: Sequence[Changed]) -> None:
        shown = changed[-_MOST_LISTED:]
        titles = [named(each.call, self._screen.width - 6) for each in shown]
        chosen = await self._screen.choose("Files as before which call? (Esc leaves all as it is)", titles)
        if chosen is not None:
            await self._conversation.put_back(shown[chosen].before)
            self._screen.note(f"files as before: {named(shown[chosen].call, self._screen.width - 24)}", "yellow")

    async def _fork(self, rest: str) -> None:
        if self._busy():
            return
        self.next_folder = fork(self._conversation.folder)
        self._screen.leave()

    async def _new(self, rest: str) -> None:
        if self._busy():
            return
        self.next_folder = new_folder(self._conversation.folder.parent)
        self._screen.leave()

    async def _resume(self, rest: str) -> None:
        if self._busy():
            return
        here = self._conversation
        known = list_conversations(here.folder.parent, here.history.root)
        shown = [listed for listed in known if listed.folder != here.folder][:_MOST_LISTED]
        if not shown:
            self._screen.note("there is no other conversation about this folder")
            return
        titles = [one_line(f"{listed.title}  ({when(listed)})", self._screen.width - 6) for listed in shown]
        chosen = await self._screen.choose("Which? (Esc stays here)", titles)
        if chosen is None:
            return
        try:
            expect_free(shown[chosen].folder)
        except ConversationBusy as error:
            self._screen.note(f"{error}; leave it there first", "yellow")
            return
        self.next_folder = shown[chosen].folder
        self._screen.leave()

    async def _compact(self, rest: str) -> None:
        if self._busy():
            return
        if not self._conversation.state.turns:
            self._screen.note("nothing was said yet")
            return
        self._screen.note("summing up …")
        if summary := await self._conversation.compact(rest):
            self._screen.print(answer(summary))
        else:
            self._screen.note("the model said nothing; all stays as it was")

    async def _btw(self, rest: str) -> None:
        if rest:
            self._screen.print(answer(await self._conversation.aside(rest) or "(nothing)"))
        else:
            self._screen.note("what? /btw QUESTION")

    async def _tasks(self, rest: str) -> None:
        await self._mimo("task", "list")

    async def _push(self, rest: str) -> None:
        if self._busy():
            return
        conversation = self._conversation
        what = ["--conversation", conversation.id] if conversation.state.turns else ["--alone"]
        await self._mimo("push", *what, "--", rest or "Go on.")

    async def _pull(self, rest: str) -> None:
        """The conversation is closed for as long as that takes, for it gets a turn more."""
        if self._busy():
            return
        self.between = [*_MIMO, "pull", *([rest] if rest else ["--conversation", self._conversation.id])]
        self.next_folder = self._conversation.folder
        self._screen.leave()

    async def _mimo(self, *arguments: str) -> None:
        await self._screen.outside([*_MIMO, *arguments], self._conversation.history.root)

    async def _context(self, rest: str) -> None:
        messages = await self._conversation.messages()
        chars = dict.fromkeys(("user", "assistant", "tool"), 0)
        for message in messages:
            chars[message["role"]] += _size(message)
        whole = sum(chars.values()) or 1
        named = {"user": "you", "assistant": "the agent", "tool": "what tools gave back"}
        rows = [(named[role], f"{count:,} characters, {100 * count // whole}%") for role, count in chars.items()]
        self._screen.print(_table(rows))
        if compacted := self._conversation.state.compacted:
            self._screen.note(f"turns 1 to {compacted.turns} are summed up")

    async def _cost(self, rest: str) -> None:
        usage = await self._conversation.usage()
        self._screen.note(spent(usage), "")
        if self._prices is not None:
            self._screen.note(f"{self._prices.cost(usage):.4f} at the prices that are set", "")

    async def _diff(self, rest: str) -> None:
        turns = self._conversation.state.turns
        if not turns:
            self._screen.note("nothing was done yet")
            return
        history = self._conversation.history
        patch = readable(await history.patch(turns[0].before, await history.keep()))
        if not patch:
            self._screen.note("nothing changed since the conversation began")
        elif patch.count("\n") > _PAGER_LINES:
            pager = ["/bin/sh", "-c", os.environ.get("PAGER") or "less -R"]  # As git starts it.
            await self._screen.outside(pager, history.root, printable(patch))
        else:
            self._screen.print(*diff_lines(patch))

    async def _permissions(self, rest: str) -> None:
        grants = self._conversation.state.grants
        if not grants:
            self._screen.note("nothing is always allowed; Shift-Tab changes what is asked for")
            return
        chosen = await self._screen.choose(
            "Always allowed in this conversation; a number takes it back, Esc leaves all",
            [str(grant) for grant in grants[:_MOST_LISTED]],
        )
        if chosen is not None:
            self._conversation.revoke(grants[chosen])
            self._screen.note(f"asked again from now on: {grants[chosen]}")

    async def _mcp(self, rest: str) -> None:
        if servers := self._conversation.servers:
            self._screen.print(_table(servers.items()))
        else:
            self._screen.note("none; [mcp_servers.NAME] in config.toml names them")

    async def _skills(self, rest: str) -> None:
        if skills := self._conversation.skills:
            self._screen.print(_table((skill.name, skill.description) for skill in skills))
        else:
            self._screen.note("none; a folder of .agents/skills with a SKILL.md is one")

    async def _copy(self, rest: str) -> None:
        said = [message["content"] for message in await self._conversation.messages() if message["role"] == "assistant"]
        newest = next(filter(str.strip, reversed(said)), "")
        if not newest:
            self._screen.note("nothing was answered yet")
            return
        self._screen.copy(newest)
        self._screen.note(f"{len(newest):,} characters were handed to the terminal, for its clipboard")

    async def _thinking(self, rest: str) -> None:
        self._screen.note(self._screen.lines.last_thought or "(none)")

    async def _export(self, rest: str) -> None:
        if not self._conversation.state.turns:
            self._screen.note("nothing was said yet")
            return
        named = await anyio.Path(rest or f"conversation-{self._conversation.id}.md").expanduser()
        path = self._conversation.history.root / named
        parts = [_markdown(message) for message in await self._conversation.messages()]
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write("\n\n".join(part for part in parts if part) + "\n")
        except FileExistsError:
            self._screen.note(f"! {named} is there already: /export FILE takes another name", "red")
            return
        self._screen.note(f"written to {path}")

    async def _init(self, rest: str) -> None:
        await self._screen.submit(_INIT, steer=False)

    async def _exit(self, rest: str) -> None:
        self._screen.leave()

    def _busy(self) -> bool:
        if self._conversation.busy:
            self._screen.note("not while the agent works; Esc interrupts it", "red")
        return self._conversation.busy


def when(listed: Listed) -> str:
    """How old a conversation is, and how long."""
    return f"{age(time.time() - listed.changed_at)} ago, {listed.turns} turn{'' if listed.turns == 1 else 's'}"


_KEYS = [
    ("Enter", "send; while the agent works: queue"),
    ("Ctrl-S", "send into the turn, for its next step"),
    ("Alt-Enter", "new line"),
    ("Esc", "interrupt; twice: /rewind"),
    ("Shift-Tab", "plan, ask, accept edits, auto"),
    ("Up", "take back what is queued; what was typed before"),
    ("Ctrl-R", "search what was typed before"),
    ("Ctrl-G", "write in your editor"),
    ("Ctrl-V", "the clipboard's image; or drop a file here"),
    ("Ctrl-O", "the newest output in full"),
    ("@path", "name a file"),
    ("!command", "your own shell; the agent is not told"),
]


def _table(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Names and what there is to say of them, which is wrapped beside them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, meaning in rows:
        table.add_row(Text(printable(name)), Text(printable(meaning)))
    return Indented(table)


def _size(message: Message) -> int:
    calls = sum(len(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
    return len(message["content"]) + len(message.get("reasoning_content") or "") + calls


def _markdown(message: Message) -> str:
    match message["role"]:
        case "user":
            return f"## You\n\n{message['content']}"
        case "tool":
            return f"```\n{message['content']}\n```"
        case _:
            calls = [
                f"`{call['function']['name']}` {call['function']['arguments']}"
                for call in message.get("tool_calls", ())
            ]
            return "\n\n".join(part for part in ("## MiMo", message["content"], *calls) if part)
