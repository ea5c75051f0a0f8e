"""The life of a version: `broker.py` tells it from top to bottom; every file beside it knows one part of it."""

from broadcaster.broker.broker import Broker
from broadcaster.broker.checks import check_annotations, store_error
from broadcaster.broker.pruning import read_policy
from broadcaster.broker.rooms import Caller, Front, Key, Rooms, submit
from broadcaster.broker.searching import Searching
from broadcaster.broker.uploads import Upload
from broadcaster.broker.waiting import Timing

__all__ = [
    "Broker",
    "Caller",
    "Front",
    "Key",
    "Rooms",
    "Searching",
    "Timing",
    "Upload",
    "check_annotations",
    "read_policy",
    "store_error",
    "submit",
]
