"""The archive on disk: blobs, self-checked manifests beside them, and an index that can be rebuilt from both.

Everything here is synchronous and made to be called from an archive thread (`worker.Worker`), never from the live loop.
"""

from broadcaster.store.archive import Archive
from broadcaster.store.offline import RebuildReport, rebuild_index
from broadcaster.store.schema import MigrateReport, migrate
from broadcaster.store.values import ArchivedVersion, Health, Loaded
from broadcaster.store.verification import VerifyReport, verify
from broadcaster.store.worker import Worker

__all__ = [
    "Archive",
    "ArchivedVersion",
    "Health",
    "Loaded",
    "MigrateReport",
    "RebuildReport",
    "VerifyReport",
    "Worker",
    "migrate",
    "rebuild_index",
    "verify",
]
