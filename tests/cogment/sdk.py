"""The real Cogment Python SDK as a client: a process in an environment of its own, which `make cogment-sdk` makes.

with Sdk("127.0.0.1:9000") as sdk:
    info = sdk.ask("publish_model", name="policy", model=b"weights")
    waiting = sdk.begin("tracked", name="policy", newer_than=info["iteration"])     # goes on while other things are done
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

PYTHON = Path(f"{sys.prefix}-cogment") / "bin" / "python"
DRIVER = Path(__file__).with_name("driver.py")
PATIENCE = 20.0
"""Seconds that an answer may take."""


@cache
def missing() -> str:
    """Why the SDK cannot be used here; empty when it can."""
    if not PYTHON.exists():
        return "the Cogment SDK is not installed: make cogment-sdk"
    tried = subprocess.run([PYTHON, "-c", "import cogment"], capture_output=True, text=True, timeout=60)
    return f"the Cogment SDK cannot be imported: {tried.stderr.strip().splitlines()[-1]}" if tried.returncode else ""


class SdkError(Exception):
    """What the SDK raised: the name of its class, its words, and the status code of gRPC if it has one."""

    def __init__(self, kind: str, message: str, code: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.code = code


class Sdk:
    """One process with one of each of the SDK's registries, connected to `address` (host:port); `tls`: key, certificate."""

    def __init__(self, address: str, *tls: Path) -> None:
        # Nothing of this project's environment: the SDK's has its own packages.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COGMENT", "BROADCASTER"))}
        self._process = subprocess.Popen(
            [PYTHON, DRIVER, address, *tls], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=DRIVER.parent, env=clean
        )
        self._rest = bytearray()
        self._last = 0
        self._answers: dict[int, dict[str, Any]] = {}
        try:
            self.version: str = Waiting(self, 0).result()
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> Any:
        """What the SDK returns, with bytes as bytes and objects as their attributes. Raises SdkError with what it raises."""
        return self.begin(do, **arguments).result()

    def begin(self, do: str, **arguments: Any) -> Waiting:
        """As `ask`, without waiting."""
        self._last += 1
        told = {name: _packed(value) for name, value in arguments.items()}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": self._last, "do": do, **told}).encode() + b"\n")
        self._process.stdin.flush()
        return Waiting(self, self._last)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Sdk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, number: int, seconds: float) -> dict[str, Any] | None:
        """The answer to a question; None when it has not come within `seconds`."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while number not in self._answers:
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            came = os.read(self._process.stdout.fileno(), 1 << 20)
            assert came, f"the SDK's process ended with {self._process.wait()}"
            first, *others = came.split(b"\n")
            self._rest += first
            for other in others:
                said = json.loads(self._rest)
                self._answers[said["id"]] = said
                self._rest = bytearray(other)
        return self._answers.pop(number)


class Waiting:
    """The answer to one question."""

    def __init__(self, sdk: Sdk, number: int) -> None:
        self._sdk = sdk
        self._number = number

    def result(self, seconds: float = PATIENCE) -> Any:
        """Raises SdkError with what the SDK raised, AssertionError when nothing came within `seconds`."""
        said = self._sdk._answer(self._number, seconds)
        assert said is not None, f"the SDK did not answer within {seconds:g} s"
        if "error" in said:
            raise SdkError(said["error"], said["message"], said["code"])
        return _unpacked(said["value"])


def _packed(value: Any) -> Any:
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"bytes"}:
            return base64.b64decode(value["bytes"])
        return {name: _unpacked(one) for name, one in value.items()}
    return [_unpacked(one) for one in value] if isinstance(value, list) else value
