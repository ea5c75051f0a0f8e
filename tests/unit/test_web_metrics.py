"""Metrics: every stat of the core has a name, a help text, and the form that Prometheus expects."""

from __future__ import annotations

import re
import time

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broadcaster.stats import BOUNDS, COUNTERS, DURATIONS, Stats
from broadcaster.web import help as table
from broadcaster.web.lags import Lagging
from broadcaster.web.link import Look
from broadcaster.web.metrics import registry_of
from broadcaster.web.rates import buckets_of, histograms, quantile


def test_every_counter_and_duration_of_the_core_is_told() -> None:
    assert set(COUNTERS) <= set(table.COUNTERS) and set(table.HISTOGRAMS) == set(DURATIONS)


def test_names_are_as_prometheus_wants_them() -> None:
    told = [*table.COUNTERS.values(), *table.GAUGES.values(), *table.HISTOGRAMS.values()]
    for one in told:
        assert re.fullmatch(r"[a-z][a-z_]*", one.name) and not one.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert one.help.endswith(".") and not one.help[0].islower() and "\n" not in one.help
        assert not re.search(r"_(ms|us|ns|mib|mb|kib)$", one.name)
    for name in {one.name for one in told}:
        family = [one for one in told if one.name == name]
        assert len({one.help for one in family}) == 1 and len({tuple(label for label, _ in one.labels) for one in family}) == 1
        assert len({one.labels for one in family}) == len(family), f"{name}: two stats are one"
    assert not set(table.COUNTERS) & set(table.GAUGES)


def test_durations_are_histograms_whose_buckets_add_up() -> None:
    stats = Stats()
    for seconds in (0.00005, 0.0001, 0.003, 0.003, 0.2, 99.0):
        stats.took("publish_seconds", seconds)
    values = stats.values()
    assert set(histograms(values)) == set(DURATIONS)
    text = generate_latest(registry_of(Look(values, "", 0.001, time.monotonic()), Lagging(), {})).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["broadcaster_publish_seconds"].samples
    counts = {one.labels["le"]: one.value for one in samples if one.name.endswith("_bucket")}
    assert counts["0.0001"] == 2 and counts["0.005"] == 4 and counts["0.25"] == 5 and counts["10"] == 5 and counts["+Inf"] == 6
    assert len(counts) == len(BOUNDS) + 1
    assert {one.name: one.value for one in samples}["broadcaster_publish_seconds_sum"] == sum((0.00005, 0.0001, 0.006, 0.2, 99.0))


def test_quantiles_lie_where_the_buckets_say() -> None:
    stats = Stats()
    for _ in range(98):
        stats.took("publish_seconds", 0.002)
    stats.took("publish_seconds", 0.2)
    stats.took("publish_seconds", 0.2)
    buckets = [(bound, count) for bound, _, count in buckets_of(stats.values(), "publish_seconds")]
    assert 0.001 <= (quantile(buckets, 0.5) or 0) <= 0.0025 and 0.1 <= (quantile(buckets, 0.99) or 0) <= 0.25
    assert quantile([(bound, 0.0) for bound, _ in buckets], 0.5) is None
    assert quantile([(1.0, 0.0), (float("inf"), 5.0)], 0.5) == 1.0


def test_a_core_that_does_not_answer_leaves_what_is_known_here() -> None:
    text = generate_latest(registry_of(Look(None, "no", 1.0, time.monotonic()), Lagging(), {"listeners": 3.0})).decode()
    assert "broadcaster_up 0.0" in text and "broadcaster_listeners 3.0" in text and "publishes" not in text
