"""What the web process is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WebOptions:
    """Where to listen (port 0: a free one), where the core is, and who is let in.

    `hosts` are names that it may be asked under, beside localhost and addresses. `tokens` is the file of tokens, which are needed
    as soon as it is there; None: none ever are. `certificate` and `key` are files in PEM, for TLS.
    """

    host: str
    port: int
    core: str
    archive_dir: Path
    hosts: tuple[str, ...] = ()
    tokens: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
