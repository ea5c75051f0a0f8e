"""Every stat of the core, by the name that it has there: its name and labels for Prometheus, and what it means."""

from __future__ import annotations

from typing import NamedTuple


class Told(NamedTuple):
    """Without the prefix; a counter's `_total` is added by the exposition. `labels` are (label, value)."""

    name: str
    help: str
    labels: tuple[tuple[str, str], ...] = ()


_DROPPED = "What came and was dropped without an answer, by reason."
_REFUSED = "What was answered with an error, by kind."
_SLOTS = "Shared-memory slots, by state: used by a version, free, pinned by readers alone, lost (unlinked while still read)."
_SLOT_BYTES = "Bytes of shared-memory slots, by state: all that exist, pinned by readers alone, lost (unlinked while still read)."
_MEMORY = "Payload bytes in memory, by use."


def _dropped(reason: str) -> Told:
    return Told("dropped", _DROPPED, (("reason", reason),))


def _refused(kind: str) -> Told:
    return Told("refused", _REFUSED, (("kind", kind),))


def _slots(state: str) -> Told:
    return Told("slots", _SLOTS, (("state", state),))


def _slot_bytes(state: str) -> Told:
    return Told("slot_bytes", _SLOT_BYTES, (("state", state),))


COUNTERS: dict[str, Told] = {
    "publishes": Told("publishes", "Versions that were committed and announced."),
    "bytes_in": Told("published_bytes", "Payload bytes of these versions."),
    "archived": Told("archived_versions", "Versions that were made durable."),
    "archive_failures": Told("archive_failures", "Jobs of the archive that failed."),
    "store_corrupt": Told("archive_corrupt", "Payloads and manifests in the archive that were found damaged or missing."),
    "store_healed": Told("archive_healed", "Damaged payloads that were made good again from memory."),
    "pruned": Told("pruned_versions", "Archived versions that a retention policy deleted."),
    "retention_failures": Told("retention_failures", "Looks of standing retention policies that failed."),
    "retention_refused": Told("retention_refused", "Looks that did nothing, because the wall clock had jumped."),
    "evicted": Told("evicted_versions", "Versions that left memory and were not archived."),
    "uploads_begun": Told("uploads_begun", "Uploads that were begun."),
    "uploads_resumed": Told("uploads_resumed", "Uploads that went on after a lost connection or a lost answer."),
    "uploads_refused": _refused("upload"),
    "requests_refused": _refused("request"),
    "requests_expired": _refused("request-expired"),
    "keys_refused": _refused("key"),
    "connections_refused": _refused("connection"),
    "connections_cut": Told("connections_cut", "Connections that were cut for what they did."),
    "grants": Told("slot_grants", "Slots that were granted to learners on this host."),
    "grants_withdrawn": Told("slot_grants_withdrawn", "Grants that ended without their writer's word: their slots are unlinked."),
    "slots_unlinked": Told("slots_unlinked", "Slots that were replaced because readers kept too many of them."),
    "fills_dropped": _dropped("fill"),
    "chunks_dropped": _dropped("chunk"),
    "bad_messages": _dropped("bad-message"),
    "replies_dropped": _dropped("reply"),
    "acks_dropped": _dropped("ack"),
    "subscriptions_refused": _dropped("subscription"),
    "chunks_pushed": Told("pushed_chunks", "Chunks that were forwarded to subscribers while they arrived."),
    "events": Told("events", "Events that were appended to the log."),
    "requests": Told("requests", "Requests on the data channel."),
    "searches": Told("searches", "Searches that were answered, best versions among them."),
    "versions_searched": Told("versions_searched", "Versions that searches looked at."),
    "reads": Told("reads", "Pieces of payloads that were read over the data channel."),
    "bytes_read": Told("read_bytes", "Payload bytes that were read over the data channel."),
    "acks": Told("acks", "Words of subscribers of how far they are."),
}
"""What only grows."""

GAUGES: dict[str, Told] = {
    "epoch": Told("epoch", "The life of the core: another one after each start."),
    "offset": Told("event_offset", "Offset of the newest event in this life."),
    "models": Told("models", "Models that there are."),
    "versions": Told("versions", "Versions that can be fetched."),
    "connections": Told("connections", "Connections to the three channels."),
    "subscriptions": Told("subscriptions", "Subscriptions to models' events, over all connections."),
    "subscribers": Told("subscribers", "Subscribers that say how far they are."),
    "subscribers_behind": Told("subscribers_behind", "Those that have not applied the newest version of their model."),
    "worst_lag_versions": Told("worst_lag_versions", "Versions that the subscriber furthest behind lags."),
    "worst_lag_seconds": Told("worst_lag_seconds", "How long the oldest version that a subscriber lacks has been out."),
    "ack_waiters": Told("ack_waiters", "Requests that wait for acks."),
    "uploads": Told("uploads", "Uploads that are under way; slots that were granted ahead are none."),
    "memory_budget": Told("memory_budget_bytes", "Bytes that payloads may take in memory."),
    "memory_versions": Told("memory_bytes", _MEMORY, (("use", "versions"),)),
    "memory_uploads": Told("memory_bytes", _MEMORY, (("use", "uploads"),)),
    "slot_bytes": _slot_bytes("all"),
    "slot_bytes_pinned": _slot_bytes("pinned"),
    "slot_bytes_lost": _slot_bytes("lost"),
    "slots_used": _slots("used"),
    "slots_free": _slots("free"),
    "slots_pinned": _slots("pinned"),
    "slots_lost": _slots("lost"),
    "archive_jobs": Told("queue_depth", "What waits, by queue.", (("queue", "archive"),)),
    "changes_waiting": Told("queue_depth", "What waits, by queue.", (("queue", "changes"),)),
    "archive_writable": Told("archive_writable", "1 while the archive takes writes."),
    "archive_read_only": Told("archive_read_only", "1 while the archive takes none, after a failed write."),
    "quarantined": Told("archive_quarantined", "Damaged payloads that were set aside."),
    "archive_doubts": Told("archive_doubts", "Models of which a write failed, until the archive was looked at again."),
    "manifests_lost": Told("archive_manifests_lost", "Versions of which only a manifest is left that cannot be read."),
    "scrub_bytes": Told("scrub_bytes", "Bytes of the archive that the pass of the scrub under way has checked."),
    "scrub_unreadable": Told("scrub_unreadable", "Payloads that the scrub could not read for now."),
    "scrub_last_complete": Told("scrub_last_complete_timestamp_seconds", "When the scrub was last through, since 1970; or 0."),
    "loop_longest_turn_seconds": Told("loop_longest_turn_seconds", "Longest turn of the core's loop in the last seconds."),
}
"""What may fall."""

HISTOGRAMS: dict[str, Told] = {
    "publish_seconds": Told("publish_seconds", "From a publication's begin to its announcement, in the core."),
    "archive_seconds": Told("archive_seconds", "From when a version was to be archived to its durability."),
    "visible_seconds": Told(
        "publish_to_visible_seconds", "From a version's announcement to a subscriber having it verified, by the acks."
    ),
}
"""What is counted in buckets."""

OWN: dict[str, str] = {
    "listeners": "Listeners to events over HTTP.",
    "downloads": "Downloads over HTTP that are under way.",
    "web_loop_late_seconds": "How late the web process's own loop was last.",
}
"""What this process says of itself."""


def is_told(stat: str) -> bool:
    """Whether a stat of the core is in one of the tables."""
    return stat in COUNTERS or stat in GAUGES or stat.partition(".")[0] in HISTOGRAMS
