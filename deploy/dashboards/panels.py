"""What the dashboards show: rows of panels, and the queries behind them."""

from dataclasses import dataclass

_RATE = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot.

    Attributes:
        queries: what a line is called, with labels in ``{{}}`` -> PromQL.
        unit: as Grafana names it.
        about: what to make of it.
        kind: ``timeseries``, or ``stat`` for one number.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page of them.

    Attributes:
        uid: its lasting name in addresses.
        rows: a heading -> its panels, side by side.
    """

    uid: str
    title: str
    rows: dict[str, list[Panel]]


def _rate(series: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({series}[{_RATE}]))"


def _quantile(share: float, series: str, labels: str) -> str:
    which = f"{series}_bucket{{{labels}}}" if labels else f"{series}_bucket"
    return f"histogram_quantile({share}, sum by (le) (rate({which}[{_RATE}])))"


def _quantiles(series: str, labels: str = "") -> dict[str, str]:
    return {f"p{int(share * 100)}": _quantile(share, series, labels) for share in (0.5, 0.95)}


_VERIFIED = 'mimo_runs_total{verdict="verified"}'
_COMPLETION = 'mimo_tokens_total{kind="completion"}'
_PROMPT = 'sglang:realtime_tokens_total{mode=~"prefill_.*"}'
_CACHED = 'sglang:realtime_tokens_total{mode="prefill_cache"}'

SERVICE = Dashboard(
    "mimo-service",
    "mimo-coder: service",
    {
        "Tasks": [
            Panel("Runs at work", {"runs": "sum(mimo_runs_active)"}, kind="stat"),
            Panel("Waiting", {"tasks": 'max(mimo_tasks{status="queued"})'}, kind="stat"),
            Panel("Oldest in the queue", {"wait": "max(mimo_queue_oldest_seconds)"}, "s", kind="stat"),
            Panel(
                "Verified of the last day's runs",
                {"share": f"sum(increase({_VERIFIED}[1d])) / sum(increase(mimo_runs_total[1d]))"},
                "percentunit",
                kind="stat",
            ),
        ],
        "Runs": [
            Panel(
                "Tasks by status",
                {"{{status}}": "max by (status) (mimo_tasks)"},
                about="In the store: every replica of the API says the same.",
            ),
            Panel("Wait until the first claim", _quantiles("mimo_queue_wait_seconds"), "s"),
            Panel(
                "Runs that ended, by verdict", {"{{verdict}}": f"sum by (verdict) (increase(mimo_runs_total[{_RATE}]))"}
            ),
            Panel(
                "Runs that ended, by stop reason",
                {"{{stop_reason}}": f"sum by (stop_reason) (increase(mimo_runs_total[{_RATE}]))"},
            ),
        ],
        "Steps and tokens": [
            Panel("Steps", {"steps": _rate("mimo_steps_total")}, "ops"),
            Panel("Tokens by what they cost", {"{{kind}}": _rate("mimo_tokens_total", "kind")}, "ops"),
            Panel(
                "Tokens per run",
                {
                    "{{kind}}": "sum by (kind) (increase(mimo_tokens_total[1d]))"
                    " / on () group_left () sum(increase(mimo_runs_total[1d]))"
                },
                about="Over a day. Times the price of each kind, it is what a run costs.",
            ),
            Panel(
                "Share of an answer that is reasoning",
                {"share": f"{_rate('mimo_reasoning_tokens_total')} / {_rate(_COMPLETION)}"},
                "percentunit",
            ),
        ],
        "Model and tools": [
            Panel("Answers of the model", _quantiles("mimo_model_call_seconds"), "s"),
            Panel("Tool calls", _quantiles("mimo_tool_call_seconds"), "s"),
            Panel("Tool calls by outcome", {"{{outcome}}": _rate("mimo_tool_call_seconds_count", "outcome")}, "ops"),
            Panel(
                "Trouble",
                {
                    "model gave no answer": f"sum(increase(mimo_model_errors_total[{_RATE}]))",
                    "sandboxes lost": f"sum(increase(mimo_sandboxes_lost_total[{_RATE}]))",
                    "guard: {{action}}": f"sum by (action) (increase(mimo_guard_trips_total[{_RATE}]))",
                },
            ),
        ],
        "Sandboxes": [
            Panel("Starts", _quantiles("mimo_sandbox_start_seconds", 'outcome="ok"'), "s"),
            Panel("Starts by outcome", {"{{outcome}}": _rate("mimo_sandbox_start_seconds_count", "outcome")}, "ops"),
            Panel(
                "Pool",
                {
                    "ready": "sum(mimo_pool_ready)",
                    "given {{how}}": f"sum by (how) (increase(mimo_pool_given_total[{_RATE}]))",
                    "failed": f"sum(increase(mimo_pool_failed_total[{_RATE}]))",
                },
                about="Cold ones were made when they were asked for.",
            ),
            Panel(
                "Left behind",
                {
                    "found by the reaper": f"max(increase(mimo_reaper_condemned_total[{_RATE}]))",
                    "do not end": "max(mimo_reaper_stuck)",
                },
                about="A worker that is killed leaves its sandboxes to others; those nobody takes are ended.",
            ),
        ],
        "API": [
            Panel("Answers by status", {"{{status}}": _rate("mimo_http_requests_total", "status")}, "reqps"),
            Panel("Time to an answer's first byte", _quantiles("mimo_http_request_seconds"), "s"),
            Panel("Open connections that last", {"{{kind}}": "sum by (kind) (mimo_open_streams)"}),
            Panel("Messages to webhooks to be sent", {"messages": "max(mimo_webhook_deliveries_pending)"}),
        ],
    },
)

MODELS = Dashboard(
    "mimo-models",
    "mimo-coder: model servers",
    {
        "Load": [
            Panel("Sequences", {"running": "sum(sglang:num_running_reqs)", "waiting": "sum(sglang:num_queue_reqs)"}),
            Panel("Tokens", {"{{mode}}": _rate("sglang:realtime_tokens_total", "mode")}, "ops"),
            Panel("Requests by outcome", {"{{outcome}}": _rate("sglang:num_requests_total", "outcome")}, "reqps"),
        ],
        "Latency": [
            Panel("To the first token", _quantiles("sglang:time_to_first_token_seconds"), "s"),
            Panel("Between tokens", _quantiles("sglang:inter_token_latency_seconds"), "s"),
            Panel("Whole answers", _quantiles("sglang:e2e_request_latency_seconds"), "s"),
        ],
        "Memory": [
            Panel(
                "Prompt tokens found in the cache",
                {"share": f"{_rate(_CACHED)} / {_rate(_PROMPT)}"},
                "percentunit",
                "Near 0.9 where turns of a task come to one replica.",
            ),
            Panel(
                "Pools in use",
                {"global layers": "max(sglang:token_usage)", "window layers": "max(sglang:swa_token_usage)"},
                "percentunit",
                "The window's pool can fill first.",
            ),
            Panel(
                "Sequences that lost their memory",
                {"sequences": f"sum(increase(sglang:num_retracted_requests_total[{_RATE}]))"},
            ),
        ],
        "Speculation and sessions": [
            Panel(
                "Guessed tokens that were right",
                {"share": f"{_rate('mimo:accepted_tokens_total')} / {_rate('mimo:drafted_tokens_total')}"},
                "percentunit",
            ),
            Panel("Sessions between two requests", {"sessions": "sum(mimo:cache_sessions)"}),
            Panel("Snapshots to go on from", {"snapshots": "sum(mimo:cache_snapshots)"}),
            Panel(
                "Engines that do not answer",
                {"longest": "max(mimo:engine_away_seconds)"},
                "s",
                "Because they load, for ten minutes and more, or are gone.",
            ),
        ],
    },
)

ALL = (SERVICE, MODELS)
