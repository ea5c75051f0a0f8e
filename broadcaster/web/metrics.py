"""The core's counters, gauges and histograms as Prometheus reads them, in a registry of our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from broadcaster import __version__
from broadcaster.web.help import COUNTERS, GAUGES, HISTOGRAMS, OWN, Told
from broadcaster.web.lags import Lagging
from broadcaster.web.link import Look
from broadcaster.web.rates import buckets_of

PREFIX = "broadcaster_"

Family = CounterMetricFamily | GaugeMetricFamily


class Found(Collector):
    """What was found last."""

    def __init__(self, look: Look, lags: Lagging, own: Mapping[str, float]) -> None:
        self._look = look
        self._lags = lags
        self._own = own

    def collect(self) -> Iterable[Metric]:
        build = InfoMetricFamily(PREFIX + "build", "The running program.")
        build.add_metric([], {"version": __version__})
        yield build
        yield _gauge("up", "1 while the core answers.", float(self._look.stats is not None))
        yield _gauge("core_answer_seconds", "How long the core took to say all this.", self._look.seconds)
        for name, help_text in OWN.items():
            yield _gauge(name, help_text, self._own.get(name, 0.0))
        if self._look.stats is not None:
            yield from _families(self._look.stats)
            yield from _lag(self._lags)


def registry_of(look: Look, lags: Lagging, own: Mapping[str, float]) -> CollectorRegistry:
    """A registry that holds these values."""
    registry = CollectorRegistry()
    registry.register(Found(look, lags, own))
    return registry


def _families(stats: Mapping[str, float]) -> Iterable[Metric]:
    yield from _labelled(stats, COUNTERS, CounterMetricFamily)
    yield from _labelled(stats, GAUGES, GaugeMetricFamily)
    for stat, told in HISTOGRAMS.items():
        if f"{stat}.le.+Inf" in stats:
            buckets = [(text, count) for _, text, count in buckets_of(stats, stat)]
            yield HistogramMetricFamily(PREFIX + told.name, told.help, buckets=buckets, sum_value=stats[f"{stat}.sum"])


def _labelled(
    stats: Mapping[str, float], table: Mapping[str, Told], kind: type[CounterMetricFamily | GaugeMetricFamily]
) -> Iterable[Metric]:
    """Those of one name are one family, and are told apart by their label."""
    families: dict[str, Family] = {}
    for stat, told in table.items():
        if stat not in stats:
            continue
        if told.name not in families:
            families[told.name] = kind(PREFIX + told.name, told.help, labels=[label for label, _ in told.labels])
        families[told.name].add_metric([value for _, value in told.labels], stats[stat])
    yield from families.values()


def _lag(lags: Lagging) -> Iterable[Metric]:
    labels = ["model", "subscriber", "name"]
    behind = "Versions newer than the one applied, of the subscribers that lag most."
    versions = GaugeMetricFamily(PREFIX + "subscriber_lag_versions", behind, labels=labels)
    seconds = GaugeMetricFamily(PREFIX + "subscriber_lag_seconds", "How long the oldest of these has been out.", labels=labels)
    for model, one in lags.worst:
        named = [model, one.subscriber.hex(), one.name or ""]
        versions.add_metric(named, one.lag)
        seconds.add_metric(named, one.lag_ms / 1000)
    yield versions
    yield seconds
    yield _gauge("other_subscribers", "Subscribers that are not told by name.", lags.others)
    yield _gauge("other_subscribers_lag_versions", "What these lag, all together.", lags.others_versions)
    yield _gauge("other_subscribers_lag_seconds", "What these lag, all together.", lags.others_seconds)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(PREFIX + name, help_text)
    gauge.add_metric([], value)
    return gauge
