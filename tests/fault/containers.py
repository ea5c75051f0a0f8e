"""Containers for tests: the image built once, containers that end with the test.

The tool is podman or docker, whichever answers; CONTAINER_TOOL names another command line (`podman --runtime runc`). What a
machine needs beside that to build and to run anything at all comes from CONTAINER_BUILD_ARGS and CONTAINER_RUN_ARGS, as one
would write it in a shell.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType

from tests.bare_peer import wait_until
from tests.broadcaster_process import ROOT

IMAGE = "localhost/model-broadcaster-test"


def container_tool() -> tuple[list[str], str]:
    """The command line of the tool, and why there is none (empty when there is)."""
    wanted = shlex.split(os.environ.get("CONTAINER_TOOL", ""))
    why = "no container tool: neither podman nor docker is installed"
    for tool in [wanted] if wanted else [["podman"], ["docker"]]:
        if shutil.which(tool[0]) is None:
            continue
        found = subprocess.run([*tool, "info"], capture_output=True, text=True, timeout=60)
        if found.returncode == 0:
            return tool, ""
        why = f"no container tool: {tool[0]} says {(found.stderr.strip().splitlines() or ['nothing'])[-1]}"
    return [], why


class Containers:
    """Runs containers of the image, and removes them, with volumes, when it is closed."""

    def __init__(self, tool: Sequence[str]) -> None:
        self._tool = list(tool)
        self._more = shlex.split(os.environ.get("CONTAINER_RUN_ARGS", ""))
        self._prefix = f"mb-{secrets.token_hex(4)}-"
        self._volumes: list[str] = []
        self._names: list[str] = []

    def build(self) -> str:
        """Builds the image. Why it cannot be had, when it is the base image that is missing; else empty."""
        format = ["--format", "docker"] if "podman" in self._tool[0] else []
        more = shlex.split(os.environ.get("CONTAINER_BUILD_ARGS", ""))
        done = self._call("build", *format, *more, "-t", IMAGE, str(ROOT), check=False, seconds=540)
        if done.returncode and "COPY" not in done.stdout + done.stderr:
            return f"the base image is not to be had: {done.stderr.strip().splitlines()[-1]}"
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return ""

    def memory(self, owner: str = "uid=10001,gid=10001,mode=0770") -> str:
        """A volume in memory that several containers can share, as compose.yaml has it."""
        name = f"{self._prefix}{len(self._volumes)}"
        options = ("type=tmpfs", "device=tmpfs", f"o={owner}")
        self._call("volume", "create", *(word for option in options for word in ("--opt", option)), name)
        self._volumes.append(name)
        return name

    def run(self, name: str, *arguments: str, options: Sequence[str] = ()) -> str:
        """Starts a container as compose.yaml does: no network, no capabilities, nothing to write to but mounts. Its name."""
        full = self._prefix + name
        self._names.append(full)
        tight = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        self._call("run", "--detach", "--name", full, *tight, *self._more, *options, IMAGE, *arguments)
        return full

    def exec(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._call("exec", name, *command, check=check)

    def logs(self, name: str) -> str:
        done = self._call("logs", name)
        return done.stdout + done.stderr

    def ready(self, name: str) -> None:
        """Waits until its broadcaster serves."""
        healthy = lambda: self.exec(name, "broadcaster", "healthcheck", check=False).returncode == 0  # noqa: E731
        wait_until(healthy, f"{name} is ready", seconds=40)

    def exit_code(self, name: str, *, seconds: int = 60) -> int:
        """Waits for its end."""
        return int(self._call("wait", name, seconds=seconds).stdout)

    def stop(self, name: str) -> int:
        """SIGTERM, and SIGKILL 20 s later. The exit code."""
        self._call("stop", "--time", "20", name)
        return self.exit_code(name)

    def start(self, name: str) -> None:
        self._call("start", name)

    def close(self) -> None:
        for name in self._names:
            print(f"--- {name} ---\n{self.logs(name)[-4000:]}")
            self._call("rm", "--force", "--volumes", name, check=False)
        for name in self._volumes:
            self._call("volume", "rm", "--force", name, check=False)

    def __enter__(self) -> Containers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _call(self, *arguments: str, check: bool = True, seconds: int = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self._tool, *arguments], capture_output=True, text=True, timeout=seconds)
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done
