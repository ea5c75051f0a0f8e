"""Where a request was, and what went wrong there: values that a reply brings along when it was asked for, or is an error."""

from __future__ import annotations

from dataclasses import dataclass

BROADCASTER = "broadcaster"
"""The role of a node that has the models."""
MOST_HOPS = 16
"""Hops of one reply."""
MOST_DETAILS = 16
"""Details of one error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One node that a request went through.

    `received` and `sent` are that node's wall clock in nanoseconds since 1970: to look at, not to subtract from another node's.
    `queued` is how long the request waited there for the thread that did its work, in nanoseconds of the monotonic clock.
    """

    node: str
    role: str
    received: int
    sent: int
    queued: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetail:
    """One error in the chain that led to a refusal: the `error_class` (as Python names it) that was raised in `node`, whose role
    this is. `retryable`: the same may succeed later, unchanged. `traceback` is told by a broadcaster that runs with --debug."""

    node: str
    role: str
    error_class: str
    message: str
    retryable: bool
    traceback: str | None = None
