"""Every operation of the REST API. Written by ``python -m deploy.client``; what is changed here is lost."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NotRequired, TypedDict
from urllib.parse import quote

Send = Callable[[str, str, dict[str, Any], dict[str, str], Any], Awaitable[bytes]]
"""Sends a request, and returns the body of an answer that is none of an error: method, path, parameters of the query,
headers, and what is sent as JSON, None for nothing."""


class Account(TypedDict):
    login: str
    type: NotRequired[str]


class Alive(TypedDict):
    status: NotRequired[Literal["alive"]]


class ApiKey(TypedDict):
    """What is known of a key: everything but the key."""

    id: str
    project_id: str
    name: str
    scopes: list[
        Literal["tasks:read", "reasoning:read", "tasks:write", "approvals:write", "projects:admin", "service:admin"]
    ]
    created_by: str
    created_at: str
    expires_at: NotRequired[str | None]
    revoked_at: NotRequired[str | None]
    last_used_at: NotRequired[str | None]


class App(TypedDict):
    slug: NotRequired[str]


class ApprovalList(TypedDict):
    approvals: list[ApprovalView]


class ApprovalView(TypedDict):
    """A call that a run wants to make."""

    id: str
    task_id: str
    run_id: str
    step: int
    tool: str
    arguments: str
    parts: list[str]
    requested_at: str
    decision: Literal["allow", "deny"] | None
    scope: Literal["once", "task"] | None
    reason: str | None
    edited_args: str | None


class Artifact(TypedDict):
    """One of them, without its bytes."""

    name: str
    run_id: str
    media_type: str
    size: int
    sha256: str
    created_at: str


class ArtifactLink(TypedDict):
    """Whoever has the address may read the artifact, until it ends."""

    url: str
    until: str


class ArtifactList(TypedDict):
    artifacts: list[Artifact]


class AssistantMessage(TypedDict):
    """One model answer, kept exactly."""

    content: NotRequired[str]
    reasoning_content: NotRequired[str | None]
    tool_calls: NotRequired[list[ToolCall]]
    finish_reason: NotRequired[str | None]


class AttemptView(TypedDict):
    """One run of a task."""

    run_id: str
    attempt: int
    status: Status
    stop_reason: StopReason | None
    verdict: Verdict | None
    steps: int
    usage: Usage
    selected: bool
    error: str | None


class AuditEntry(TypedDict):
    """Who did what, when."""

    project_id: str
    subject: str
    kind: str
    action: str
    target: str
    status: int
    request_id: str
    at: str


class AuditPage(TypedDict):
    entries: list[AuditEntry]
    next_cursor: str | None


class BudgetGranted(TypedDict):
    """New limits, where they are higher than the old ones."""

    max_steps: NotRequired[int | None]
    max_tokens: NotRequired[int | None]
    wall_clock_s: NotRequired[float | None]
    max_cost: NotRequired[float | None]
    max_error_steps: NotRequired[int | None]
    sandbox_lifetime_s: NotRequired[float | None]


class CachedTokens(TypedDict):
    cached_tokens: int


class ChatAnswer(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: str
    reasoning_content: str


class ChatChoice(TypedDict):
    index: NotRequired[Literal[0]]
    message: ChatAnswer
    finish_reason: Literal["stop", "length"]


class ChatChunk(TypedDict):
    """A piece of an answer that is streamed; the last with a choice has ``mimo``."""

    id: str
    object: NotRequired[Literal["chat.completion.chunk"]]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[ChatUsage | None]
    mimo: NotRequired[TaskOutcome | None]


class ChatCompletion(TypedDict):
    id: str
    object: NotRequired[Literal["chat.completion"]]
    created: int
    model: str
    choices: list[Any]
    usage: ChatUsage
    mimo: TaskOutcome


class ChatDelta(TypedDict):
    role: NotRequired[Literal["assistant"] | None]
    content: NotRequired[str | None]
    reasoning_content: NotRequired[str | None]


class ChatError(TypedDict):
    """The same where chat programs look for it."""

    message: str
    type: str
    code: str


class ChatMessage(TypedDict):
    role: str
    content: NotRequired[str | list[ContentPart] | None]


class ChatMetadata(TypedDict):
    """Which task is meant, where the model's name and the conversation do not say it."""

    repository: NotRequired[str | None]
    base_commit: NotRequired[str | None]
    task_id: NotRequired[str | None]


class ChatModel(TypedDict):
    """A model, as OpenAI's API lists it."""

    id: str
    object: NotRequired[Literal["model"]]
    created: NotRequired[int]
    owned_by: NotRequired[Literal["mimo-coder"]]


class ChatRequest(TypedDict):
    """The last message, which is the user's, is what the agent is told."""

    model: str
    messages: list[ChatMessage]
    stream: NotRequired[bool]
    stream_options: NotRequired[StreamOptions | None]
    metadata: NotRequired[ChatMetadata | None]
    n: NotRequired[Literal[1] | None]


class ChatUsage(TypedDict):
    """Of the task as a whole."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class Check(TypedDict):
    """A command that proves something about the work tree: exit code 0 is a pass."""

    command: str
    timeout_s: NotRequired[float]


class CheckSuite(TypedDict):
    """Checks that a program ran on a commit."""

    id: int
    conclusion: NotRequired[str | None]
    head_sha: str
    app: NotRequired[App | None]
    pull_requests: NotRequired[list[HookPullRequest]]


class Checkpoint(TypedDict):
    """A complete step."""

    run_id: str
    step: int
    seq: int
    at: str
    did: str
    files: Literal["all", "tracked", "base"]


class CheckpointList(TypedDict):
    checkpoints: list[Checkpoint]


class ChunkChoice(TypedDict):
    index: NotRequired[Literal[0]]
    delta: ChatDelta
    finish_reason: NotRequired[Literal["stop", "length"] | None]


class ContentPart(TypedDict):
    type: str
    text: NotRequired[str]
    image_url: NotRequired[ImageUrl | None]


class Conversation(TypedDict):
    """A run as the messages of its last model call, and what came of it."""

    run_id: str
    attempt: int
    status: Status
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    mining: NotRequired[Mining | None]


class CreatedKey(TypedDict):
    """The only answer that holds the key itself."""

    key: ApiKey
    secret: str


class CreatedWebhook(TypedDict):
    """The only answer that holds the secret."""

    webhook: Webhook
    secret: str


class Decision(TypedDict):
    """A user's word on a call."""

    decision: Literal["allow", "deny"]
    scope: NotRequired[Literal["once", "task"]]
    reason: NotRequired[str]
    edited_args: NotRequired[str | None]


class DeliveryList(TypedDict):
    """Messages, newest first."""

    deliveries: list[DeliveryRecord]
    next_cursor: str | None


class DeliveryRecord(TypedDict):
    """One message to one service, and what became of it."""

    id: str
    type: Literal["task.submitted", "run.parked", "approval.requested", "run.finished", "task.finished"]
    body: dict[str, Any]
    status: Literal["pending", "delivered", "failed"]
    created_at: str
    due: str | None
    tries: list[Try]


class DiffView(TypedDict):
    patch: str
    files: list[FileChange]


class EvalList(TypedDict):
    """Newest first."""

    evals: list[Evaluation]
    next_cursor: str | None


