"""A headless Chromium for tests, spoken to over a pipe in its own DevTools protocol: nothing but the standard library.

with Chromium() as browser:
    page = browser.page(width=360)
    page.open("http://localhost:5553/")
    page.wait_for("document.querySelectorAll('tbody tr').length === 3")
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 20.0
"""Seconds that an answer, or a condition, may take."""


def chromium() -> str | None:
    """Where it is; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name)) is not None), None)


class Chromium:
    """One browser, with a profile of its own that goes with it."""

    def __init__(self) -> None:
        path = chromium()
        assert path is not None, "no chromium here"
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()

        # The protocol is spoken over descriptors 3 and 4. Another interpreter makes them those: code between fork and exec
        # would run beside whatever threads this process has. `commands` came first, so nothing is overwritten that is needed.
        assert 3 <= commands < answers
        wire = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-Sc", wire, str(commands), str(answers)),
                path,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--hide-scrollbars",
                "--remote-debugging-pipe",
                f"--user-data-dir={self._profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(commands, answers),
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self._numbers = itertools.count(1)
        self._read = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def page(self, *, width: int = 1280, height: int = 800, dark: bool = False, still: bool = False) -> Page:
        """A new tab of this size; `dark` and `still` (reduced motion) are what its user prefers."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        wishes = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        page.call("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in wishes.items()])
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What the browser answers. Raises AssertionError with its error, or when it says nothing."""
        number = next(self._numbers)
        said = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(said).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while number not in self._answers:
            assert self.listen(deadline), f"chromium did not answer {method}"
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def listen(self, deadline: float) -> bool:
        """Takes what it says until then; whether it said something."""
        if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        data = os.read(self._from, 1 << 20)
        assert data, f"chromium ended with {self._process.poll()}"
        *whole, self._read = (self._read + data).split(b"\0")
        for message in map(json.loads, whole):
            if "id" in message:
                self._answers[message["id"]] = message
            elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                page.heard(message["method"], message["params"])
        return True

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Page:
    """One tab. `requests` are the addresses that it asked for, `complaints` what its console and its policies had to say."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Goes there, and waits until the document is whole."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def heard(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def value(self, expression: str) -> Any:
        """What JavaScript makes of it. Raises AssertionError with what it throws."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def text(self) -> str:
        """All that is shown of the page."""
        return str(self.value("document.body.innerText"))

    def wait_for(self, expression: str, timeout: float = PATIENCE) -> Any:
        """The first value of it that is true. Raises AssertionError with what the page shows."""
        deadline = time.monotonic() + timeout
        while not (value := self.value(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()")):
            assert time.monotonic() < deadline, f"never: {expression}\n{self.text()}\n{self.complaints}"
            self._browser.listen(time.monotonic() + 0.05)
        return value

    def until(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Waits for something outside the page, while its events are taken."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}\n{self.text()}\n{self.complaints}"
            self._browser.listen(time.monotonic() + 0.05)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS.get(key, 0))

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A screenshot; `whole`: of all of the page, however far down it goes."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)


KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}
