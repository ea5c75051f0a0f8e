"""Bearer tokens: made once, told once, and kept as hashes in a file that says what each allows.

[[token]]
name = "dashboard"
role = "admin"
models = ["default/*"]
sha256 = "..."
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from broadcaster.protocol.errors import AlreadyExists, ConfigError, InvalidRequest
from broadcaster.protocol.names import PATTERN, check_name
from broadcaster.protocol.patterns import split_pattern

ROLES = ("actor", "learner", "admin")
"""What a token allows, from little to all: see `broadcaster.web.routes`."""
EVERYTHING = ("*/*",)
LOOK = 1.0
"""Seconds between two looks at the file: so long does a token live on that was taken out of it."""
LARGEST = 1 << 20
"""Bytes of the file."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Grant:
    """What somebody may do: `role`, for models whose `namespace/name` fits one of the patterns."""

    name: str
    role: str
    models: tuple[str, ...] = EVERYTHING
    digest: bytes = b""
    """SHA-256 of the token; empty for who needs none."""

    def allows(self, namespace: str, model: str) -> bool:
        return self.covers_all or any(fnmatchcase(f"{namespace}/{model}", pattern) for pattern in self.models)

    @property
    def covers_all(self) -> bool:
        return "*/*" in self.models

    def has(self, role: str) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


OPEN = Grant("everybody", "admin")
"""Of everybody, where no token is needed."""


def digest_of(token: str) -> bytes:
    """Tokens are 32 random bytes: nothing slower than SHA-256 is needed to keep them."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class TokenFile:
    """The tokens in a file, as they are now. Once there was a file, tokens are needed, whatever becomes of it: one that is
    removed, or cannot be read, lets nobody in. `path` None: no token is ever needed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._grants: tuple[Grant, ...] = ()
        self._needed = False
        self._looked = -LOOK
        self._seen: tuple[int, ...] | None = None
        self.trouble = ""
        """Why nobody is let in, where that is so."""

    @property
    def needed(self) -> bool:
        """Whether anything is answered to a token only."""
        self._look()
        return self._needed

    def grant_of(self, token: str) -> Grant | None:
        """What a token allows; None for one that is not in the file. Takes as long for one as for another."""
        self._look()
        digest, found = digest_of(token), None
        for grant in self._grants:
            if hmac.compare_digest(grant.digest, digest):
                found = grant
        return found

    def holds(self, grant: Grant) -> bool:
        """Whether what was allowed still is."""
        self._look()
        return grant in self._grants if self._needed else True

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now < self._looked + LOOK:
            return
        self._looked = now
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            self._seen, self._grants = None, ()
            self.trouble = f"there is no file {self._path.name} any more" if self._needed else ""
            return
        except OSError as wrong:
            self._needed, self._seen, self._grants, self.trouble = True, None, (), wrong.strerror or str(wrong)
            return
        self._needed = True
        seen = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._grants, self.trouble = read_tokens(self._path), ""
        except ConfigError as wrong:
            self._grants, self.trouble = (), str(wrong)


def read_tokens(path: Path) -> tuple[Grant, ...]:
    """What is in the file. Raises ConfigError for one that others may write, and for whatever is wrong with it."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o022 or state.st_uid not in (0, os.geteuid()):
                raise ConfigError(key="http-tokens", reason=f"{path}: others may write it: it must be yours, with mode 0600")
            found = tomllib.loads(file.read(LARGEST).decode())
    except OSError as wrong:
        raise ConfigError(key="http-tokens", reason=f"{path} cannot be read: {wrong.strerror}") from None
    except ValueError as wrong:
        raise ConfigError(key="http-tokens", reason=f"{path}: {wrong}") from None
    entries = found.get("token", [])
    if not isinstance(entries, list) or set(found) - {"token"}:
        raise ConfigError(key="http-tokens", reason=f"{path}: holds [[token]] tables, and nothing else")
    return tuple(_grant(path, entry) for entry in entries)


def _grant(path: Path, entry: object) -> Grant:
    def wrong(what: str) -> ConfigError:
        return ConfigError(key="http-tokens", reason=f"{path}: {what}")

    if not isinstance(entry, dict):
        raise wrong("token must be a table")
    name, role, models, digest = (entry.get(key) for key in ("name", "role", "models", "sha256"))
    if not isinstance(name, str) or re.fullmatch(PATTERN, name) is None:
        raise wrong(f"each token has a name that matches {PATTERN}")
    if role not in ROLES:
        raise wrong(f"{name}: role must be one of {', '.join(ROLES)}")
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise wrong(f"{name}: sha256 must be 64 hexadecimal digits")
    patterns = list(EVERYTHING) if models is None else models
    if not isinstance(patterns, list):
        raise wrong(f"{name}: models must be a list of patterns")
    try:
        return Grant(name, role, whole(patterns), bytes.fromhex(digest))
    except InvalidRequest as refused:
        raise wrong(f"{name}: {refused}") from None


def whole(patterns: Sequence[object]) -> tuple[str, ...]:
    """The patterns with their namespaces. Raises InvalidRequest."""
    return tuple("/".join(split_pattern(pattern)) for pattern in patterns)


def add_token(path: Path, name: str, role: str, models: Sequence[str] = EVERYTHING) -> str:
    """Makes a token, writes its hash to the file (made, with mode 0600, if it is not there), and returns it: it is kept nowhere.

    Raises AlreadyExists for a name that has one, InvalidName, InvalidRequest, ConfigError for a file that is none of ours.
    """
    check_name("token", name)
    if role not in ROLES:
        raise InvalidRequest(field="role", reason=f"must be one of {', '.join(ROLES)}")
    models = whole(models)
    grants = list(read_tokens(path)) if os.path.lexists(path) else []
    if any(grant.name == name for grant in grants):
        raise AlreadyExists(model_id=path.name, what=f"a token named {name}")
    token = secrets.token_urlsafe(32)
    write_tokens(path, [*grants, Grant(name, role, models, digest_of(token))])
    return token


def remove_token(path: Path, name: str) -> bool:
    """Takes a token out of the file; whether it was there. Raises ConfigError."""
    grants = read_tokens(path)
    left = [grant for grant in grants if grant.name != name]
    if len(left) < len(grants):
        write_tokens(path, left)
    return len(left) < len(grants)


def write_tokens(path: Path, grants: Sequence[Grant]) -> None:
    """Replaces the file at once, with mode 0600. Raises ConfigError."""
    lines = ["# Who may ask over HTTP. Hashes only: a token is told once, when it is made."]
    for grant in grants:
        models = ", ".join(f'"{pattern}"' for pattern in grant.models)
        lines += ["", "[[token]]", f'name = "{grant.name}"', f'role = "{grant.role}"', f"models = [{models}]"]
        lines.append(f'sha256 = "{grant.digest.hex()}"')
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except OSError as wrong:
        raise ConfigError(key="http-tokens", reason=f"{path} cannot be written: {wrong.strerror}") from None
