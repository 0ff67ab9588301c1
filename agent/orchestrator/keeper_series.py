"""What those say as Prometheus series who look after a worker's sandboxes: its pool and its reaper."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sandbox.pool.pool import WarmPool
from sandbox.reaper.reaper import Reaper
from sandbox.toolbox.keepers import Keepers


class KeeperSeries(Collector):
    """Asks them at each export. Who is not there exports nothing."""

    def __init__(self, keepers: Keepers) -> None:
        self._keepers = keepers

    def collect(self) -> Iterator[Metric]:
        if self._keepers.pool is not None:
            yield from _of_pool(self._keepers.pool)
        if self._keepers.reaper is not None:
            yield from _of_reaper(self._keepers.reaper)


def _of_pool(pool: WarmPool) -> Iterator[Metric]:
    counts = pool.counts
    given = CounterMetricFamily("mimo_pool_given", "Sandboxes that were asked of the pool: warm, cold.", labels=["how"])
    given.add_metric(["warm"], counts.warm)
    given.add_metric(["cold"], counts.cold)
    yield given
    yield CounterMetricFamily("mimo_pool_failed", "Sandboxes that the pool could not make.", counts.failed)
    yield GaugeMetricFamily("mimo_pool_ready", "Sandboxes that wait in the pool.", pool.num_ready)
    yield GaugeMetricFamily(
        "mimo_pool_breaker_open", "1 while none is made, since there are far more than wanted.", pool.breaker_open
    )


def _of_reaper(reaper: Reaper) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "mimo_reaper_swept_timestamp_seconds", "When the reaper last looked at all sandboxes.", reaper.swept_at
    )
    yield CounterMetricFamily(
        "mimo_reaper_condemned", "Sandboxes nobody cared for any more, found by the reaper.", reaper.num_condemned
    )
    yield GaugeMetricFamily(
        "mimo_reaper_stuck", "Those of them that are still there after many sweeps.", reaper.num_stuck
    )
