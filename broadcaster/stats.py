"""Counters and gauges as plain values. Counting costs one dict update; who shows them is somebody else's business."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate

COUNTERS = {
    "publishes": "versions committed",
    "bytes_in": "payload bytes committed",
    "archived": "versions made durable",
    "archive_failures": "archive jobs that failed",
    "store_corrupt": "payloads and manifests in the archive that were found damaged or missing",
    "store_healed": "damaged payloads in the archive that were made good again from memory",
    "pruned": "archived versions that a retention policy deleted",
    "retention_failures": "looks of standing retention policies that failed",
    "retention_refused": "looks that did nothing, because the wall clock had jumped and ages cannot be believed",
    "evicted": "versions that left memory and were not archived",
    "uploads_begun": "uploads begun",
    "uploads_resumed": "uploads resumed after a lost connection or answer",
    "uploads_refused": "uploads ended by an error",
    "grants": "slots granted to learners on this host",
    "grants_withdrawn": "grants that ended without their writer's word: their slots are unlinked",
    "slots_unlinked": "slots that were replaced because readers kept too many of them",
    "fills_dropped": "words of how far a slot is filled that belonged to no grant",
    "chunks_dropped": "uploaded chunks that were not wanted: repeated, or behind a hole",
    "chunks_pushed": "chunks forwarded to subscribers",
    "events": "events appended to the log",
    "requests": "requests answered on the data channel",
    "requests_refused": "requests answered with an error",
    "requests_expired": "requests whose time was over before they were started",
    "searches": "searches and best versions answered",
    "versions_searched": "versions that were looked at for that",
    "reads": "chunks read over the data channel",
    "bytes_read": "payload bytes read over the data channel",
    "bad_messages": "messages that were not of the protocol",
    "replies_dropped": "replies whose client was gone or did not read",
    "acks": "words of subscribers of how far they are",
    "acks_dropped": "those that were of another epoch, or of no model",
    "subscriptions_refused": "subscriptions to something that is not a topic, or that were one too many",
    "connections_refused": "connections that were too many, or came too fast",
    "connections_cut": "connections that were cut for what they did",
}
"""Counter by name, with what it counts."""

DURATIONS = {
    "publish_seconds": "from the begin of an upload to its announcement, without the time that a slot lay ready for it",
    "archive_seconds": "from when a version was to be archived to when it was durable",
    "visible_seconds": "from the announcement of a version to when a subscriber had it verified, as its ack says",
}
"""Histogram by name, with what it counts."""
BOUNDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: the upper bounds of their buckets, behind which is one more."""
_NAMES = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]


class Stats:
    """The counters and histograms of one broadcaster."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._buckets = {name: [0] * len(_NAMES) for name in DURATIONS}
        self._sums = dict.fromkeys(DURATIONS, 0.0)

    def count(self, name: str, by: int = 1) -> None:
        self._counts[name] += by

    def took(self, name: str, seconds: float) -> None:
        """One more observation of a duration."""
        self._buckets[name][bisect_left(BOUNDS, seconds)] += 1
        self._sums[name] += seconds

    def values(self) -> dict[str, float]:
        """All counters, also those that are still 0. Of a histogram `NAME.sum`, and `NAME.le.BOUND`: how many took at most so
        long; BOUND is seconds, or +Inf."""
        told = {name: float(self._counts[name]) for name in COUNTERS}
        for name, buckets in self._buckets.items():
            told[f"{name}.sum"] = self._sums[name]
            told |= {f"{name}.le.{bound}": float(count) for bound, count in zip(_NAMES, accumulate(buckets), strict=True)}
        return told
