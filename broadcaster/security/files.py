"""The directory of keys: the broadcaster's own pair, the book, and the files of clients. Secrets are 0600 from the start."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import zmq

from broadcaster.protocol.errors import AlreadyExists, ConfigError, InvalidRequest
from broadcaster.protocol.keyfile import Key, parse_key, write_key
from broadcaster.protocol.names import check_name
from broadcaster.security.book import Book, read_book
from broadcaster.security.roles import Grant

FIRST = "admin"
"""The key that is made when a broadcaster that needs keys has none."""
LARGEST = 1 << 22
"""Bytes of the book."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class ServerKey:
    """The broadcaster's own pair. Its repr tells no secret."""

    public: str
    secret: str = field(repr=False)


class KeyDirectory:
    """`server.key`, `keys.toml` and `NAME.key` in one directory of mode 0700."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.book_file = directory / "keys.toml"
        self._server_file = directory / "server.key"
        self._next_file = directory / "server-next.key"

    @property
    def exists(self) -> bool:
        """Whether there are keys: from then on they are needed."""
        return os.path.lexists(self.book_file)

    # --- reading ---------------------------------------------------------------------------------------------------

    def server_key(self) -> ServerKey:
        """Raises ConfigError when it is not there, or not for us alone."""
        found = _key(self._server_file)
        return ServerKey(found.public, found.secret)

    def book(self) -> Book:
        """Raises ConfigError when the file cannot be read, can be written by others, or says nothing that makes sense."""
        return read_book(_text(self.book_file, secret=False), str(self.book_file), datetime.now(UTC))

    def stamp(self) -> tuple[int, ...]:
        """Another one when the book was changed. Raises OSError when it is not there."""
        now = self.book_file.lstat()
        return now.st_mtime_ns, now.st_size, now.st_ino, now.st_mode

    # --- making ----------------------------------------------------------------------------------------------------

    def ensure(self) -> Path | None:
        """Makes the broadcaster's pair, and the first key where there is none at all: the file of that one."""
        if self.exists:
            return None
        return self.make(FIRST, Grant("admin", "*", "*"))

    def make(self, name: str, grant: Grant, file: Path | None = None, expires: datetime | None = None) -> Path:
        """A new key, known to the book from now on; where the client's file is. `file` is another place for that.

        Raises AlreadyExists when that file is there, InvalidName, InvalidRequest, ConfigError when nothing can be written.
        """
        if check_name("key", name) in (self._server_file.stem, self._next_file.stem):
            raise InvalidRequest(field="name", reason=f"{name} is the broadcaster's own")
        file = file or self.directory / f"{name}.key"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                server = self._ensure_server()
                public, secret = (part.decode() for part in zmq.curve_keypair())
                text = _text(self.book_file, secret=False) if self.exists else _HEAD
                text += _entry(name, public, grant, expires)
                read_book(text, str(self.book_file), datetime.now(UTC))  # Nothing is made that could not be read again.
                _create(file, write_key(Key(name, public, secret, server.public)))
                self._replace(self.book_file, text)
        except OSError as wrong:
            where = f"{wrong.filename or self.directory}: {wrong.strerror}"
            raise ConfigError(key="keys-dir", reason=f"{where}: keys cannot be made there") from wrong
        return file

    def make_next_server(self) -> str:
        """Makes the pair that `take_next_server` will take; its public key. Raises AlreadyExists when one waits already,
        ConfigError when there is no pair to follow."""
        self.server_key()
        public, secret = (part.decode() for part in zmq.curve_keypair())
        try:
            _create(self._next_file, write_key(Key("server", public, secret, public)))
        except OSError as wrong:
            raise ConfigError(key="keys-dir", reason=f"{self._next_file}: {wrong.strerror}") from wrong
        return public

    def take_next_server(self) -> bool:
        """Puts the next pair in the place of the last, if one was made, and its public key into the key files that lie here.
        Whether it did. May be done again after it was cut off. Raises ConfigError."""
        if not os.path.lexists(self._next_file):
            return False
        try:
            with self._locked():
                after, before = _key(self._next_file), _key(self._server_file)
                for file in self.directory.glob("*.key"):
                    with contextlib.suppress(ConfigError):  # One that is no key, or that others can read, is nobody's.
                        found = _key(file)
                        if file not in (self._next_file, self._server_file) and found.server == before.public:
                            self._replace(file, write_key(Key(found.name, found.public, found.secret, after.public)))
                self._next_file.rename(self._server_file)
                self._sync()
        except OSError as wrong:
            raise ConfigError(key="keys-dir", reason=f"{wrong.filename or self.directory}: {wrong.strerror}") from wrong
        return True

    def _ensure_server(self) -> ServerKey:
        if not os.path.lexists(self._server_file):
            public, secret = (part.decode() for part in zmq.curve_keypair())
            _create(self._server_file, write_key(Key("server", public, secret, public)))
        return self.server_key()

    def _replace(self, file: Path, text: str) -> None:
        aside = self.directory / f".{file.name}.{os.getpid()}"
        aside.unlink(missing_ok=True)
        _create(aside, text)
        aside.rename(file)
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


_HEAD = """# Who may do what: one entry for each key. A broadcaster that runs reads this again within a second.
# Take an entry out, and its connections are cut. Two entries of one name let a key be changed without a pause.
"""


def _entry(name: str, public: str, grant: Grant, expires: datetime | None) -> str:
    lines = [
        "\n[[key]]",
        f'name = "{name}"',
        f"public = '{public}'",
        f'role = "{grant.role}"',
        f'namespace = "{grant.namespace}"',
        f'models = "{grant.models}"',
    ]
    return "\n".join([*lines, *([f"expires = {expires.isoformat()}"] if expires else [])]) + "\n"


def _create(file: Path, text: str) -> None:
    """A new file for us alone. Raises AlreadyExists, also for a link that leads nowhere."""
    try:
        descriptor = os.open(file, _NEW, 0o600)
    except FileExistsError:
        raise AlreadyExists(model_id="keys", what=f"the file {file} (to change a key, make a second one with --file)") from None
    with open(descriptor, "w", encoding="utf-8") as opened:
        os.fchmod(descriptor, 0o600)
        opened.write(text)
        opened.flush()
        os.fsync(descriptor)


def _key(file: Path) -> Key:
    return parse_key(_text(file, secret=True), str(file))


def _text(file: Path, *, secret: bool) -> str:
    """What is in a file that only we (or root) can have written, and, if it is `secret`, only we can read."""
    try:
        descriptor = os.open(file, _READ)
        with open(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            wrong = _why_not(status, secret=secret)
            if wrong:
                raise ConfigError(key="keys", reason=f"{file} {wrong}")
            return opened.read(LARGEST).decode()
    except OSError as trouble:
        raise ConfigError(key="keys", reason=f"{file} cannot be read: {trouble.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(key="keys", reason=f"{file} is no text") from None


def _why_not(status: os.stat_result, *, secret: bool) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    if status.st_uid not in (os.getuid(), 0):
        return "belongs to another user"
    if status.st_mode & (0o077 if secret else 0o022):
        return "can be read by others: chmod 600 it" if secret else "can be written by others: chmod 600 it"
    return "is too large" if status.st_size > LARGEST else ""
