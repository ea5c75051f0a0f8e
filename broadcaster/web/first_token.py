"""The first token, made when the first key is: a broadcaster that the network reaches is started with nothing at hand."""

from __future__ import annotations

import os
from pathlib import Path

from broadcaster.protocol.errors import ConfigError
from broadcaster.web.tokens import add_token, remove_token

NAME = "admin"


def make_first_token(file: Path) -> Path:
    """Makes a token that allows everything, with its hash in `file`, and writes it beside that, mode 0600: where it is.

    Raises ConfigError.
    """
    kept = file.with_name(f"{NAME}.token")
    token = add_token(file, NAME, "admin")
    try:
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(token + "\n")
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as wrong:
        remove_token(file, NAME)
        file.unlink()
        raise ConfigError(key="http-tokens", reason=f"{kept} cannot be written: {wrong.strerror}") from None
    return kept
