"""A conversation about the files of a folder, whoever shows it: turns, permissions, rewinding. Knows no terminal."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio

from agent.cli.chat.before import BeforeCalls, Changed, changes
from agent.cli.chat.custom import CustomCommand
from agent.cli.chat.files import FileHistory
from agent.cli.chat.folders import ConversationBusy, alone
from agent.cli.chat.images import Images, Showing
from agent.cli.chat.journal import (
    Compacted,
    Granted,
    Journal,
    ModeChosen,
    Opened,
    PutBack,
    Queued,
    Revoked,
    Rewound,
    State,
    TurnBegan,
    Unqueued,
)
from agent.cli.chat.record import events_of, said_of, worker_id
from agent.cli.chat.turn import LEASE_TTL_S, Ears, Ended, Means, Question, Turn
from agent.cli.chat.workplace import Host, Sandboxed, Workplace
from agent.cli.images import no_sight
from agent.errors import TaskOver
from agent.events import ApprovalDecided, ApprovalRequested
from agent.history import earlier
from agent.identity import DEFAULT_PROJECT
from agent.model import Delta, Model
from agent.permissions.policy import Asked, Decision, Grant, Mode, decide
from agent.profiles.base import Profile
from agent.steps.settings import LoopSettings
from agent.store.artifacts import NewImage
from agent.store.base import Claim, Store
from agent.store.open import open_store
from agent.tools.hook import Hooks
from agent.tools.mcp import ToolServers
from agent.tools.skill import Skill
from agent.types import Event, Limits, Message, ModelOptions, StopReason, TaskRequest, ToolCall, Usage
from sandbox.types import Backend

MAX_WORDS_CHARS = 100_000
"""Longest thing a user can say at once; more belongs into a file."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a conversation works with."""

    model: Model
    profile: Profile
    options: ModelOptions
    """With the model's name, by which later turns know whose reasoning they read."""
    limits: Limits
    loop: LoopSettings
    backend: Callable[[], Backend] | None
    """Makes sandboxes; None where commands run on the machine itself."""
    grants: tuple[Grant, ...] = ()
    """What the configuration allows for good."""
    servers: ToolServers | None = None
    """Other programs whose tools the profile has; None where there are none."""
    hooks: Hooks | None = None
    """Those for the end of a turn; those around calls are in the profile's tools."""
    skills: tuple[Skill, ...] = ()
    """What the profile's tool shows."""
    commands: tuple[CustomCommand, ...] = ()
    """The user's own."""
    takes_images: bool = False
    """Whether the model does."""


@dataclass(frozen=True, slots=True)
class Consent:
    """The user's answer to a question about a call."""

    allowed: bool
    always: tuple[Grant, ...] = ()
    reason: str = ""
    """The model reads it where the call is refused."""


class Audience:
    """Whoever follows a conversation. Every method is called after the thing is stored."""

    def event(self, event: Event) -> None:
        """Something happened in the turn."""

    def delta(self, step: int, delta: Delta) -> None:
        """A piece of an answer that is being written."""

    def conflict(self, paths: tuple[str, ...]) -> None:
        """Files changed on both sides; they stay as the user has them."""

    async def consent(self, call: ToolCall, asked: Asked) -> Consent:
        """Ask the user whether a call may be made."""
        return Consent(False, reason="nobody is there to be asked")

    async def answer(self, question: Question) -> str:
        """Ask the user what the agent wants to know."""
        return "nobody is there to be asked"


