"""The door: every request gets an id, is for a host that is ours, and says who it is from before anything else is looked at."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broadcaster.protocol.errors import BroadcasterError
from broadcaster.web.limits import BODY
from broadcaster.web.problems import CODES, Problem, problem, problem_of
from broadcaster.web.tokens import OPEN, Grant, TokenFile

log = logging.getLogger("broadcaster.web")

COOKIE = "broadcaster"
SESSION = 12 * 3600.0
"""Seconds after which a browser has to show the token again."""
SESSIONS = 1000
"""Browsers that are remembered; the one that came first is forgotten for one more."""
PROBES = ("/livez", "/readyz")
"""Asked by whoever runs the container, under any name that it has for us."""
LOCAL = ("localhost", "127.0.0.1", "::1")

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""What every response says."""


class Sessions:
    """Browsers that have shown a token. What they keep is worth nothing once this process has ended, or the token is revoked."""

    def __init__(self, tokens: TokenFile) -> None:
        self._tokens = tokens
        self._sessions: OrderedDict[str, tuple[Grant, float]] = OrderedDict()

    def begin(self, grant: Grant) -> str:
        """A new one; what the browser is to keep."""
        session = secrets.token_urlsafe(32)
        self._sessions[session] = grant, time.monotonic() + SESSION
        if len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def grant_of(self, session: str) -> Grant | None:
        found = self._sessions.get(session)
        if found is None:
            return None
        grant, until = found
        if time.monotonic() < until and self._tokens.holds(grant):
            return grant
        self._sessions.pop(session, None)
        return None


class Hosts:
    """The names that we may be asked under: a page elsewhere whose name was made to lead here says another one. An address is no
    such name. `names` with "*" allows all."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower().rstrip(".") for name in (*LOCAL, *names)}

    def allow(self, header: str | None) -> bool:
        if header is None:
            return False
        host = header.strip().lower()
        if host.startswith("["):
            host, closed, _ = host[1:].partition("]")
            if not closed:
                return False
        elif host.count(":") == 1:
            host = host.partition(":")[0]
        host = host.rstrip(".")
        return "*" in self._names or host in self._names or _is_address(host)


class Door:
    """Around the whole application. Puts `grant` (None: not known who it is) and `request_id` into the request's state, and tells
    every error as a problem."""

    def __init__(self, app: ASGIApp, tokens: TokenFile, sessions: Sessions, hosts: Hosts) -> None:
        self._app = app
        self._tokens = tokens
        self._sessions = sessions
        self._hosts = hosts
        self._warned = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, begun = secrets.token_hex(8), False

        async def told(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = request_id
            await send(message)

        scope["state"]["request_id"] = request_id
        try:
            self._enter(scope)
            await self._app(scope, receive, told)
            return
        except BroadcasterError as error:
            response = problem_of(error, request_id)
        except Problem as refused:
            response = problem(refused.status, CODES[refused.status], refused.detail, request_id)
            for name, value in refused.headers.items():
                response.headers[name] = value
        except Exception:
            log.exception("a request failed path=%s request=%s", scope["path"], request_id)
            response = problem(500, CODES[500], "something went wrong here: the log knows it by the request id", request_id)
        if begun:  # Not all of the body was sent: the connection ends with it, and the client sees that.
            log.info("a response broke off path=%s request=%s", scope["path"], request_id)
            return
        await response(scope, receive, told)

    def _enter(self, scope: Scope) -> None:
        """Raises Problem."""
        headers, path = Headers(scope=scope), scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            raise Problem(405, "nothing can be changed over HTTP: GET and HEAD are possible", {"Allow": "GET, HEAD"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > BODY:
            raise Problem(413, f"a body of more than {BODY} bytes is not taken")
        if path not in PROBES and not self._hosts.allow(headers.get("host")):
            raise Problem(421, "this name is not one of ours: allow it with --http-allowed-host")
        scope["state"]["grant"] = self._who(headers)

    def _who(self, headers: Headers) -> Grant | None:
        if not self._tokens.needed:
            return OPEN
        if self._tokens.trouble and self._tokens.trouble != self._warned:
            log.error("no token is accepted reason=%s", self._tokens.trouble)
        self._warned = self._tokens.trouble
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._tokens.grant_of(token.strip())
        session = _cookie(headers.get("cookie", ""))
        return None if session is None else self._sessions.grant_of(session)


def _cookie(header: str) -> str | None:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
