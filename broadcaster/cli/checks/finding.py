"""What a check came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How good it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but more slowly, for less, or not for ever."""
    PROBLEM = "problem"
    """A broadcaster does not start with it, or should not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`found` is what there is, `remedy` what to do about it (empty when all is well)."""

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, Level.WARNING, found, remedy)


def problem(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, Level.PROBLEM, found, remedy)
