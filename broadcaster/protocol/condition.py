"""What a search asks of a version: one field, how it is compared, and with what."""

from __future__ import annotations

from dataclasses import dataclass

from broadcaster.protocol.errors import Fact

EXISTS = "exists"
OPS = ("=", "!=", ">", ">=", "<", "<=", EXISTS)
MAX_CONDITIONS = 32
"""Conditions of one search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Holds for a version whose `field` compares with `value` so; `exists` asks whether there is any (True, or None) or none
    (False). What is missing, or not a number (NaN), compares with nothing."""

    field: str
    op: str
    value: Fact = None
