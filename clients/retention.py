"""Which archived versions of a model are kept, in a user's words; and what a policy let go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.messages import Pruned
from broadcaster.protocol.retention import RetentionPolicy

Best = str | tuple[str, str] | tuple[str, str, int]
"""A metric; how it is best ("max" unless given, or "min"); how many versions (1 unless given)."""


@dataclass(frozen=True, slots=True)
class PruneResult:
    """The archived versions that went, or would go: `numbers` ascending, `bytes` of their payloads (the disk gives back what no
    other version has as well); `kept` counts those that a rule keeps."""

    numbers: tuple[int, ...]
    kept: int
    bytes: int


def policy_of(
    last: int | None = None, every: int | None = None, best: Best | None = None, age: float | timedelta | None = None
) -> RetentionPolicy | None:
    """The policy of these rules; None when there is none among them. Raises InvalidRequest naming the rule that is wrong."""
    rules: dict[str, Any] = {"last": last, "every": every}
    rules["age"] = age.total_seconds() if isinstance(age, timedelta) else age
    if isinstance(best, tuple):
        if not 1 <= len(best) <= 3:
            raise InvalidRequest(field="retention: best", reason=f"{best!r} is not (metric, mode, count)")
        rules |= zip(("best", "mode", "count"), best, strict=False)
    else:
        rules["best"] = best
    policy = RetentionPolicy(**rules).check()
    return None if policy.is_empty else policy


def joined(pages: Iterable[Pruned]) -> PruneResult:
    """What one or more answers say together."""
    found = list(pages)
    numbers = tuple(number for page in found for number in page.numbers)
    return PruneResult(numbers, found[-1].kept, sum(page.bytes for page in found))
