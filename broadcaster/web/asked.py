"""What a request asks for: its parameters, checked, and the parts of the web process that answer it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from broadcaster.protocol.errors import AccessDenied, InvalidRequest
from broadcaster.protocol.limits import PAGE as MOST
from broadcaster.protocol.names import DEFAULT_NAMESPACE, check_name
from broadcaster.web.limits import PAGE
from broadcaster.web.link import Link
from broadcaster.web.tokens import Grant

if TYPE_CHECKING:
    from broadcaster.web.access import Sessions
    from broadcaster.web.events import Hub
    from broadcaster.web.health import Disk, OwnLoop
    from broadcaster.web.lags import Lags
    from broadcaster.web.rates import Rates
    from broadcaster.web.tokens import TokenFile

_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


@dataclass(slots=True)
class House:
    """Everything that answers requests."""

    link: Link
    hub: Hub
    rates: Rates
    lags: Lags
    disk: Disk
    loop: OwnLoop
    tokens: TokenFile
    sessions: Sessions
    downloads: int = 0
    """Under way."""


class Asked:
    """One request."""

    def __init__(self, house: House, request: Request) -> None:
        self.house = house
        self.request = request

    @property
    def grant(self) -> Grant:
        grant: Grant = self.request.state.grant
        return grant

    @property
    def namespace(self) -> str:
        """Raises InvalidName."""
        return check_name("namespace", self.text("namespace") or DEFAULT_NAMESPACE)

    @property
    def model(self) -> str:
        """The model that the path names. Raises InvalidName, AccessDenied."""
        model = check_name("model", self.request.path_params["model"])
        self.require(self.namespace, model)
        return model

    @property
    def ref(self) -> int | str:
        """A number, -n for the n-th newest, `latest`, or an alias. Raises InvalidName."""
        said = str(self.request.path_params["ref"])
        if said == "latest":
            return -1
        return int(said) if _WHOLE.fullmatch(said) else check_name("alias", said)

    def require(self, namespace: str, model: str) -> None:
        """Raises AccessDenied when this token does not allow the model."""
        if not self.grant.allows(namespace, model):
            raise AccessDenied(what=f"model {model} in namespace {namespace}", reason="the token does not cover it")

    def text(self, name: str) -> str | None:
        """A parameter. Raises InvalidRequest when it is given twice."""
        found = self.request.query_params.getlist(name)
        if len(found) > 1:
            raise InvalidRequest(field=name, reason="is given more than once")
        return found[0] if found else None

    def whole(self, name: str) -> int | None:
        """A parameter that is a whole number, not below 0. Raises InvalidRequest."""
        said = self.text(name)
        if said is None:
            return None
        if _WHOLE.fullmatch(said) is None or int(said) < 0:
            raise InvalidRequest(field=name, reason=f"{said[:40]!r} is no whole number from 0 on")
        return int(said)

    @property
    def limit(self) -> int:
        """Entries of a page. Raises InvalidRequest."""
        said = self.whole("limit")
        if said is None:
            return PAGE
        if not 1 <= said <= MOST:
            raise InvalidRequest(field="limit", reason=f"must be from 1 to {MOST}")
        return said