class EvalReport(TypedDict):
    """What the tasks came to by now, as far as they are kept."""

    resolved: Rate
    verdicts: dict[str, int]
    stop_reasons: dict[str, int]
    mean_steps: float
    usage: UsageView


class EvalTaskView(TypedDict):
    """One of the tasks, as its selected attempt left it."""

    task_id: str
    labels: dict[str, str]
    status: Status
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    steps: int
    duration_s: float | None
    error: str | None


class EvalView(TypedDict):
    """An evaluation as a whole."""

    id: str
    name: str
    suite: str | None
    num_tasks: int
    statuses: dict[str, int]
    cancel_requested: bool
    created_by: str
    created_at: str
    ended: bool
    finished_at: str | None
    report: EvalReport
    tasks: list[EvalTaskView]


class Evaluation(TypedDict):
    """What some tasks have in common."""

    id: str
    name: str
    suite: str | None
    num_tasks: int
    statuses: dict[str, int]
    cancel_requested: bool
    created_by: str
    created_at: str


class EventPage(TypedDict):
    events: list[EventView]
    next_after: int
    ended: bool


class EventView(TypedDict):
    """One entry of a task's log."""

    seq: int
    type: str
    run_id: str | None
    at: str
    body: dict[str, Any]


class Evidence(TypedDict):
    """One check as it was run, and on which tree."""

    command: str
    exit_code: int | None
    passed: bool
    passed_before: NotRequired[bool | None]
    output: str
    tree: str
    duration_s: float


class FieldError(TypedDict):
    """One rejected value."""

    pointer: NotRequired[str | None]
    parameter: NotRequired[str | None]
    detail: str


class FileChange(TypedDict):
    """One file of a patch."""

    path: str
    added: int
    removed: int
    binary: NotRequired[bool]


class ForkPoint(TypedDict):
    """Where another task goes on."""

    at_event: int
    message: NotRequired[str | None]
    images: NotRequired[list[Image]]
    limits: NotRequired[Limits | None]


class GitHubDelivery(TypedDict):
    """The body of any event; which members there are depends on it."""

    action: NotRequired[str]
    sender: NotRequired[Account | None]
    repository: NotRequired[HookRepository | None]
    issue: NotRequired[Issue | None]
    label: NotRequired[Label | None]
    comment: NotRequired[ReviewComment | None]
    pull_request: NotRequired[HookPullRequest | None]
    review: NotRequired[Review | None]
    check_suite: NotRequired[CheckSuite | None]
    workflow_run: NotRequired[WorkflowRun | None]


class Head(TypedDict):
    """The branch that shall be merged."""

    ref: str
    sha: str
    repo: NotRequired[HeadRepository | None]


class HeadRepository(TypedDict):
    id: int


class HookAnswer(TypedDict):
    """What came of a delivery; GitHub shows it in its list of them."""

    task_id: str
    message_id: str | None


class HookPullRequest(TypedDict):
    number: int
    head: Head


class HookRepository(TypedDict):
    id: int
    full_name: str
    clone_url: str
    ssh_url: str


class Image(TypedDict):
    """A picture in a message."""

    media_type: Literal["image/png", "image/jpeg", "image/webp"]
    data: str


class ImageUrl(TypedDict):
    url: str


class Issue(TypedDict):
    """An issue, or the conversation of a pull request."""

    number: int
    title: str
    body: NotRequired[str | None]
    user: NotRequired[Account | None]
    author_association: NotRequired[str]
    labels: NotRequired[list[Label]]
    pull_request: NotRequired[PullRequestLink | None]


class KeyList(TypedDict):
    api_keys: list[ApiKey]


class Label(TypedDict):
    name: str


class Limits(TypedDict):
    """Where a run ends by itself. Every limit has its own stop reason."""

    max_steps: NotRequired[int]
    max_tokens: NotRequired[int]
    wall_clock_s: NotRequired[float]
    command_timeout_s: NotRequired[float]
    max_cost: NotRequired[float | None]
    max_error_steps: NotRequired[int]
    sandbox_lifetime_s: NotRequired[float | None]


class LimitsView(TypedDict):
    requests_per_minute: int | None
    streams_per_caller: int
    streams_per_project: int
    max_body_bytes: int
    max_running: int | None
    max_running_per_user: int | None
    daily_tokens: int | None
    daily_tokens_per_user: int | None
    daily_cost: float | None
    daily_cost_per_user: float | None
    monthly_cost: float | None
    monthly_cost_per_user: float | None
    weight: float
    retention_days: int | None
    task_defaults: Limits


class LinkWanted(TypedDict):
    """Which artifact, and for how long."""

    name: str
    valid_s: NotRequired[int]


class LoginOffer(TypedDict):
    """How people sign in from a terminal: by the device authorization grant (RFC 8628) of this issuer."""

    issuer: str
    client_id: str
    scopes: list[str]


class McpServerList(TypedDict):
    mcp_servers: list[ProjectMcpServer]


class McpServerSettings(TypedDict):
    """Where a server is, and what of it agents may use."""

    url: str
    headers: NotRequired[dict[str, Any]]
    tools: NotRequired[list[str] | None]
    timeout_s: NotRequired[float]


class Me(TypedDict):
    """Who the service takes the caller for."""

    subject: str
    kind: Literal["key", "oidc", "workload", "local"]
    project: str
    scopes: list[
        Literal["tasks:read", "reasoning:read", "tasks:write", "approvals:write", "projects:admin", "service:admin"]
    ]


class MessageList(TypedDict):
    messages: list[MessageView]


class MessageText(TypedDict):
    """A message to a task."""

    text: str
    images: NotRequired[list[Image]]
    delivery: NotRequired[Literal["steer", "queue", "interrupt"]]
    expected_run_id: NotRequired[str | None]


class MessageView(TypedDict):
    """A message, and whether the agent has read it."""

    id: str
    text: str
    images: NotRequired[list[str]]
    delivery: Literal["steer", "queue", "interrupt"]
    state: Literal["queued", "taken", "removed"]
    seq: int
    at: str


class MiniInfo(TypedDict):
    exit_status: str
    submission: str
    model_stats: MiniStats


class MiniStats(TypedDict):
    instance_cost: float
    api_calls: int


class MiniTrajectory(TypedDict):
    """The selected run as mini-swe-agent writes its own, for tools that read those."""

    trajectory_format: NotRequired[Literal["mini-swe-agent-1.1"]]
    instance_id: str
    info: MiniInfo
    messages: list[dict[str, Any]]


class Mining(TypedDict):
    """What a run's calls say."""

    remarks: NotRequired[list[Remark]]
    num_unread: NotRequired[int]


class ModelList(TypedDict):
    models: list[ModelView]
    object: NotRequired[Literal["list"]]
    data: list[ChatModel]


class ModelOptions(TypedDict):
    """How the model is asked."""

    name: NotRequired[str | None]
    temperature: NotRequired[float]
    top_p: NotRequired[float]
    seed: NotRequired[int | None]
    thinking: NotRequired[bool | Literal["auto"]]
    max_tokens: NotRequired[int]


class ModelView(TypedDict):
    name: str
    default: bool
    prices: Prices | None


class NativeTrajectory(TypedDict):
    """The log itself; the others are derived from it."""

    format: NotRequired[Literal["mimo-coder-native-1"]]
    task_id: str
    events: list[EventView]


