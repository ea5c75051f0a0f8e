"""How far one subscriber of a model is: a frozen value that travels on the wire and reaches the user as it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberInfo:
    """One subscriber of a model, as the broadcaster heard of it last.

    `subscriber` are 16 random bytes, `name` is what its client is called. `received` is the highest version number that was
    verified and became visible there, `applied` the highest that was handed out to its user (0: none). `lag` is how many versions
    were published behind the one applied, `lag_ms` for how many milliseconds the first of them has been out (at most since the
    subscriber was first heard of), `seen_ms` how many have gone by since it was last heard.
    """

    subscriber: bytes
    name: str | None = None
    received: int
    applied: int
    lag: int
    lag_ms: int
    seen_ms: int
