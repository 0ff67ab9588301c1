"""The records of the agent: what was asked, what happened, what came of it.

Everything here crosses a process or is stored, so everything is a frozen pydantic model that refuses unknown
fields. Words are those of ``docs/architecture.md``.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sandbox.hosts import AllowedHost, HostName

Keep = Callable[[str, bytes], Awaitable[None]]
"""Keeps bytes of a run under a name that is unique in it, such as ``outputs/3-0.txt``."""

Message = dict[str, Any]
"""A chat message in OpenAI's wire shape; ``agent.history`` alone makes them."""


class Status(StrEnum):
    """State of the service's work on a task."""

    QUEUED = "queued"
    PROVISIONING = "provisioning"
    RUNNING = "running"
    WAITING = "waiting"
    """For what ``waiting_on`` says; no worker has the run."""
    PAUSED = "paused"
    """Until the user resumes it; no worker has the run."""
    FINALIZING = "finalizing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Its time in the queue, or waiting for the user, ran out."""

    @property
    def terminal(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED)

    @property
    def parked(self) -> bool:
        return self in (Status.WAITING, Status.PAUSED)


class WaitingOn(StrEnum):
    """What a run waits for."""

    APPROVAL = "approval"
    """The user's decision on a tool call."""
    QUESTION = "question"
    """The user's answer."""
    BUDGET = "budget"
    """A higher limit of the task."""
    QUOTA = "quota"
    """The project's quota; tried again after seconds, later every minute."""
    CAPACITY = "capacity"
    """The model or the sandboxes; tried again after seconds, later every minute."""


class Priority(StrEnum):
    """How urgent a task is among those of its project."""

    BACKGROUND = "background"
    """Nobody waits for it: it has few turns while others of its project wait, and waits do not change that."""
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class StopReason(StrEnum):
    """Why the agent stopped."""

    FINISHED = "finished"
    STEP_LIMIT = "step_limit"
    TOKEN_BUDGET = "token_budget"
    COST_BUDGET = "cost_budget"
    WALL_CLOCK = "wall_clock"
    ERROR_LIMIT = "error_limit"
    SANDBOX_LIFETIME = "sandbox_lifetime"
    STUCK = "stuck"
    FORMAT_ERRORS = "format_errors"
    CONTEXT_EXHAUSTED = "context_exhausted"
    MODEL_ERROR = "model_error"
    SANDBOX_LOST = "sandbox_lost"
    POLICY_DENIED = "policy_denied"
    CANCELLED = "cancelled"


class VerdictKind(StrEnum):
    """What the checks proved about the patch."""

    VERIFIED = "verified"
    """Every check passes with the patch, in a fresh sandbox."""
    PARTLY_VERIFIED = "partly_verified"
    """Some checks pass; none that passed before the patch fails now."""
    UNVERIFIED = "unverified"
    """No check passes that would prove the patch, or there are no checks."""
    NO_CHANGE = "no_change"
    """The patch is empty."""
    REGRESSED = "regressed"
    """A check that passed before the patch fails with it."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Record):
    """A command that proves something about the work tree: exit code 0 is a pass."""

    command: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    timeout_s: float = Field(300.0, gt=0, le=3600)


class SetUp(_Record):
    """A script that makes the files ready for work: it installs what they need, or builds them."""

    script: Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
    """For the shell, in the work tree; exit code 0 is success. Of what it leaves, the work tree is kept."""
    timeout_s: float = Field(600.0, gt=0, le=3600)


class Said(_Record):
    """A message of an earlier conversation, as models are shown it."""

    role: Literal["user", "assistant", "tool"]
    content: str
    reasoning_content: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None
    model: str | None = Field(
        None,
        description="Who answered, where that may be another model than the task's. What was thought up to the last "
        "answer of another model, or of one that was asked to think otherwise, is not shown to the task's.",
    )
    thinking: bool | Literal["auto"] | None = Field(
        None, description="How it was asked to think, as `model.thinking` of a task; null is as the task's."
    )


class Limits(_Record):
    """Where a run ends by itself. Every limit has its own stop reason."""

    max_steps: int = Field(50, gt=0, le=1000, description="Model calls.")
    max_tokens: int = Field(2_000_000, gt=0, description="Prompt tokens not cached, plus completion tokens.")
    wall_clock_s: float = Field(1800.0, gt=0, le=86_400)
    command_timeout_s: float = Field(60.0, gt=0, le=3600, description="Default for one command, s.")
    max_cost: float | None = Field(
        None, gt=0, description="What model calls may cost, in the currency of the service's prices."
    )
    max_error_steps: int = Field(20, gt=0, le=1000, description="Steps in a row of which nothing but errors came.")
    sandbox_lifetime_s: float | None = Field(
        None,
        gt=0,
        le=86_400,
        description="Age at which the agent's sandbox ends, and the run with it, s; after a wait there is a new one. "
        "Null: as long as the run may work.",
    )


class ModelOptions(_Record):
    """How the model is asked."""

    name: str | None = Field(None, description="Served model name; None takes the service's default.")
    temperature: float = Field(0.3, ge=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    seed: int | None = Field(None, ge=0, description="Makes sampling repeatable where the endpoint supports it.")
    thinking: bool | Literal["auto"] = Field(
        True, description="`auto` answers without thinking until something fails, and thinks from then on."
    )
    max_tokens: int = Field(4096, gt=0, description="Completion tokens of one model call.")


_PART = r"\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*"

WorkPath = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=rf"^{_PART}(/{_PART})*$")]
"""A file, from the root of the repository."""


Approvals = Literal["none", "auto", "accept edits", "ask", "plan"]
"""Which calls of a task's agent wait for a word."""