class NewEval(TypedDict):
    """Its tasks are given here, or are a suite of the service; one of the two."""

    name: str
    tasks: NotRequired[list[TaskRequest] | None]
    suite: NotRequired[str | None]
    attempts: NotRequired[int | None]
    model: NotRequired[ModelOptions | None]
    benchmark: NotRequired[bool | None]


class NewKey(TypedDict):
    name: str
    scopes: list[
        Literal["tasks:read", "reasoning:read", "tasks:write", "approvals:write", "projects:admin", "service:admin"]
    ]
    expires_at: NotRequired[str | None]


class NewMcpServer(TypedDict):
    url: str
    headers: NotRequired[dict[str, Any]]
    tools: NotRequired[list[str] | None]
    timeout_s: NotRequired[float]
    name: str


class NewProject(TypedDict):
    weight: NotRequired[float]
    max_running: NotRequired[int | None]
    max_running_per_user: NotRequired[int | None]
    daily_tokens: NotRequired[int | None]
    daily_tokens_per_user: NotRequired[int | None]
    daily_cost: NotRequired[float | None]
    daily_cost_per_user: NotRequired[float | None]
    monthly_cost: NotRequired[float | None]
    monthly_cost_per_user: NotRequired[float | None]
    retention_days: NotRequired[int | None]
    id: str


class NewRepo(TypedDict):
    url: str
    default_branch: NotRequired[str | None]
    credential: NotRequired[str | None]
    username: NotRequired[str]
    host_key: NotRequired[str]
    image: NotRequired[str | None]
    setup: NotRequired[SetUp | None]
    checks: NotRequired[list[Check]]
    allow_hosts: NotRequired[list[str] | None]
    forge: NotRequired[Literal["github", "gitlab"] | None]
    forge_url: NotRequired[str | None]
    forge_credential: NotRequired[str | None]
    mention: NotRequired[str]
    name: str


class NewSchedule(TypedDict):
    name: str
    cron: str
    time_zone: NotRequired[str]
    task: TaskRequest
    overlap: NotRequired[Literal["skip", "queue", "replace", "allow"]]
    enabled: NotRequired[bool]


class NewSecret(TypedDict):
    value: str


class NewSkill(TypedDict):
    description: str
    text: str
    name: str


class NewTask(TypedDict):
    """A task to queue, with what its problem looks like."""

    repository: str
    base_commit: NotRequired[str]
    changes: NotRequired[str]
    problem_statement: str
    conversation: NotRequired[list[Said]]
    checks: NotRequired[list[Check]]
    limits: NotRequired[Limits]
    model: NotRequired[ModelOptions]
    attempts: NotRequired[int]
    profile: NotRequired[Literal["native", "assistant", "mini"]]
    on_limit: NotRequired[Literal["stop", "ask"]]
    approvals: NotRequired[Literal["none", "auto", "accept edits", "ask", "plan"]]
    review: NotRequired[bool | None]
    image: NotRequired[str]
    setup: NotRequired[SetUp | None]
    allow_hosts: NotRequired[list[str] | None]
    deny_hosts: NotRequired[list[str]]
    benchmark: NotRequired[bool]
    priority: NotRequired[Priority]
    labels: NotRequired[dict[str, str]]
    artifacts: NotRequired[list[str]]
    images: NotRequired[list[Image]]


class NewWebhook(TypedDict):
    url: str
    events: NotRequired[
        list[Literal["task.submitted", "run.parked", "approval.requested", "run.finished", "task.finished"]]
    ]


class OpenaiTrajectory(TypedDict):
    """Runs as chat conversations, in the shape in which they were sent; aborted answers are not part of them."""

    format: NotRequired[Literal["mimo-coder-openai-1"]]
    task_id: str
    runs: list[Conversation]


class Prices(TypedDict):
    """What a million tokens cost, in a currency of the operator's choice."""

    prompt: float
    cached: float
    completion: float


Priority = Literal["background", "low", "normal", "high"]


class ProblemDocument(TypedDict):
    """RFC 9457, with this service's extra members."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    remedy: str
    request_id: str
    errors: NotRequired[list[FieldError]]
    error: NotRequired[ChatError | None]


class ProjectList(TypedDict):
    projects: list[ProjectView]


class ProjectMcpServer(TypedDict):
    """A server of tools of a project."""

    url: str
    headers: NotRequired[dict[str, Any]]
    tools: NotRequired[list[str] | None]
    timeout_s: NotRequired[float]
    name: str
    updated_by: str
    updated_at: str


class ProjectSkill(TypedDict):
    """A skill of a project."""

    description: str
    text: str
    name: str
    updated_by: str
    updated_at: str


class ProjectView(TypedDict):
    weight: NotRequired[float]
    max_running: NotRequired[int | None]
    max_running_per_user: NotRequired[int | None]
    daily_tokens: NotRequired[int | None]
    daily_tokens_per_user: NotRequired[int | None]
    daily_cost: NotRequired[float | None]
    daily_cost_per_user: NotRequired[float | None]
    monthly_cost: NotRequired[float | None]
    monthly_cost_per_user: NotRequired[float | None]
    retention_days: NotRequired[int | None]
    id: str


class PullRequestLink(TypedDict):
    """Says by being there that an issue is the conversation of a pull request."""


class PullRequestView(TypedDict):
    number: int
    url: str
    branch: str
    created: bool


class PullRequestWanted(TypedDict):
    """What is left out, or null, is made of the task."""

    title: NotRequired[str | None]
    body: NotRequired[str | None]
    base: NotRequired[str | None]
    draft: NotRequired[bool]
    onto: NotRequired[str | None]


class QueuePlace(TypedDict):
    """Where a task stands, and why it is not served yet."""

    position: int | None
    reason: str


class QueueView(TypedDict):
    """Tasks of the project that are not over."""

    num_queued: int
    num_working: int
    num_waiting: int
    num_paused: int
    oldest_queued_s: float


class Quotas(TypedDict):
    """A project's part of the workers; what is left out stays as it is."""

    weight: NotRequired[float]
    max_running: NotRequired[int | None]
    max_running_per_user: NotRequired[int | None]
    daily_tokens: NotRequired[int | None]
    daily_tokens_per_user: NotRequired[int | None]
    daily_cost: NotRequired[float | None]
    daily_cost_per_user: NotRequired[float | None]
    monthly_cost: NotRequired[float | None]
    monthly_cost_per_user: NotRequired[float | None]
    retention_days: NotRequired[int | None]


class Rate(TypedDict):
    """How many of how many."""

    total: int
    resolved: int
    rate: float
    interval: list[Any]


class Ready(TypedDict):
    """Every part that was looked at works."""

    status: NotRequired[Literal["ready"]]
    checks: dict[str, Literal["ok"]]


class ReasoningTokens(TypedDict):
    reasoning_tokens: int


class Remark(TypedDict):
    """One call that looked there."""

    step: int
    place: Literal["history", "reflog", "objects", "remote", "forge", "index"]
    call: str


class Repo(TypedDict):
    """A repository of a project."""

    url: str
    default_branch: NotRequired[str | None]
    credential: NotRequired[str | None]
    username: NotRequired[str]
    host_key: NotRequired[str]
    image: NotRequired[str | None]
    setup: NotRequired[SetUp | None]
    checks: NotRequired[list[Check]]
    allow_hosts: NotRequired[list[str] | None]
    forge: NotRequired[Literal["github", "gitlab"] | None]
    forge_url: NotRequired[str | None]
    forge_credential: NotRequired[str | None]
    mention: NotRequired[str]
    name: str
    updated_by: str
    updated_at: str


