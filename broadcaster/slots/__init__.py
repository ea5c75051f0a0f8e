"""Payloads in shared memory: files in a slot directory, each holding one payload, mapped once and used again and again."""

from broadcaster.slots.directory import (
    file_system_of,
    is_memory,
    open_slot_directory,
    share_slot_directory,
    sweep_abandoned,
)
from broadcaster.slots.pool import SlotPool
from broadcaster.slots.slot import Inline, Slot, Tracker

__all__ = [
    "Inline",
    "Slot",
    "SlotPool",
    "Tracker",
    "file_system_of",
    "is_memory",
    "open_slot_directory",
    "share_slot_directory",
    "sweep_abandoned",
]