class Conversation:
    """Use :func:`open_conversation`."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        store: Store,
        history: FileHistory,
        workplace: Workplace,
        setting: Setting,
        audience: Audience,
        before: BeforeCalls,
        left: Claim | None,
    ) -> None:
        self.folder = folder
        self.history = history
        self._journal = journal
        self._store = store
        self._workplace = workplace
        self._setting = setting
        self._audience = audience
        self._before = before
        self._turn: Turn | None = None
        self._reading: asyncio.Future[str] | None = None
        """The files, before a turn."""
        self._left = left
        self._images = Images(folder / "images")
        self._model = Showing(setting.model, self._images) if setting.takes_images else setting.model
        self._project = store.of(DEFAULT_PROJECT)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def state(self) -> State:
        return self._journal.state

    @property
    def sandboxed(self) -> bool:
        return self._workplace.sandboxed

    @property
    def servers(self) -> Mapping[str, str]:
        """Programs whose tools the agent may call, and how it is with each."""
        return {} if self._setting.servers is None else self._setting.servers.states

    async def resources(self, server: str) -> Sequence[tuple[str, str]]:
        """What one of them has to read, and what each is; it is started for that where it must be."""
        return () if self._setting.servers is None else await self._setting.servers.resources(server)

    @property
    def skills(self) -> tuple[Skill, ...]:
        return self._setting.skills

    @property
    def commands(self) -> tuple[CustomCommand, ...]:
        return self._setting.commands

    @property
    def busy(self) -> bool:
        """A turn is under way, or waits to be taken up."""
        return self._turn is not None or self._reading is not None or self._left is not None

    @property
    def unfinished(self) -> bool:
        """The newest turn was under way when its process ended; :meth:`go_on` takes it up."""
        return self._left is not None

    async def say(self, text: str) -> Ended:
        """One turn: the agent works until it answers, finishes, reaches a limit or is interrupted."""
        assert not self.busy, "one turn at a time"
        before = await self._read_files()
        if before is None:
            return Ended(StopReason.CANCELLED, "interrupted before it began")
        request = TaskRequest(
            repository=str(self.history.root),
            problem_statement=text,
            limits=self._setting.limits,
            model=self._setting.options,
            review=False,
        )
        task = await self._project.submit(request)
        self._journal.add(TurnBegan(task_id=task.id, text=text, before=before))
        claim = await self._store.claim(worker_id(), LEASE_TTL_S)
        assert claim is not None, task
        return await self._work(claim)

    async def _read_files(self) -> str | None:
        """The tree of the folder as it is; None where the user interrupts that."""
        self._reading = asyncio.ensure_future(self.history.keep())
        try:
            await asyncio.wait({self._reading})
            return None if self._reading.cancelled() else self._reading.result()
        finally:
            self._reading.cancel()
            await asyncio.wait({self._reading})
            self._reading = None

    async def go_on(self) -> Ended:
        """Take up the turn that was left unfinished, where its log ends."""
        assert self._left is not None
        claim, self._left = self._left, None
        return await self._work(claim)

    async def drop_unfinished(self) -> None:
        """End the turn that was left unfinished."""
        assert self._left is not None
        claim, self._left = self._left, None
        await self._work(claim, interrupted=True)

    async def _work(self, claim: Claim, *, interrupted: bool = False) -> Ended:
        begun = self.state.turns[-1]
        means = Means(
            self._setting.profile,
            self._model,
            self._workplace,
            self._decide,
            await self.messages(turns=len(self.state.turns) - 1),
            lambda tree: self.history.patch(begun.before, tree),
            self._setting.loop,
        )
        ears = Ears(self._heard, self._audience.delta, self._consent, self._audience.answer)
        self._turn = Turn(self._store, self._project, claim, means, ears)
        if interrupted:
            self._turn.interrupt()
        try:
            ended = await self._turn.run()
            for text in self._turn.unheard:
                self.queue(text)
            if ended.stop_reason is StopReason.FINISHED:
                await self._ask_hooks(begun)
            return ended
        finally:
            self._turn = None

    def _heard(self, event: Event) -> None:
        self._before.event(event)
        self._audience.event(event)

    async def _ask_hooks(self, turn: TurnBegan) -> None:
        """A hook that is not content with the end of a turn begins another one; but not again with the end of that."""
        if self._setting.hooks is None or turn.text.startswith(_HOOK_SAYS):
            return
        said = await self._setting.hooks.run("stop", {}, self._workplace, turn.task_id)
        if said:
            self.queue(f"{_HOOK_SAYS} {said}")

    def interrupt(self) -> None:
        """End the turn now."""
        if self._turn:
            self._turn.interrupt()
        elif self._reading:
            self._reading.cancel()

    async def steer(self, text: str) -> None:
        """Say something into the turn; the agent reads it before its next answer, or as its next turn."""
        if self._turn is None:
            self.queue(text)
            return
        try:
            await self._turn.tell(text)
        except TaskOver:
            self.queue(text)

    async def messages(self, turns: int | None = None) -> list[Message]:
        """What the model is shown of the first ``turns`` turns, or of all."""
        return earlier(await said_of(self.state, self._project, turns), self._setting.options)

    async def events(self, turn: TurnBegan) -> tuple[Event, ...]:
        """The log of a turn."""
        return await events_of(self._project, turn)

    async def changed(self, turn: TurnBegan) -> tuple[Changed, ...]:
        """The calls of a turn that changed files."""
        return tuple(changes(turn, await self.events(turn), self.state.kept))

    async def usage(self) -> Usage:
        """Tokens of all turns, those that were rewound excepted."""
        tasks = [await self._project.get(turn.task_id) for turn in self.state.turns]
        return sum((task.usage for task in tasks), Usage())

    async def aside(self, question: str) -> str:
        """The model's answer to something beside the matter; neither is remembered."""
        asked = {"role": "user", "content": f"{_ASIDE}\n\n{question}"}
        return await self._answer_now(asked)

    async def _answer_now(self, asked: Message) -> str:
        system = {"role": "system", "content": self._setting.profile.system_prompt(datetime.now(UTC).date())}
        options = self._setting.options.model_copy(update={"thinking": False})
        said = earlier(await said_of(self.state, self._project), options)
        completion = await self._model.complete([system, *said, asked], [], options)
        return completion.message.content.strip()

    async def compact(self, focus: str = "") -> str:
        """Have the model sum up what was said; from now on it reads that instead. Nothing is deleted."""
        asked = _SUM_UP + (f" Above all: {focus}" if focus else "")
        summary = await self._answer_now({"role": "user", "content": asked})
        if summary:
            self._journal.add(Compacted(turns=len(self.state.turns), summary=summary))
        return summary

    def rewind(self, turns: int) -> None:
        """Forget all but the first ``turns`` turns; their files are another matter."""
        self._journal.add(Rewound(turns=turns))

    async def put_back(self, tree: str) -> None:
        """Make the files what they were then."""
        until_now = await self.history.put_back(tree)
        self._journal.add(PutBack(tree=tree, until_now=until_now))

    def choose(self, mode: Mode) -> None:
        self._journal.add(ModeChosen(mode=mode))

    def revoke(self, grant: Grant) -> None:
        self._journal.add(Revoked(grant=grant))

    def attach(self, image: NewImage, name: str) -> str:
        """Take an image in; the model sees it where the user says the words that this returns.

        Raises:
            Failure: the model takes none.
        """
        if not self._setting.takes_images:
            raise no_sight(self._setting.options.name or "the model")
        return self._images.keep(image, name)

    def queue(self, text: str) -> None:
        """To be said when the turn is over."""
        self._journal.add(Queued(text=text))

    def unqueue(self, *, newest: bool = False) -> str | None:
        """Take a word out of the queue; None where it is empty."""
        queue = self.state.queue
        if not queue:
            return None
        self._journal.add(Unqueued(end="newest" if newest else "oldest"))
        return queue[-1 if newest else 0]

    def _decide(self, call: ToolCall) -> Decision:
        grants = (*self._setting.grants, *self.state.grants)
        return decide(call, self.state.mode, grants, sandboxed=self.sandboxed)

    async def _consent(self, request: ApprovalRequested) -> ApprovalDecided:
        decision = self._decide(request.call)
        # The mode may have changed since the question was written down.
        asked = decision if isinstance(decision, Asked) else Asked(())
        consent = await self._audience.consent(request.call, asked) if asked.parts else Consent(True)
        for grant in consent.always:
            self._journal.add(Granted(grant=grant))
        return ApprovalDecided(
            approval_id=request.approval_id,
            decision="allow" if consent.allowed else "deny",
            scope="task" if consent.always else "once",
            reason=consent.reason,
        )


