"""Running commands of `broadcaster` as processes of their own, on a terminal or not."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.broadcaster_process import ROOT

BASE = [sys.executable, "-m", "broadcaster"]
FREE = ["--upload-port", "0", "--push-port", "0", "--data-port", "0", "--http-port", "off"]


def environment(url: str | None = None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BROADCASTER_")}
    return clean | {"PYTHONPATH": str(ROOT)} | ({"BROADCASTER_URL": url} if url else {})


def command(
    *arguments: object, url: str | None = None, cwd: Path = ROOT, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`more` is added to the environment."""
    line = [*BASE, *map(str, arguments)]
    return subprocess.run(
        line,
        cwd=cwd,
        env=environment(url) | dict(more or {}),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=50,
    )


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of an error."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def on_terminal(arguments: list[str], url: str, *, answer: str = "", until: str | None = None) -> tuple[int, str]:
    """Exit code and output of a command on a terminal of its own, where `answer` is typed; Ctrl-C once it says `until`."""
    ours, theirs = pty.openpty()
    line = [*BASE, *arguments]
    settings = environment(url) | {"TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(line, cwd=ROOT, env=settings, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.write(ours, answer.encode())
    said, deadline = b"", time.monotonic() + 40
    try:
        while time.monotonic() < deadline and select.select([ours], [], [], 40)[0]:
            said += os.read(ours, 65536)
            if until is not None and until.encode() in said:
                until = None
                process.send_signal(signal.SIGINT)
    except OSError:  # The other end has been closed: the process is over.
        pass
    finally:
        process.kill() if process.poll() is None and time.monotonic() > deadline else None
        os.close(ours)
    return process.wait(10), said.decode()
