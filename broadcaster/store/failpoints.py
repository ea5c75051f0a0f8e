"""Named points around every durable step, where a test may kill the process or make the step fail.

Nothing is armed unless a test arms it: in production `hit` is one comparison.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def arm(hook: Callable[[str], None] | None) -> None:
    """Call `hook(name)` at every point from now on; what it raises, the step raises. None disarms."""
    global _hook
    _hook = hook


def hit(name: str) -> None:
    """The process has come to the point `name`."""
    if _hook is not None:
        _hook(name)