_HOOK_SAYS = "[a hook says]"
_ASIDE = "Answer in short, without a call; the work goes on as before:"
_SUM_UP = (
    "Sum up this conversation for whoever goes on with it: what the user wants, what was found out, which files were "
    "changed and how, what is still to be done. Facts only, no more than a page. Call no tool."
)


@asynccontextmanager
async def open_conversation(
    folder: Path, root: Path, setting: Setting, audience: Audience, *, wait_s: float = LEASE_TTL_S + 2
) -> AsyncIterator[Conversation]:
    """The conversation kept in ``folder``, which is made where it is missing.

    Raises:
        ConversationBusy: another terminal has it open.
        JournalDamaged: its journal cannot be read.
        GitError: the history of the files cannot be kept.
        StoreError: its store cannot be opened.
    """
    await anyio.Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds private words and files
    async with AsyncExitStack() as stack:
        stack.enter_context(alone(folder))
        journal = Journal(folder / "journal.jsonl")
        if not journal.state.root:
            journal.add(Opened(root=str(root), at=datetime.now(UTC)))
        store = await stack.enter_async_context(open_store(f"sqlite:///{folder / 'turns.db'}"))
        left = await _unfinished(store, journal.state, wait_s)
        history = await FileHistory.open(root, folder / "files.git")
        before = BeforeCalls(journal)
        workplace: Workplace
        if setting.backend is None:
            workplace = Host(history, before.tree)
        else:
            workplace = Sandboxed(history, setting.backend, folder / "checkpoints", audience.conflict, before.tree)
        stack.push_async_callback(workplace.leave)
        yield Conversation(folder, journal, store, history, workplace, setting, audience, before, left)


async def _unfinished(store: Store, state: State, wait_s: float) -> Claim | None:
    """The newest turn, where its process ended before it did; it is ours once that process's lease has run out."""
    if not state.turns:
        return None
    task = await store.of(DEFAULT_PROJECT).get(state.turns[-1].task_id)
    if task.status.terminal:
        return None
    deadline = time.monotonic() + wait_s
    while (claim := await store.claim(worker_id(), LEASE_TTL_S)) is None:
        if time.monotonic() > deadline:
            raise ConversationBusy("the last turn is still under way in another process")
        await asyncio.sleep(0.2)
    return claim
