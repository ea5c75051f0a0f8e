"""Who may call what: roles and tokens are those of HTTP, the token comes as metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from broadcaster.cogment.limits import LOOK, REQUEST
from broadcaster.cogment.link import NAMESPACE
from broadcaster.cogment.options import Grant, Tokens
from broadcaster.cogment.pacing import Reader
from broadcaster.cogment.status import Refusal
from broadcaster.protocol.errors import AccessDenied

ROLES: Mapping[str, str] = {
    "CreateOrUpdateModel": "learner",
    "DeleteModel": "admin",
    "RetrieveModels": "actor",
    "CreateVersion": "learner",
    "RetrieveVersionInfos": "actor",
    "RetrieveVersionData": "actor",
    "VersionUpdate": "actor",
    "Version": "actor",
    "Status": "actor",
}
"""The role that each call needs, where a token is needed."""

_NEEDED = "a token is needed: metadata authorization, Bearer TOKEN"


class Call:
    """One call: who made it, and how long it may take."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], grant: Grant | None, tokens: Tokens | None) -> None:
        self.context = context
        self._grant = grant
        self._tokens = tokens

    def covers(self, model_id: str) -> bool:
        """Whether the model is one that this caller is told of."""
        return self._grant is None or self._grant.allows(NAMESPACE, model_id)

    def require(self, model_id: str) -> None:
        """Raises AccessDenied for a model that the token does not cover."""
        if not self.covers(model_id):
            raise AccessDenied(what=f"model {model_id[:128]!r}", reason="the token does not cover it")

    def require_still(self) -> None:
        """Raises Refusal when a token is needed by now, or this one was taken back."""
        if self._tokens is None:
            return
        may = self._tokens.holds(self._grant) if self._grant is not None else not self._tokens.needed
        if not may:
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, _NEEDED)

    @property
    def looks_every(self) -> float | None:
        """Seconds between two looks of a call that lasts; None where nothing can be taken back."""
        return None if self._tokens is None else LOOK

    def reader(self, model_id: str) -> Reader:
        """Who reads this model."""
        return self.context.peer(), model_id

    def timeout(self, most: float = REQUEST) -> float:
        """Seconds that are left for it: what its caller gave it, at most `most`."""
        left = self.context.time_remaining()
        return most if left is None else max(0.001, min(most, left))


class Access:
    """Lets calls in. `tokens` None: everybody may do everything."""

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    def enter(self, rpc: str, context: grpc.aio.ServicerContext[Any, Any]) -> Call:
        """Raises Refusal without a token that is known, AccessDenied for one that does not allow this."""
        tokens = self._tokens
        if tokens is None or not tokens.needed:
            return Call(context, None, tokens)
        token = bearer(context.invocation_metadata() or ())
        grant = None if token is None else tokens.grant_of(token)
        if grant is None:
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, _NEEDED)
        if not grant.has(ROLES[rpc]):
            raise AccessDenied(what=rpc, reason=f"it needs a token of role {ROLES[rpc]}")
        return Call(context, grant, tokens)


def bearer(metadata: Sequence[tuple[str, str | bytes]]) -> str | None:
    """The token that is shown, if one is; of several the first."""
    for name, value in metadata:
        if name.lower() == "authorization" and isinstance(value, str):
            scheme, _, token = value.strip().partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None
