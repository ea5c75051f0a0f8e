"""What the archive's own thread and its readers find is told here: once in the log, and to whoever can mend it."""

from __future__ import annotations

import logging

from broadcaster.broker import Broker
from broadcaster.server.loop import Loop
from broadcaster.store.quarantine import Damage
from broadcaster.store.upkeep import Upkeep

log = logging.getLogger("broadcaster.server")


def look_after(broker: Broker, loop: Loop, *, rate: int, period: float) -> Upkeep:
    """The thread that scrubs the archive and probes its disk, begun; close it before the archive."""
    archive = broker.rooms.archive

    def found(damage: Damage) -> None:
        loop.post(lambda: _tell(broker, damage))

    archive.tell_damage(found)
    broker.pruning.told = lambda sentence, key: log.warning("%s model=%s/%s", sentence, *key)
    return Upkeep(archive, _say, rate=rate, period=period)


def gauges(broker: Broker, upkeep: Upkeep) -> dict[str, float]:
    """How the archive is."""
    archive = broker.rooms.archive
    writable = archive.health.writable
    return {
        "archive_writable": float(writable),
        "archive_read_only": float(not writable),
        "quarantined": archive.quarantined,
        "scrub_bytes": upkeep.scrub_bytes,
        "scrub_unreadable": upkeep.scrub_unreadable,
        "scrub_last_complete": upkeep.scrub_last_complete,
    }


def _tell(broker: Broker, damage: Damage) -> None:
    names = broker.archiving.damaged(damage)
    log.error("archive: %s versions=%s", damage.what, ",".join(names[:100]) or "none")


def _say(sentence: str, good: bool) -> None:
    log.log(logging.WARNING if good else logging.ERROR, "%s", sentence)
