"""What a worker exports for Prometheus, counted from the events it writes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agent.events import GuardTripped, RunStopped, StepMessage, ToolCompleted
from agent.orchestrator.keeper_series import KeeperSeries
from agent.store.base import Claim, TaskRecord
from agent.types import Event, StopReason
from sandbox.toolbox.calls import Trace
from sandbox.toolbox.keepers import Keepers

_CALLS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_REFUSALS = {"NoRoom": "no_room", "Overdue": "no_room", "UnknownImage": "image", "ImageMismatch": "image"}
"""The error that a sandbox was refused with -> outcome; all others are failures of a machine."""
_FAILED = "failed"
_OTHER = "other"
_REASONING_TOKENS = (100, 300, 1000, 3000, 10_000, 20_000)
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_FLAGS = ("malformed_tool_call", "mistyped_argument", "tool_call_in_reasoning", "unfinished_tool_call")
"""Of answers, as our model server names them; any other is ``other``."""
_WAITS_S = (0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400)


class WorkerMetrics:
    """The series of one worker process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._active = Gauge("mimo_runs_active", "Runs this worker has now.", registry=self._registry)
        self._taking = Gauge(
            "mimo_worker_takes_runs",
            "1 while runs may be claimed; 0 while it is not proved that the endpoint keeps reasoning.",
            registry=self._registry,
        )
        self._waits = Histogram(
            "mimo_queue_wait_seconds",
            "From submission to the first claim.",
            buckets=_WAITS_S,
            registry=self._registry,
        )
        self._ended = Counter(
            "mimo_runs",
            "Runs that ended here, by status, stop reason and verdict.",
            ["status", "stop_reason", "verdict"],
            registry=self._registry,
        )
        self._steps = Counter("mimo_steps", "Steps completed.", registry=self._registry)
        self._tokens = Counter(
            "mimo_tokens",
            "Tokens by what they cost: prompt_cached, prompt_uncached, completion.",
            ["kind"],
            registry=self._registry,
        )
        self._reasoning = Counter(
            "mimo_reasoning_tokens", "Completion tokens that were reasoning.", registry=self._registry
        )
        self._answers = Histogram(
            "mimo_model_call_seconds", "Of answers, the try that succeeded.", buckets=_CALLS_S, registry=self._registry
        )
        self._thoughts = Histogram(
            "mimo_answer_reasoning_tokens",
            "Of one answer, where there were any.",
            buckets=_REASONING_TOKENS,
            registry=self._registry,
        )
        self._repetition = Histogram(
            "mimo_reasoning_repetition",
            "Share of an answer's reasoning that repeats itself, where it is long enough to say.",
            buckets=_SHARES,
            registry=self._registry,
        )
        self._cached = Histogram(
            "mimo_prompt_cached_share",
            "Share of an answer's prompt that the endpoint had in its cache.",
            buckets=_SHARES,
            registry=self._registry,
        )
        self._falls = Counter(
            "mimo_prompt_cache_falls",
            "Runs in which the endpoint suddenly found less than half of what it had in its cache: template drift.",
            registry=self._registry,
        )
        self._flags = Counter(
            "mimo_answer_flags",
            "Answers in which something happened to a tool call, by what the model server says it was.",
            ["flag"],
            registry=self._registry,
        )
        for flag in (*_FLAGS, _OTHER):
            self._flags.labels(flag=flag)
        self._model_errors = Counter(
            "mimo_model_errors", "Runs that ended because no answer could be had.", registry=self._registry
        )
        self._calls = Histogram(
            "mimo_tool_call_seconds", "Of tool calls.", ["outcome"], buckets=_CALLS_S, registry=self._registry
        )
        self._trips = Counter("mimo_guard_trips", "What the guard did.", ["action"], registry=self._registry)
        self._lost = Counter("mimo_sandboxes_lost", "Sandboxes that were lost under a run.", registry=self._registry)
        self._held = Gauge(
            "mimo_worker_sandboxes_held",
            "1 while it is proved that sandboxes are held as their settings say, or nothing asks for the proof.",
            registry=self._registry,
        )
        self._starts = Histogram(
            "mimo_sandbox_start_seconds",
            "Of sandboxes that runs asked for, from their turn on; outcome: ok, no_room, image, failed.",
            ["outcome"],
            buckets=_CALLS_S,
            registry=self._registry,
        )
        for outcome in ("ok", *_REFUSALS.values(), _FAILED):
            self._starts.labels(outcome=outcome)

    def watch(self, keepers: Keepers) -> None:
        """Export what they do, too."""
        self._registry.register(KeeperSeries(keepers))

    def claimed(self, claim: Claim) -> None:
        self._active.inc()
        if claim.generation == 1:
            self._waits.observe(max(0.0, (claim.events[-1].at - claim.task.created_at).total_seconds()))

    def let_go(self) -> None:
        """A claimed run has ended, or is another worker's."""
        self._active.dec()

    def left(self, task: TaskRecord, run_id: str) -> None:
        """The worker is done with a run: it has ended, or waits for its user."""
        run = next(run for run in task.runs if run.run_id == run_id)
        if not run.status.terminal:
            return
        verdict = run.verdict.kind.value if run.verdict else "none"
        self._ended.labels(status=run.status.value, stop_reason=run.stop_reason or "none", verdict=verdict).inc()

    def wrote(self, event: Event) -> None:
        """An event of a run, right after it was stored."""
        match event.type:
            case "step.completed":
                self._steps.inc()
            case "step.message":
                self._answered(StepMessage.model_validate(event.body))
            case "tool.completed":
                observation = ToolCompleted.model_validate(event.body).observation
                self._calls.labels(outcome="error" if observation.error else "ok").observe(observation.duration_s)
            case "cache.fell":
                self._falls.inc()
            case "guard.tripped":
                self._trips.labels(action=GuardTripped.model_validate(event.body).action).inc()
            case "run.stopped" if RunStopped.model_validate(event.body).stop_reason is StopReason.MODEL_ERROR:
                self._model_errors.inc()
            case "sandbox.lost":
                self._lost.inc()

    def traced(self, trace: Trace) -> None:
        """A call of the toolbox ended."""
        if trace.tool == "open":
            outcome = "ok" if trace.ended == "ok" else _REFUSALS.get(trace.ended, _FAILED)
            self._starts.labels(outcome=outcome).observe(trace.run_s)

    def text(self, *, taking_runs: bool, sandboxes_held: bool = True) -> bytes:
        """Everything in Prometheus' text format.

        Args:
            taking_runs: whether it is proved that the model sees what it thought.
            sandboxes_held: whether it is proved that sandboxes are held as their settings say.
        """
        self._taking.set(taking_runs)
        self._held.set(sandboxes_held)
        return generate_latest(self._registry)

    def _answered(self, answer: StepMessage) -> None:
        usage = answer.usage
        self._answers.observe(answer.duration_s)
        self._tokens.labels(kind="prompt_cached").inc(usage.cached_tokens)
        self._tokens.labels(kind="prompt_uncached").inc(max(0, usage.prompt_tokens - usage.cached_tokens))
        self._tokens.labels(kind="completion").inc(usage.completion_tokens)
        self._reasoning.inc(usage.reasoning_tokens)
        if usage.reasoning_tokens:
            self._thoughts.observe(usage.reasoning_tokens)
        if answer.repetition is not None:
            self._repetition.observe(answer.repetition)
        if answer.cached_share is not None:
            self._cached.observe(answer.cached_share)
        for flag in set(answer.flags):
            self._flags.labels(flag=flag if flag in _FLAGS else _OTHER).inc()
