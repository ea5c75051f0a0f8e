"""One event, one line: for people on a terminal, as JSON everywhere else."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

from broadcaster.cli.text import one_line

_FIELD = re.compile(r" (\w+)=%[-#0 +]*[\d.]*[a-z]")
_ANY = re.compile(r"%[-#0 +]*[\d.]*[a-z]")


class Lines(logging.StreamHandler[Any]):
    """Writes to stderr. A reader that has gone stops no broadcaster: what cannot be written is dropped."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Json(logging.Formatter):
    """`{"time": ..., "level": ..., "logger": ..., "message": ..., FIELD: VALUE, ...}`: each `name=%s` of a message is a field."""

    def format(self, record: logging.LogRecord) -> str:
        message, fields = split(record)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line | {key: value for key, value in fields.items() if key not in line}, default=str)


class Human(logging.Formatter):
    """Time, level, and the message with its fields."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = time.strftime("%H:%M:%S ", time.localtime(record.created)) + level + one_line(record.getMessage())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def split(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The message without its fields, and the fields. A message with other arguments keeps all of them in its text."""
    template, args = str(record.msg), record.args
    names = _FIELD.findall(template)
    if not isinstance(args, tuple) or not len(names) == len(args) == len(_ANY.findall(template.replace("%%", ""))):
        return record.getMessage(), {}
    return _FIELD.sub("", template).replace("%%", "%"), dict(zip(names, args, strict=True))


def start_logging(level: str) -> None:
    """Our own events from `level` on, of the libraries only warnings."""
    handler = Lines(sys.stderr)
    handler.setFormatter(Human() if on_terminal() else Json())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for ours in ("broadcaster", "clients"):
        logging.getLogger(ours).setLevel(level.upper())


def on_terminal() -> bool:
    """Whether a person may be reading stderr."""
    return sys.stderr is not None and sys.stderr.isatty()