class RepoList(TypedDict):
    repos: list[Repo]


class RepoSettings(TypedDict):
    """Where a repository is, and what its tasks get that name nothing else."""

    url: str
    default_branch: NotRequired[str | None]
    credential: NotRequired[str | None]
    username: NotRequired[str]
    host_key: NotRequired[str]
    image: NotRequired[str | None]
    setup: NotRequired[SetUp | None]
    checks: NotRequired[list[Check]]
    allow_hosts: NotRequired[list[str] | None]
    forge: NotRequired[Literal["github", "gitlab"] | None]
    forge_url: NotRequired[str | None]
    forge_credential: NotRequired[str | None]
    mention: NotRequired[str]


class Review(TypedDict):
    id: int
    state: str
    body: NotRequired[str | None]
    user: NotRequired[Account | None]
    author_association: NotRequired[str]


class ReviewComment(TypedDict):
    """At a line of a file."""

    body: str
    user: NotRequired[Account | None]
    author_association: NotRequired[str]
    path: NotRequired[str]
    line: NotRequired[int | None]


class RewindPoint(TypedDict):
    """What to take back."""

    to_step: int
    restore: NotRequired[Literal["files", "conversation", "both"]]
    run_id: NotRequired[str | None]


class RunList(TypedDict):
    runs: list[RunView]


class RunView(TypedDict):
    """An attempt by itself."""

    run_id: str
    attempt: int
    status: Status
    stop_reason: StopReason | None
    verdict: Verdict | None
    steps: int
    usage: Usage
    selected: bool
    error: str | None
    waiting_on: WaitingOn | None
    started_at: str | None
    finished_at: str | None


class Said(TypedDict):
    """A message of an earlier conversation, as models are shown it."""

    role: Literal["user", "assistant", "tool"]
    content: str
    reasoning_content: NotRequired[str | None]
    tool_calls: NotRequired[list[dict[str, Any]] | None]
    tool_call_id: NotRequired[str | None]
    model: NotRequired[str | None]
    thinking: NotRequired[bool | Literal["auto"] | None]


class Sample(TypedDict):
    """One model call: what the model saw, and what it answered, aborted answers too."""

    step: int
    num_kept: int
    prompt: list[dict[str, Any]]
    answer: StepMessage
    token_ids: NotRequired[list[int] | None]
    logprobs: NotRequired[list[float] | None]
    routed_experts: NotRequired[str | None]
    routed_experts_shape: NotRequired[list[int] | None]


class Schedule(TypedDict):
    """When which task is submitted."""

    id: str
    name: str
    cron: str
    time_zone: str
    task: TaskRequest
    overlap: Literal["skip", "queue", "replace", "allow"]
    enabled: bool
    next_run_at: str | None
    last_run_at: str | None
    last_task_id: str | None
    last_error: str | None
    last_skipped_at: str | None
    created_by: str
    created_at: str


class ScheduleChange(TypedDict):
    """What is left out, or null, stays."""

    name: NotRequired[str | None]
    cron: NotRequired[str | None]
    time_zone: NotRequired[str | None]
    task: NotRequired[TaskRequest | None]
    overlap: NotRequired[Literal["skip", "queue", "replace", "allow"] | None]
    enabled: NotRequired[bool | None]


class ScheduleList(TypedDict):
    schedules: list[Schedule]


class SecretList(TypedDict):
    secrets: list[SecretNote]


class SecretNote(TypedDict):
    """What is shown of a secret: everything but its value."""

    name: str
    updated_by: str
    updated_at: str


class SetUp(TypedDict):
    """A script that makes the files ready for work: it installs what they need, or builds them."""

    script: str
    timeout_s: NotRequired[float]


class SkillList(TypedDict):
    skills: list[ProjectSkill]


class SkillSettings(TypedDict):
    description: str
    text: str


Status = Literal[
    "queued",
    "provisioning",
    "running",
    "waiting",
    "paused",
    "finalizing",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
]


class StepMessage(TypedDict):
    """One answer of the model, kept exactly. A step has several where an answer was aborted and sampled again."""

    step: int
    message: AssistantMessage
    usage: Usage
    duration_s: float
    temperature: float
    thinking: bool
    aborted: NotRequired[str | None]
    repetition: NotRequired[float | None]
    cached_share: NotRequired[float | None]
    flags: NotRequired[list[str]]


StopReason = Literal[
    "finished",
    "step_limit",
    "token_budget",
    "cost_budget",
    "wall_clock",
    "error_limit",
    "sandbox_lifetime",
    "stuck",
    "format_errors",
    "context_exhausted",
    "model_error",
    "sandbox_lost",
    "policy_denied",
    "cancelled",
]


class StreamOptions(TypedDict):
    include_usage: NotRequired[bool]


class SuiteList(TypedDict):
    suites: list[str]


class TaskChange(TypedDict):
    """What can be changed of a task after it was submitted. Null, or left out: it stays."""

    title: NotRequired[str | None]
    labels: NotRequired[dict[str, str] | None]
    priority: NotRequired[Priority | None]
    limits: NotRequired[BudgetGranted | None]


class TaskList(TypedDict):
    """Tasks, newest first."""

    tasks: list[TaskSummary]
    next_cursor: str | None


class TaskOutcome(TypedDict):
    """The task behind an answer, as it stood at its end."""

    task_id: str
    status: Status
    waiting_on: WaitingOn | None
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    url: str
    patch_url: str | None


class TaskRequest(TypedDict):
    """What a caller submits. Validated once, at the edge."""

    repository: str
    base_commit: NotRequired[str]
    changes: NotRequired[str]
    problem_statement: str
    conversation: NotRequired[list[Said]]
    checks: NotRequired[list[Check]]
    limits: NotRequired[Limits]
    model: NotRequired[ModelOptions]
    attempts: NotRequired[int]
    profile: NotRequired[Literal["native", "assistant", "mini"]]
    on_limit: NotRequired[Literal["stop", "ask"]]
    approvals: NotRequired[Literal["none", "auto", "accept edits", "ask", "plan"]]
    review: NotRequired[bool | None]
    image: NotRequired[str]
    setup: NotRequired[SetUp | None]
    allow_hosts: NotRequired[list[str] | None]
    deny_hosts: NotRequired[list[str]]
    benchmark: NotRequired[bool]
    priority: NotRequired[Priority]
    labels: NotRequired[dict[str, str]]
    artifacts: NotRequired[list[str]]


class TaskSummary(TypedDict):
    """A task in a list: no patch, no attempts, and the evidence without its output."""

    id: str
    project: str
    created_by: str
    title: str | None
    priority: Priority
    status: Status
    waiting_on: WaitingOn | None
    stop_reason: StopReason | None
    verdict: Verdict | None
    steps: int
    usage: Usage
    repository: str
    base_commit: str
    problem_statement: str
    labels: dict[str, str]
    created_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    error: str | None
    cancel_requested: bool


