"""What the Cogment front is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from broadcaster.cogment.limits import CHUNK


class Grant(Protocol):
    """What somebody may do."""

    def has(self, role: str) -> bool:
        """Whether it is of this role (`actor`, `learner`, `admin`) or one that includes it."""

    def allows(self, namespace: str, model: str) -> bool: ...


class Tokens(Protocol):
    """Who shows which token, as it is now."""

    @property
    def needed(self) -> bool:
        """Whether anything is answered to a token only."""

    def grant_of(self, token: str) -> Grant | None:
        """What a token allows; None for one that is not known."""

    def holds(self, grant: Any) -> bool:
        """Whether what was allowed still is."""


@dataclass(frozen=True, slots=True)
class CogmentOptions:
    """Where to listen (port 0: a free one), where the core is, and who is let in.

    `tokens` None: everybody is, whoever else needs a token. `chunk_size` is in bytes. `certificate` and `key` are files in PEM,
    for TLS. `version` is what the broadcaster says of itself.
    """

    host: str
    port: int
    core: str
    version: str
    tokens: Tokens | None = None
    chunk_size: int = CHUNK
    reflection: bool = False
    certificate: Path | None = None
    key: Path | None = None
