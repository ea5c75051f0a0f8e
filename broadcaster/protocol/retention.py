"""Which archived versions of a model are kept: the rules as a value that travels on the wire and reaches the user as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broadcaster.protocol.errors import InvalidRequest

MAX_AGE = 1e10
"""Seconds: about three hundred years."""
MAX_METRIC = 1024
"""Characters of a metric's name in a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """A version stays when any of these rules keeps it; a rule that is None keeps nothing.

    The newest version, those that an alias names and those that are pinned always stay.
    """

    last: int | None = None
    """The newest so many."""
    every: int | None = None
    """Those whose number is a multiple of this."""
    best: str | None = None
    """The `count` best by this metric."""
    mode: str = "max"
    """Whether the greatest (`max`) or the least (`min`) value is best."""
    count: int = 1
    age: float | None = None
    """Those younger than so many seconds, by their creation timestamp."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no rule in it: such a policy lets nothing go."""
        return self.last is None and self.every is None and self.best is None and self.age is None

    def check(self) -> RetentionPolicy:
        """Itself. Raises InvalidRequest naming the rule that makes no sense."""
        for name in ("last", "every", "count"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 1 <= value < 1 << 63):
                raise InvalidRequest(field=f"retention: {name}", reason=f"must be an integer of at least 1, not {_shown(value)}")
        if self.best is not None and (type(self.best) is not str or not 1 <= len(self.best) <= MAX_METRIC):
            reason = f"must be the name of a metric, of at most {MAX_METRIC} characters, not {_shown(self.best)}"
            raise InvalidRequest(field="retention: best", reason=reason)
        if self.mode not in ("max", "min"):
            raise InvalidRequest(field="retention: mode", reason=f"must be max or min, not {_shown(self.mode)}")
        if self.age is not None and not (type(self.age) in (int, float) and 0 < self.age <= MAX_AGE):
            reason = f"must be a number of seconds above 0 and at most {MAX_AGE:.0f}, not {_shown(self.age)}"
            raise InvalidRequest(field="retention: age", reason=reason)
        return self

    def write(self) -> dict[str, Any]:
        """The map that `read` understands: the rules that are given."""
        rules = {"last": self.last, "every": self.every, "best": self.best, "age": self.age}
        if self.best is not None:
            rules |= {"mode": self.mode, "count": self.count}
        return {name: value for name, value in rules.items() if value is not None}

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> RetentionPolicy:
        """The policy of this map; fields that are not known are ignored. Raises ValueError for a value of the wrong type."""
        found: dict[str, Any] = {}
        for name, kinds in _KINDS.items():
            value = given.get(name)
            if value is None:
                continue
            if type(value) not in kinds or (name == "age" and not math.isfinite(value)):
                raise ValueError(f"{name} is not {_SAID[name]}")
            found[name] = float(value) if name == "age" else value
        return cls(**found)


_KINDS: dict[str, tuple[type, ...]] = {
    "last": (int,),
    "every": (int,),
    "best": (str,),
    "mode": (str,),
    "count": (int,),
    "age": (int, float),
}
_SAID = {name: {int: "an integer", str: "text"}.get(kinds[0], "") for name, kinds in _KINDS.items()} | {"age": "a number"}


def _shown(value: object) -> str:
    return repr(value)[:40]