class TaskView(TypedDict):
    """A task as a whole."""

    id: str
    project: str
    created_by: str
    title: str | None
    priority: Priority
    status: Status
    waiting_on: WaitingOn | None
    stop_reason: StopReason | None
    verdict: Verdict | None
    steps: int
    usage: Usage
    repository: str
    base_commit: str
    problem_statement: str
    labels: dict[str, str]
    created_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None
    duration_s: float | None
    error: str | None
    cancel_requested: bool
    patch: str
    attempts: list[AttemptView]
    checks: list[Check]
    limits: Limits
    model: ModelOptions
    profile: str
    queue: QueuePlace | None
    artifacts: NotRequired[list[Artifact] | None]
    runs: NotRequired[list[RunView] | None]
    total: NotRequired[UsageView | None]
    mining: NotRequired[Mining | None]


class ToolCall(TypedDict):
    """A call as the model wrote it; ``arguments`` is the endpoint's JSON text, byte for byte."""

    id: str
    name: str
    arguments: str


class TrainingRun(TypedDict):
    run_id: str
    attempt: int
    status: Status
    stop_reason: StopReason | None
    verdict: VerdictKind | None
    patch: str
    usage: Usage
    tools: list[dict[str, Any]]
    samples: list[Sample]
    mining: NotRequired[Mining | None]


class TrainingTrajectory(TypedDict):
    """Every model call of every run by itself."""

    format: NotRequired[Literal["mimo-coder-training-1"]]
    task_id: str
    runs: list[TrainingRun]


class Try(TypedDict):
    status: int | None
    error: str | None
    duration_s: float
    at: str


class Usage(TypedDict):
    """Tokens as the endpoint counted them, summed over model calls."""

    prompt_tokens: NotRequired[int]
    cached_tokens: NotRequired[int]
    completion_tokens: NotRequired[int]
    reasoning_tokens: NotRequired[int]


class UsageList(TypedDict):
    project: str
    usage: list[UsageView]


class UsageView(TypedDict):
    """What some tasks used, all attempts counted."""

    group: dict[str, str | None]
    num_tasks: int
    num_runs: int
    num_steps: int
    usage: Usage
    cost: float | None


class Verdict(TypedDict):
    """What the checks say about the patch, with evidence."""

    kind: VerdictKind
    evidence: NotRequired[list[Evidence]]
    reproduced: NotRequired[bool | None]
    tree: NotRequired[str | None]


VerdictKind = Literal["verified", "partly_verified", "unverified", "no_change", "regressed"]

WaitingOn = Literal["approval", "question", "budget", "quota", "capacity"]


class Webhook(TypedDict):
    """A service that is told of a project's events."""

    id: str
    url: str
    events: list[Literal["task.submitted", "run.parked", "approval.requested", "run.finished", "task.finished"]]
    enabled: bool
    created_by: str
    created_at: str


class WebhookChange(TypedDict):
    """What is left out, or null, stays."""

    url: NotRequired[str | None]
    events: NotRequired[
        list[Literal["task.submitted", "run.parked", "approval.requested", "run.finished", "task.finished"]] | None
    ]
    enabled: NotRequired[bool | None]


class WebhookList(TypedDict):
    webhooks: list[Webhook]


class WorkflowRun(TypedDict):
    """Of GitHub Actions, whose checks are a suite too."""

    check_suite_id: int
    name: NotRequired[str | None]
    conclusion: NotRequired[str | None]
    head_sha: str
    pull_requests: NotRequired[list[HookPullRequest]]


