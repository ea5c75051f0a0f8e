"""Saying in a sentence what a model or a version is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from broadcaster.protocol.messages.rules import Request, rule, text, uint


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe(Request):
    """Replaces the description of a version, or of the model where `number` is absent; empty text removes it."""

    KIND: ClassVar[bytes] = b"describe"
    model_id: str = rule(text)
    number: int | None = rule(uint, default=None)
    description: str = rule(text)
