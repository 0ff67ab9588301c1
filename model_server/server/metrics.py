"""What ``/metrics`` exports, under SGLang's names: the dashboards and alerts of one serve the other."""

import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from model_server.server.engine_series import EngineSeries
from model_server.types import Engine

logger = logging.getLogger(__name__)

_LATENCIES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GAPS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The series of one server; every sample carries ``model_name``."""

    def __init__(self, engine: Engine, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model = {"model_name": model_name}
        self.registry.register(EngineSeries(engine, model_name))
        self._requests = self._counter("num_requests_total", "Requests that ended, by outcome.", "outcome")
        self._tokens = self._counter(
            "realtime_tokens_total", "Tokens by what they cost: prefill_cache, prefill_compute, decode.", "mode"
        )
        self._first = self._histogram("time_to_first_token_seconds", "From request to first token.", _LATENCIES_S)
        self._gap = self._histogram("inter_token_latency_seconds", "Mean time between tokens of an answer.", _GAPS_S)
        self._whole = self._histogram("e2e_request_latency_seconds", "From the request to its end.", _LATENCIES_S)

    def came(self, first_token_s: float) -> None:
        """An answer began."""
        self._first.labels(**self._model).observe(first_token_s)

    def ended(self, outcome: str, *, prompt: int, cached: int, completion: int, first_s: float, whole_s: float) -> None:
        """A request is over. Token counts are those of its bill; ``first_s`` is 0 where no token came."""
        self._requests.labels(outcome=outcome, **self._model).inc()
        if not completion:
            return
        for mode, count in (("prefill_cache", cached), ("prefill_compute", prompt - cached), ("decode", completion)):
            self._tokens.labels(mode=mode, **self._model).inc(count)
        if completion > 1:
            self._gap.labels(**self._model).observe((whole_s - first_s) / (completion - 1))
        self._whole.labels(**self._model).observe(whole_s)

    def text(self, foreign: str = "") -> bytes:
        """Everything in Prometheus' text format. Of ``foreign``, which is in it already, those series are added that
        this server has not itself; nothing where it cannot be read."""
        names = {metric.name for metric in self.registry.collect()}
        return generate_latest(self.registry) + generate_latest(_Others(foreign, names))

    def _counter(self, name: str, what: str, label: str) -> Counter:
        return Counter(f"sglang:{name}", what, [label, "model_name"], registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"sglang:{name}", what, ["model_name"], buckets=buckets, registry=self.registry)


class _Others(CollectorRegistry):
    """Series in the text of another process but those named."""

    def __init__(self, text: str, names: set[str]) -> None:
        super().__init__()
        self._text = text
        self._names = names

    def collect(self) -> Iterator[Metric]:
        try:
            families = list(text_string_to_metric_families(self._text))
        except ValueError:
            logger.warning("engine_series_unreadable num_chars=%d", len(self._text))
            return
        yield from (family for family in families if family.name not in self._names)
