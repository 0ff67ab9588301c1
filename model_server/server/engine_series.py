"""What the engine says about itself, as Prometheus series: SGLang's names where it has them, ``mimo:`` elsewhere."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model_server.types import CacheStats, Engine, EngineStats


class EngineSeries(Collector):
    """Asks the engine once for each export, so that all numbers are of one moment."""

    def __init__(self, engine: Engine, model_name: str) -> None:
        self._engine = engine
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield from self._sequences(stats)
        if stats.cache is not None:
            yield from self._cache(stats.cache)

    def describe(self) -> list[Metric]:
        """Nothing: the registry need not ask the engine before it runs."""
        return []

    def _sequences(self, stats: EngineStats) -> Iterator[Metric]:
        yield self._gauge("sglang:num_running_reqs", "Sequences that are generated now.", stats.running)
        yield self._gauge("sglang:num_queue_reqs", "Sequences that wait for their turn.", stats.waiting)
        share = _share(stats.accepted, stats.drafted)
        yield self._gauge("sglang:spec_accept_rate", "Share of drafted tokens that were accepted.", share)
        yield self._counter("mimo:drafted_tokens", "Tokens that were guessed ahead.", stats.drafted)
        yield self._counter("mimo:accepted_tokens", "Those of them that were sampled too.", stats.accepted)
        yield self._gauge("mimo:engine_away_seconds", "How long the engine has not answered; 0: it does.", stats.away_s)

    def _cache(self, cache: CacheStats) -> Iterator[Metric]:
        needed = cache.used_pages - cache.kept_pages
        yield self._gauge("sglang:max_total_num_tokens", "Tokens that fit.", cache.pages * cache.page_tokens)
        yield self._gauge("sglang:num_used_tokens", "Tokens of running sequences.", needed * cache.page_tokens)
        yield self._gauge(
            "sglang:token_usage", "Share of pages that running sequences hold.", _share(needed, cache.pages)
        )
        share = _share(cache.used_rings, cache.rings)
        yield self._gauge("sglang:swa_token_usage", "Share of rings in use, snapshots and sessions included.", share)
        share = _share(cache.hit_tokens, cache.prompt_tokens)
        yield self._gauge("sglang:cache_hit_rate", "Share of prompt tokens that were not computed again.", share)
        yield self._gauge(
            "mimo:cache_kept_pages", "Pages that are given up as soon as one is needed.", cache.kept_pages
        )
        yield self._gauge("mimo:cache_snapshots", "Points from which a sequence can go on.", cache.snapshots)
        yield self._gauge("mimo:cache_sessions", "Sessions between two requests.", cache.sessions)
        yield self._gauge("mimo:cache_used_bytes", "Bytes of pages and rings in use.", cache.used_bytes)
        yield self._counter(
            "sglang:num_retracted_requests", "Sequences that had to give up their memory.", cache.preemptions
        )

    def _gauge(self, name: str, what: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(name, what, labels=["model_name"])
        gauge.add_metric([self._model_name], value)
        return gauge

    def _counter(self, name: str, what: str, value: float) -> Metric:
        counter = CounterMetricFamily(name, what, labels=["model_name"])
        counter.add_metric([self._model_name], value)
        return counter


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
