"""One measured fact, as a JSON line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Of `rounds` values: the median, and the tenth and the ninetieth part of a hundred."""

    median: float
    p10: float
    p90: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises IndexError when there is no value."""
        return cls(percentile(values, 50), percentile(values, 10), percentile(values, 90), len(values))


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * part / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Result:
    """`ratio` is ours / the peer's, as medians of one run. `target` is a sentence about it or about ours, `met` its answer.

    `details` are further figures by name, units in the names; `limit` says what stands in the way of less.
    """

    question: str
    case: str
    what: str
    unit: str
    ours: Spread | None = None
    peer: str | None = None
    theirs: Spread | None = None
    ratio: float | None = None
    target: str | None = None
    met: bool | None = None
    limit: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def emit(self) -> None:
        """Prints it, at once."""
        facts = {key: value for key, value in asdict(self).items() if value not in (None, {})}
        print(json.dumps(_rounded(facts), ensure_ascii=False), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, (list, tuple)) else value
