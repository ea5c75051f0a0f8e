"""What every test gets: a deadline, a printed seed, and a count of the tests that could not run here."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

DEADLINE = 60.0
"""Seconds for one test; `@pytest.mark.deadline(300)` gives it more."""
GRACE = 30.0
"""Seconds after the deadline at which a test that ignores it (stuck inside C code) ends the whole run."""

hypothesis.settings.register_profile("project", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("project")

_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        config.stash[_STDERR] = os.dup(2)
    _heed_signals()


def _heed_signals() -> None:
    """Whoever runs the tests in the background of a shell, or with nohup, has signals ignored that tests send to processes which
    they start, and those would ignore them as well: what has a handler here has its default in them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


def pytest_report_header(config: pytest.Config) -> str:
    return f"hypothesis: seed {config.getoption('--hypothesis-seed')} (another: --hypothesis-seed=N)"


# --- the deadline --------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _within_deadline(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _within_deadline(item, "call"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _within_deadline(item, "teardown"))


def _within_deadline(item: pytest.Item, phase: str) -> Generator[None, Any, Any]:
    """Fails this phase of the test, showing the stacks of all threads, once it has run for its deadline."""
    marker = item.get_closest_marker("deadline")
    seconds = float(marker.args[0]) if marker else DEADLINE

    def expire(_signal: int, _frame: object) -> None:
        pytest.fail(f"{phase} ran over its deadline of {seconds:g} s; all stacks:\n{_all_stacks()}", pytrace=False)

    before = signal.signal(signal.SIGALRM, expire)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=item.config.stash[_STDERR])
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _all_stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


# --- what a report may say -----------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports travel between the processes of a run as UTF-8, and a test of names that are none may have logged one."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


# --- the count of what did not run ---------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped: {count} - {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return told.removeprefix("Skipped: ")