ProfileName = Literal["native", "assistant", "mini"]
"""Which prompt and tools an agent has."""


class TaskRequest(_Record):
    """What a caller submits. Validated once, at the edge."""

    repository: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """Name of a repository of the project, or the absolute path of one on the service's machine."""
    base_commit: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "HEAD"
    changes: str = Field(
        "", description="Patch against base_commit, as `git diff --binary` makes it: what the task starts from besides."
    )
    problem_statement: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
    conversation: tuple[Said, ...] = Field((), description="What was said before; the model reads it in front.")
    checks: tuple[Check, ...] = ()
    limits: Limits = Limits()
    model: ModelOptions = ModelOptions()
    attempts: int = Field(1, ge=1, le=8, description="Independent runs until one is verified; the best is selected.")
    profile: ProfileName = "native"
    on_limit: Literal["stop", "ask"] = Field(
        "stop", description="At a limit: end the run, or wait until somebody raises the limit."
    )
    approvals: Approvals = Field(
        "none",
        description="Which tool calls wait for the user's word. `auto`: what can lose work; `accept edits`: also what "
        "is neither reading nor editing; `ask`: all but reading. `plan` refuses all but reading.",
    )
    review: bool | None = Field(
        None,
        description="Whether the first `finish` runs the checks, and shows them and the patch to the model for one "
        "more turn. Null takes the profile's custom.",
    )
    image: str = "host"
    setup: SetUp | None = Field(None, description="Run once in a sandbox before the agent comes; its work is kept.")
    allow_hosts: tuple[AllowedHost, ...] | None = Field(
        None, max_length=100, description="Of the hosts that sandboxes may reach here, those it needs; null is all."
    )
    deny_hosts: tuple[HostName, ...] = Field(
        (),
        max_length=100,
        description="Hosts, with those below them, that the agent may not reach; the set-up may. An entry of the "
        "service's list that leads there and elsewhere is of no use to it.",
    )
    benchmark: bool = Field(
        False,
        description="It is measured: the agent reaches no public git host and no package index, nor the host of its "
        "repository, has no skills and MCP servers of its project, and calls that look for the answer where it may "
        "stand are remarked upon.",
    )
    priority: Priority = Priority.NORMAL
    labels: dict[str, str] = Field(default_factory=dict, max_length=32)
    artifacts: tuple[WorkPath, ...] = Field(
        (), max_length=32, description="Files of the work tree that are kept when the agent stops, also ignored ones."
    )


class Usage(_Record):
    """Tokens as the endpoint counted them, summed over model calls."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens - other.prompt_tokens,
            cached_tokens=self.cached_tokens - other.cached_tokens,
            completion_tokens=self.completion_tokens - other.completion_tokens,
            reasoning_tokens=self.reasoning_tokens - other.reasoning_tokens,
        )


class ToolCall(_Record):
    """A call as the model wrote it; ``arguments`` is the endpoint's JSON text, byte for byte."""

    id: str
    name: str
    arguments: str


class AssistantMessage(_Record):
    """One model answer, kept exactly.

    ``reasoning_content`` has three states: ``None`` (the endpoint sent no such field), ``""`` and text.
    """

    content: str = ""
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None


class TokenRecord(_Record):
    """The tokens of an answer as the engine sampled them, for training; None where it did not say."""

    format: Literal["mimo-coder-tokens-1"] = "mimo-coder-tokens-1"
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    """Natural logarithms of the model's own probabilities, one for each token."""
    routed_experts: str | None = None
    """Bytes in base 64, of every token of prompt and answer but the last."""
    routed_experts_shape: tuple[int, ...] | None = None
    """Tokens, layers with experts, experts of a token."""


class Observation(_Record):
    """What a tool call gave back."""

    call_id: str
    text: str
    """What the model reads."""
    error: bool = False
    duration_s: float = 0.0
    truncated_bytes: int = 0
    """Bytes of output the model does not see."""


class Evidence(_Record):
    """One check as it was run, and on which tree."""

    command: str
    exit_code: int | None
    """None where the command did not end by itself (deadline, memory, output limit)."""
    passed: bool
    passed_before: bool | None = None
    """Whether the same check passed without the patch; None where that was not run."""
    output: str
    """End of the output, at most 4,000 characters."""
    tree: str
    """Git tree id the check ran on."""
    duration_s: float


class Verdict(_Record):
    """What the checks say about the patch, with evidence."""

    kind: VerdictKind
    evidence: tuple[Evidence, ...] = ()
    reproduced: bool | None = None
    """Whether a test of the problem, which fails without the patch, passes with it; None where there is none."""
    tree: str | None = None
    """Git tree that the patch makes; None in verdicts of before it was kept. Equal trees are equal patches."""


class Event(_Record):
    """One immutable entry of a task's log. The log is the truth; everything else is derived from it."""

    task_id: str
    seq: int
    """Position in the task's log, from 1, without holes."""
    run_id: str | None
    generation: int
    type: str
    body: dict[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The work tree after a call, as it is kept."""

    tree: str
    """Git tree, which is what a patch is made of."""
    checkpoint: str | None = None
    """All of it, also what git leaves out; None where the sandbox cannot be kept so."""
