"""The key that a client shows: from a file, which nobody else can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from broadcaster.protocol.errors import ConfigError
from broadcaster.protocol.keyfile import LARGEST, Key, parse_key


def read_key(given: Key | str | os.PathLike[str] | None) -> Key | None:
    """The key itself, the one in a file, or the one in the file that BROADCASTER_KEY names; None: there is none. Raises
    ConfigError when the file cannot be read, is no key file, or can be read or written by whom it is none of the business."""
    found = given or os.environ.get("BROADCASTER_KEY")
    if found is None or isinstance(found, Key):
        return found
    if not found:
        return None
    path = Path(found)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(key="key", reason=f"{path} is no file")
            # Its group may read it: secrets that are mounted into a container often come so.
            if status.st_mode & 0o037:
                raise ConfigError(key="key", reason=f"{path} can be read by others: chmod 600 it")
            text = opened.read(LARGEST).decode()
    except OSError as wrong:
        raise ConfigError(key="key", reason=f"{path} cannot be read: {wrong.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(key="key", reason=f"{path} is no key file: make one with `broadcaster keygen`") from None
    return parse_key(text, str(path))
