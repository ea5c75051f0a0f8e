"""The core's counters and gauges as Prometheus reads them, in a registry of our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from broadcaster import __version__

PREFIX = "broadcaster_"
GAUGES = frozenset(
    "epoch offset models versions subscriptions memory_budget memory_versions memory_uploads slot_bytes slots_used slots_free "
    "slots_pinned slot_bytes_pinned slots_lost slot_bytes_lost archive_jobs changes_waiting uploads".split()
)
"""What may fall. All else only grows."""


class Stats(Collector):
    """What was found last. `stats` None: the core did not answer."""

    def __init__(self, stats: Mapping[str, float] | None) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        build = InfoMetricFamily("broadcaster_build", "The running program.")
        build.add_metric([], {"version": __version__})
        yield build
        up = GaugeMetricFamily(PREFIX + "up", "1 while the core answers.")
        up.add_metric([], float(self._stats is not None))
        yield up
        for name, value in sorted((self._stats or {}).items()):
            family = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
            metric = family(PREFIX + name, name.replace("_", " ") + ".")
            metric.add_metric([], value)
            yield metric


def registry_of(stats: Mapping[str, float] | None) -> CollectorRegistry:
    """A registry that holds these values."""
    registry = CollectorRegistry()
    registry.register(Stats(stats))
    return registry