class Operations:
    """The API of one service."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def submit(self, body: NewTask, *, idempotency_key: str | None = None) -> TaskView:
        """Queue a task. The commit is resolved now, so that what is repaired does not move while the task waits."""
        answer: TaskView = json.loads(
            await self._send("POST", "/v1/tasks", {}, _headers(idempotency_key=idempotency_key), body)
        )
        return answer

    async def list_tasks(
        self,
        *,
        status: Status | None = None,
        created_by: str | None = None,
        repository: str | None = None,
        label: list[str] | None = None,
        q: str | None = None,
        since: str | None = None,
        until: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> TaskList:
        """Tasks, newest first."""
        answer: TaskList = json.loads(
            await self._send(
                "GET",
                "/v1/tasks",
                _given(
                    status=status,
                    created_by=created_by,
                    repository=repository,
                    label=label,
                    q=q,
                    since=since,
                    until=until,
                    cursor=cursor,
                    limit=limit,
                ),
                {},
                None,
            )
        )
        return answer

    async def show_task(self, task_id: str, *, expand: str | None = None) -> TaskView:
        """A task as a whole."""
        answer: TaskView = json.loads(
            await self._send("GET", f"/v1/tasks/{_in(task_id)}", _given(expand=expand), {}, None)
        )
        return answer

    async def change_task(self, task_id: str, body: TaskChange, *, if_match: str | None = None) -> TaskView:
        """Give a task another title, other labels or another priority, or raise its limits, which ends a wait for
        budget. Members that are left out, or null, stay as they are."""
        answer: TaskView = json.loads(
            await self._send("PATCH", f"/v1/tasks/{_in(task_id)}", {}, _headers(if_match=if_match), body)
        )
        return answer

    async def delete_task(self, task_id: str) -> None:
        """Delete an ended task for good: what was asked, its log, its artifacts. The audit log still says who did
        it."""
        await self._send("DELETE", f"/v1/tasks/{_in(task_id)}", {}, {}, None)

    async def show_diff(self, task_id: str) -> DiffView:
        """What the task changed: as JSON, or with ``Accept: text/x-diff`` as the patch itself."""
        answer: DiffView = json.loads(await self._send("GET", f"/v1/tasks/{_in(task_id)}/diff", {}, {}, None))
        return answer

    async def cancel(self, task_id: str) -> TaskView:
        """Ask for the end of a task. Asking again changes nothing; a task that ended otherwise answers 409."""
        answer: TaskView = json.loads(await self._send("POST", f"/v1/tasks/{_in(task_id)}/cancel", {}, {}, None))
        return answer

    async def pause(self, task_id: str) -> TaskView:
        """Let the agent stop before its next step, until the task is resumed. Asking again changes nothing."""
        answer: TaskView = json.loads(await self._send("POST", f"/v1/tasks/{_in(task_id)}/pause", {}, {}, None))
        return answer

    async def resume(self, task_id: str) -> TaskView:
        """Let a paused task go on, or one that waits for a quota or for capacity try again at once. Asking again
        changes nothing; a task that waits for you answers 409."""
        answer: TaskView = json.loads(await self._send("POST", f"/v1/tasks/{_in(task_id)}/resume", {}, {}, None))
        return answer

    async def fork(self, task_id: str, body: ForkPoint, *, idempotency_key: str | None = None) -> TaskView:
        """A new task that goes on from an earlier moment of this one, with the files and the conversation of then, and
        with what you say now."""
        answer: TaskView = json.loads(
            await self._send(
                "POST", f"/v1/tasks/{_in(task_id)}/fork", {}, _headers(idempotency_key=idempotency_key), body
            )
        )
        return answer

    async def rewind(self, task_id: str, body: RewindPoint) -> TaskView:
        """Take steps back from a task that is paused or waits for you: files, conversation, or both. With the
        conversation back, it is paused: say what it should do instead, and resume it. An ended task can be forked."""
        answer: TaskView = json.loads(await self._send("POST", f"/v1/tasks/{_in(task_id)}/rewind", {}, {}, body))
        return answer

    async def list_runs(self, task_id: str) -> RunList:
        """Every attempt, in order, without patches."""
        answer: RunList = json.loads(await self._send("GET", f"/v1/tasks/{_in(task_id)}/runs", {}, {}, None))
        return answer

    async def read_run(self, task_id: str, run_id: str) -> RunView:
        """One attempt."""
        answer: RunView = json.loads(
            await self._send("GET", f"/v1/tasks/{_in(task_id)}/runs/{_in(run_id)}", {}, {}, None)
        )
        return answer

    async def read_run_diff(self, task_id: str, run_id: str) -> DiffView:
        """What an attempt changed: as JSON, or with ``Accept: text/x-diff`` as the patch itself."""
        answer: DiffView = json.loads(
            await self._send("GET", f"/v1/tasks/{_in(task_id)}/runs/{_in(run_id)}/diff", {}, {}, None)
        )
        return answer

    async def select_attempt(self, task_id: str, attempt: int) -> TaskView:
        """Let the patch, verdict and status of an ended task be those of this attempt."""
        answer: TaskView = json.loads(
            await self._send("POST", f"/v1/tasks/{_in(task_id)}/attempts/{_in(attempt)}/select", {}, {}, None)
        )
        return answer

    async def list_checkpoints(self, task_id: str) -> CheckpointList:
        """The complete steps of every attempt, in order, without those that were taken back. ``rewind`` takes
        ``step``, and 0 for the beginning; ``fork`` takes ``seq``."""
        answer: CheckpointList = json.loads(
            await self._send("GET", f"/v1/tasks/{_in(task_id)}/checkpoints", {}, {}, None)
        )
        return answer

    async def list_messages(self, task_id: str) -> MessageList:
        """What was said to the task, oldest first, and whether the agent has read it."""
        answer: MessageList = json.loads(await self._send("GET", f"/v1/tasks/{_in(task_id)}/messages", {}, {}, None))
        return answer

    async def say(self, task_id: str, body: MessageText, *, idempotency_key: str | None = None) -> MessageView:
        """Say something to the agent: before its next model call (steer), once it has finished (queue), or at once,
        for which a model call under way is given up (interrupt). A task that waits for an answer takes it as that."""
        answer: MessageView = json.loads(
            await self._send(
                "POST", f"/v1/tasks/{_in(task_id)}/messages", {}, _headers(idempotency_key=idempotency_key), body
            )
        )
        return answer

    async def take_back(self, task_id: str, message_id: str) -> None:
        """Take back a message that the agent has not read. Asking again changes nothing."""
        await self._send("DELETE", f"/v1/tasks/{_in(task_id)}/messages/{_in(message_id)}", {}, {}, None)

    async def read_events(
        self,
        task_id: str,
        *,
        after: int | None = None,
        limit: int | None = None,
        types: str | None = None,
        deltas: bool | None = None,
        last_event_id: int | None = None,
    ) -> EventPage:
        """A page of the log, or with ``Accept: text/event-stream`` the log from there on as it grows."""
        answer: EventPage = json.loads(
            await self._send(
                "GET",
                f"/v1/tasks/{_in(task_id)}/events",
                _given(after=after, limit=limit, types=types, deltas=deltas),
                _headers(last_event_id=last_event_id),
                None,
            )
        )
        return answer

    async def read_trajectory(
        self, task_id: str, *, format_: Literal["native", "openai", "mini", "training"] | None = None
    ) -> NativeTrajectory | OpenaiTrajectory | MiniTrajectory | TrainingTrajectory:
        """All that the task's runs did so far; reasoning and tokens are part of it for who has reasoning:read."""
        answer: NativeTrajectory | OpenaiTrajectory | MiniTrajectory | TrainingTrajectory = json.loads(
            await self._send("GET", f"/v1/tasks/{_in(task_id)}/trajectory", _given(format_=format_), {}, None)
        )
        return answer

    async def list_artifacts(self, task_id: str) -> ArtifactList:
        """Every artifact of the task, by name, which begins with the number of the attempt."""
        answer: ArtifactList = json.loads(await self._send("GET", f"/v1/tasks/{_in(task_id)}/artifacts", {}, {}, None))
        return answer

    async def read_artifact(
        self,
        task_id: str,
        artifact: str,
        *,
        range_: str | None = None,
        if_range: str | None = None,
        if_none_match: str | None = None,
    ) -> bytes:
        """The bytes of an artifact."""
        return await self._send(
            "GET",
            f"/v1/tasks/{_in(task_id)}/artifacts/{_in(artifact)}",
            {},
            _headers(range_=range_, if_range=if_range, if_none_match=if_none_match),
            None,
        )

    async def make_artifact_link(self, task_id: str, body: LinkWanted) -> ArtifactLink:
        """An address of an artifact that needs no key, for a while. It cannot be taken back."""
        answer: ArtifactLink = json.loads(
            await self._send("POST", f"/v1/tasks/{_in(task_id)}/artifact_links", {}, {}, body)
        )
        return answer

    async def read_artifact_link(
        self, token: str, *, range_: str | None = None, if_range: str | None = None, if_none_match: str | None = None
    ) -> bytes:
        """The bytes of an artifact, for who has a link to it."""
        return await self._send(
            "GET",
            f"/v1/artifact_links/{_in(token)}",
            {},
            _headers(range_=range_, if_range=if_range, if_none_match=if_none_match),
            None,
        )

    async def list_approvals(
        self, *, status: Literal["pending"] | None = None, task_id: str | None = None
    ) -> ApprovalList:
        """What waits for a decision, oldest task first."""
        answer: ApprovalList = json.loads(
            await self._send("GET", "/v1/approvals", _given(status=status, task_id=task_id), {}, None)
        )
        return answer

    async def read_approval(self, approval_id: str) -> ApprovalView:
        """What a run wants to do, and what was decided about it."""
        answer: ApprovalView = json.loads(await self._send("GET", f"/v1/approvals/{_in(approval_id)}", {}, {}, None))
        return answer

    async def decide(self, approval_id: str, body: Decision) -> ApprovalView:
        """Allow a call, also with arguments of yours, or deny it. The first decision counts: the same one again
        changes nothing, another answers 409."""
        answer: ApprovalView = json.loads(await self._send("POST", f"/v1/approvals/{_in(approval_id)}", {}, {}, body))
        return answer

    async def read_usage(
        self, *, group_by: str | None = None, since: str | None = None, until: str | None = None
    ) -> UsageList:
        """What the tasks of the project used, all attempts counted; split by project, what those of every project
        did."""
        answer: UsageList = json.loads(
            await self._send("GET", "/v1/usage", _given(group_by=group_by, since=since, until=until), {}, None)
        )
        return answer

    async def read_task_usage(self, task_id: str) -> UsageView:
        """What a task used, all attempts counted."""
        answer: UsageView = json.loads(await self._send("GET", f"/v1/tasks/{_in(task_id)}/usage", {}, {}, None))
        return answer

    async def read_queue(self) -> QueueView:
        """How much of the project waits, and how long. Where one task stands, and why, is said by the task itself."""
        answer: QueueView = json.loads(await self._send("GET", "/v1/queue", {}, {}, None))
        return answer

    async def read_limits(self) -> LimitsView:
        """What the service takes from you, and what a task gets that names no limits."""
        answer: LimitsView = json.loads(await self._send("GET", "/v1/limits", {}, {}, None))
        return answer

    async def list_models(self) -> ModelList:
        """The model that a task gets which names none; workers ask for any other by the name a task gives. ``data``
        has the names that chat programs use."""
        answer: ModelList = json.loads(await self._send("GET", "/v1/models", {}, {}, None))
        return answer

    async def submit_eval(self, body: NewEval, *, idempotency_key: str | None = None) -> EvalView:
        """Queue tasks in the background, all or none, and have them counted together."""
        answer: EvalView = json.loads(
            await self._send("POST", "/v1/evals", {}, _headers(idempotency_key=idempotency_key), body)
        )
        return answer

    async def list_evals(self, *, cursor: str | None = None, limit: int | None = None) -> EvalList:
        """Those of the project, newest first."""
        answer: EvalList = json.loads(
            await self._send("GET", "/v1/evals", _given(cursor=cursor, limit=limit), {}, None)
        )
        return answer

    async def show_eval(self, eval_id: str) -> EvalView:
        """An evaluation, its tasks, and what they came to."""
        answer: EvalView = json.loads(await self._send("GET", f"/v1/evals/{_in(eval_id)}", {}, {}, None))
        return answer

    async def cancel_eval(self, eval_id: str) -> EvalView:
        """Cancel the tasks that have not ended. Asking again changes nothing; where all had ended, 409."""
        answer: EvalView = json.loads(await self._send("POST", f"/v1/evals/{_in(eval_id)}/cancel", {}, {}, None))
        return answer

    async def list_suites(self) -> SuiteList:
        """Suites that the operator of the service keeps."""
        answer: SuiteList = json.loads(await self._send("GET", "/v1/suites", {}, {}, None))
        return answer

    async def list_schedules(self) -> ScheduleList:
        """Those of the project, oldest first."""
        answer: ScheduleList = json.loads(await self._send("GET", "/v1/schedules", {}, {}, None))
        return answer

    async def create_schedule(self, body: NewSchedule) -> Schedule:
        """Have a task submitted at the times of a cron expression. Its repository is looked at now, so that a wrong
        one is said now."""
        answer: Schedule = json.loads(await self._send("POST", "/v1/schedules", {}, {}, body))
        return answer

    async def show_schedule(self, schedule_id: str) -> Schedule:
        """When it submits next, and what came of the last time."""
        answer: Schedule = json.loads(await self._send("GET", f"/v1/schedules/{_in(schedule_id)}", {}, {}, None))
        return answer

    async def change_schedule(self, schedule_id: str, body: ScheduleChange, *, if_match: str | None = None) -> Schedule:
        """Have another task submitted, at other times, or none. One that is switched on, or gets other times, is next
        due after now."""
        answer: Schedule = json.loads(
            await self._send("PATCH", f"/v1/schedules/{_in(schedule_id)}", {}, _headers(if_match=if_match), body)
        )
        return answer

    async def delete_schedule(self, schedule_id: str) -> None:
        """Forget a schedule. Tasks that it submitted stay."""
        await self._send("DELETE", f"/v1/schedules/{_in(schedule_id)}", {}, {}, None)

    async def run_schedule(self, schedule_id: str) -> TaskView:
        """Submit its task now, as yours. Its times stay as they are, and nothing is waited for or replaced."""
        answer: TaskView = json.loads(await self._send("POST", f"/v1/schedules/{_in(schedule_id)}/run", {}, {}, None))
        return answer

    async def list_webhooks(self) -> WebhookList:
        """Those of the project, oldest first."""
        answer: WebhookList = json.loads(await self._send("GET", "/v1/webhooks", {}, {}, None))
        return answer

    async def create_webhook(self, body: NewWebhook) -> CreatedWebhook:
        """Have a service told of the project's events from now on."""
        answer: CreatedWebhook = json.loads(await self._send("POST", "/v1/webhooks", {}, {}, body))
        return answer

    async def show_webhook(self, webhook_id: str) -> Webhook:
        answer: Webhook = json.loads(await self._send("GET", f"/v1/webhooks/{_in(webhook_id)}", {}, {}, None))
        return answer

    async def change_webhook(self, webhook_id: str, body: WebhookChange) -> Webhook:
        """Have it told elsewhere, of other events, or not at all."""
        answer: Webhook = json.loads(await self._send("PATCH", f"/v1/webhooks/{_in(webhook_id)}", {}, {}, body))
        return answer

    async def delete_webhook(self, webhook_id: str) -> None:
        """Forget a webhook, what is still to be sent to it, and its log."""
        await self._send("DELETE", f"/v1/webhooks/{_in(webhook_id)}", {}, {}, None)

    async def list_deliveries(
        self, webhook_id: str, *, cursor: str | None = None, limit: int | None = None
    ) -> DeliveryList:
        """What the service was or is to be told, and how each try ended."""
        answer: DeliveryList = json.loads(
            await self._send(
                "GET", f"/v1/webhooks/{_in(webhook_id)}/deliveries", _given(cursor=cursor, limit=limit), {}, None
            )
        )
        return answer

    async def redeliver(self, webhook_id: str, delivery_id: str) -> DeliveryRecord:
        """Say a message again, as soon as can be, under the same id."""
        answer: DeliveryRecord = json.loads(
            await self._send(
                "POST", f"/v1/webhooks/{_in(webhook_id)}/deliveries/{_in(delivery_id)}/redeliver", {}, {}, None
            )
        )
        return answer

    async def list_repos(self) -> RepoList:
        """Those of the project, by name."""
        answer: RepoList = json.loads(await self._send("GET", "/v1/repos", {}, {}, None))
        return answer

    async def create_repo(self, body: NewRepo) -> Repo:
        """Add a repository of a git host. The host is asked at once, so that a wrong address or credential is said
        now."""
        answer: Repo = json.loads(await self._send("POST", "/v1/repos", {}, {}, body))
        return answer

    async def show_repo(self, name: str) -> Repo:
        answer: Repo = json.loads(await self._send("GET", f"/v1/repos/{_in(name)}", {}, {}, None))
        return answer

    async def replace_repo(self, name: str, body: RepoSettings) -> Repo:
        """Say all of a repository anew. Tasks that were submitted before keep what they got then."""
        answer: Repo = json.loads(await self._send("PUT", f"/v1/repos/{_in(name)}", {}, {}, body))
        return answer

    async def delete_repo(self, name: str) -> None:
        """Forget a repository. Tasks of it that wait cannot begin any more."""
        await self._send("DELETE", f"/v1/repos/{_in(name)}", {}, {}, None)

    async def list_skills(self) -> SkillList:
        """Those of the project, by name."""
        answer: SkillList = json.loads(await self._send("GET", "/v1/skills", {}, {}, None))
        return answer

    async def create_skill(self, body: NewSkill) -> ProjectSkill:
        """Teach the agents of the profile `assistant` something. Runs that begin from now on are offered it."""
        answer: ProjectSkill = json.loads(await self._send("POST", "/v1/skills", {}, {}, body))
        return answer

    async def show_skill(self, name: str) -> ProjectSkill:
        answer: ProjectSkill = json.loads(await self._send("GET", f"/v1/skills/{_in(name)}", {}, {}, None))
        return answer

    async def replace_skill(self, name: str, body: SkillSettings) -> ProjectSkill:
        """Say all of a skill anew. Runs that were offered it before read the new text."""
        answer: ProjectSkill = json.loads(await self._send("PUT", f"/v1/skills/{_in(name)}", {}, {}, body))
        return answer

    async def delete_skill(self, name: str) -> None:
        """Forget a skill."""
        await self._send("DELETE", f"/v1/skills/{_in(name)}", {}, {}, None)

    async def list_mcp_servers(self) -> McpServerList:
        """Those of the project, by name."""
        answer: McpServerList = json.loads(await self._send("GET", "/v1/mcp_servers", {}, {}, None))
        return answer

    async def create_mcp_server(self, body: NewMcpServer) -> ProjectMcpServer:
        """Let the agents of the profile `assistant` call the tools of a server. Runs that begin from now on know of
        it."""
        answer: ProjectMcpServer = json.loads(await self._send("POST", "/v1/mcp_servers", {}, {}, body))
        return answer

    async def show_mcp_server(self, name: str) -> ProjectMcpServer:
        answer: ProjectMcpServer = json.loads(await self._send("GET", f"/v1/mcp_servers/{_in(name)}", {}, {}, None))
        return answer

    async def replace_mcp_server(self, name: str, body: McpServerSettings) -> ProjectMcpServer:
        """Say all of a server anew. Runs that know of it go by that once a worker takes them again."""
        answer: ProjectMcpServer = json.loads(await self._send("PUT", f"/v1/mcp_servers/{_in(name)}", {}, {}, body))
        return answer

    async def delete_mcp_server(self, name: str) -> None:
        """Forget a server."""
        await self._send("DELETE", f"/v1/mcp_servers/{_in(name)}", {}, {}, None)

    async def open_pull_request(self, task_id: str, body: PullRequestWanted) -> PullRequestView:
        """Push the patch of an ended task as a branch, and open a pull request for it; or add it to another task's.
        Asked again, it is the same one."""
        answer: PullRequestView = json.loads(
            await self._send("POST", f"/v1/tasks/{_in(task_id)}/pull_request", {}, {}, body)
        )
        return answer

    async def hear_github(
        self,
        project_id: str,
        body: GitHubDelivery,
        *,
        x_github_event: str | None = None,
        x_hub_signature_256: str | None = None,
    ) -> HookAnswer:
        """A delivery of a webhook of GitHub, signed with the project's secret GITHUB_WEBHOOK_SECRET. The same body
        again gives the first answer, whatever its delivery id."""
        answer: HookAnswer = json.loads(
            await self._send(
                "POST",
                f"/v1/hooks/github/{_in(project_id)}",
                {},
                _headers(x_github_event=x_github_event, x_hub_signature_256=x_hub_signature_256),
                body,
            )
        )
        return answer

    async def login(self) -> LoginOffer:
        """Where `mimo login` sends people. Nobody needs a key for this."""
        answer: LoginOffer = json.loads(await self._send("GET", "/v1/login", {}, {}, None))
        return answer

    async def me(self) -> Me:
        """Who you are here."""
        answer: Me = json.loads(await self._send("GET", "/v1/me", {}, {}, None))
        return answer

    async def audit(self, *, cursor: str | None = None, limit: int | None = None) -> AuditPage:
        """Who changed what in your project, newest first."""
        answer: AuditPage = json.loads(
            await self._send("GET", "/v1/audit", _given(cursor=cursor, limit=limit), {}, None)
        )
        return answer

    async def list_projects(self) -> ProjectList:
        """Those you may see: your own, or for operators all."""
        answer: ProjectList = json.loads(await self._send("GET", "/v1/projects", {}, {}, None))
        return answer

    async def create_project(self, body: NewProject) -> ProjectView:
        """Make a project."""
        answer: ProjectView = json.loads(await self._send("POST", "/v1/projects", {}, {}, body))
        return answer

    async def show_project(self, project_id: str) -> ProjectView:
        """A project and its part of the workers."""
        answer: ProjectView = json.loads(await self._send("GET", f"/v1/projects/{_in(project_id)}", {}, {}, None))
        return answer

    async def change_project(self, project_id: str, body: Quotas) -> ProjectView:
        """Set a project's part of the workers."""
        answer: ProjectView = json.loads(await self._send("PATCH", f"/v1/projects/{_in(project_id)}", {}, {}, body))
        return answer

    async def close_project(self, project_id: str) -> None:
        """Let nobody act in a project any more. What it has is kept until the operator purges it."""
        await self._send("DELETE", f"/v1/projects/{_in(project_id)}", {}, {}, None)

    async def list_keys(self, project_id: str) -> KeyList:
        """The keys of a project, newest first, those that were revoked too."""
        answer: KeyList = json.loads(await self._send("GET", f"/v1/projects/{_in(project_id)}/api_keys", {}, {}, None))
        return answer

    async def create_key(self, project_id: str, body: NewKey) -> CreatedKey:
        """Make a key. Nobody can be shown it again; what is kept is a hash."""
        answer: CreatedKey = json.loads(
            await self._send("POST", f"/v1/projects/{_in(project_id)}/api_keys", {}, {}, body)
        )
        return answer

    async def revoke_key(self, project_id: str, key_id: str) -> ApiKey:
        """End a key at once. Revoking it again changes nothing."""
        answer: ApiKey = json.loads(
            await self._send("DELETE", f"/v1/projects/{_in(project_id)}/api_keys/{_in(key_id)}", {}, {}, None)
        )
        return answer

    async def list_secrets(self, project_id: str) -> SecretList:
        """The names of a project's secrets. No answer ever holds their values."""
        answer: SecretList = json.loads(
            await self._send("GET", f"/v1/projects/{_in(project_id)}/secrets", {}, {}, None)
        )
        return answer

    async def put_secret(self, project_id: str, name: str, body: NewSecret) -> SecretNote:
        """Set or replace a secret."""
        answer: SecretNote = json.loads(
            await self._send("PUT", f"/v1/projects/{_in(project_id)}/secrets/{_in(name)}", {}, {}, body)
        )
        return answer

    async def delete_secret(self, project_id: str, name: str) -> None:
        """Forget a secret."""
        await self._send("DELETE", f"/v1/projects/{_in(project_id)}/secrets/{_in(name)}", {}, {}, None)

    async def complete_chat(self, body: ChatRequest, *, idempotency_key: str | None = None) -> ChatCompletion:
        """Have the last message done as a task, or told to the task of the conversation. Streamed, the answer grows as
        the agent works; else it comes when the task is over or needs you, or when the wait is over."""
        answer: ChatCompletion = json.loads(
            await self._send("POST", "/v1/chat/completions", {}, _headers(idempotency_key=idempotency_key), body)
        )
        return answer

    async def live(self) -> Alive:
        """The process answers."""
        answer: Alive = json.loads(await self._send("GET", "/livez", {}, {}, None))
        return answer

    async def ready(self) -> Ready:
        """The store answers too; 503 says what does not."""
        answer: Ready = json.loads(await self._send("GET", "/readyz", {}, {}, None))
        return answer

    async def metrics(self) -> bytes:
        """Numbers for Prometheus, over all projects."""
        return await self._send("GET", "/metrics", {}, {}, None)


def _in(value: object) -> str:
    """As it stands in a path."""
    return quote(str(value), safe="")


def _given(**values: object) -> dict[str, Any]:
    return {name.removesuffix("_"): value for name, value in values.items() if value is not None}


def _headers(**values: object) -> dict[str, str]:
    return {name.replace("_", "-"): str(value) for name, value in _given(**values).items()}
