"""Every benchmark, one after the other: JSON lines on stdout, tables and pictures for benchmarks/README.md.

    python -m benchmarks.run [--quick] [--only fanout ...]

`--quick` takes a few minutes, tells whether everything works, and leaves README and pictures as they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import machine, plots, table
from benchmarks.processes import END, ROOT, exit_on_sigterm

QUESTIONS: dict[str, tuple[list[str], list[str]]] = {
    "host": ([], ["--quick"]),
    "blocking": ([], ["--quick"]),
    "goodput": ([], ["--quick"]),
    "faults": ([], ["--quick"]),
    "scaling": ([], ["--quick"]),
    "fanout": ([], ["--quick"]),
    "upload": ([], ["--quick"]),
    "fetch": ([], ["--quick"]),
    "small": ([], ["--quick"]),
    "latejoin": ([], ["--quick"]),
    "memory": ([], ["--quick"]),
    "broker_cost": (["--profile"], ["--quick"]),
    "curve": ([], ["--quick"]),
    "cogment": ([], ["--quick"]),
    "codec": ([], ["--rounds", "3"]),
    "protocol": ([], []),
}
"""Arguments of each, and those of a quick run."""
LIMIT = 400.0
"""Seconds that one question may take."""
README = Path(__file__).with_name("README.md")
PLOTS = README.with_name("plots")


def ask(name: str, arguments: list[str]) -> tuple[list[table.Row], str]:
    """Runs one, passing its lines on as they come. Returns its rows and, when it failed, how."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    rows: list[table.Row] = []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            failure = _read(process, rows)
        finally:
            _end(process)
        if failure or process.returncode:
            said.seek(0)
            words = said.read()
            sys.stderr.write(words)
            failure = failure or (words.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
    return rows, failure


def _read(process: subprocess.Popen[str], rows: list[table.Row]) -> str:
    late = threading.Timer(LIMIT, process.terminate)
    late.start()
    started = time.monotonic()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("{"):
                rows.append(json.loads(line))
        process.wait()
    finally:
        late.cancel()
    return f"took longer than {LIMIT:.0f} s" if time.monotonic() - started >= LIMIT else ""


def _end(process: subprocess.Popen[str]) -> None:
    """SIGTERM, so that it ends what it started; SIGKILL when it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(3 * END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pictures(directory: Path, answers: dict[str, list[table.Row]]) -> str:
    try:
        return plots.lines(plots.write(directory, answers), PLOTS.name)
    except ImportError:
        return "No pictures: matplotlib is not installed (pip install matplotlib)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: its numbers mean nothing")
    parser.add_argument("--only", nargs="+", choices=sorted(QUESTIONS), help="these questions, without rewriting the README")
    arguments = parser.parse_args()
    exit_on_sigterm()
    facts = {"command": "python -m benchmarks.run", **machine.facts()}
    answers: dict[str, list[table.Row]] = {}
    failures: dict[str, str] = {}
    started = time.monotonic()
    for name, (full, quick) in QUESTIONS.items():
        if (arguments.only and name not in arguments.only) or not Path(__file__).with_name(f"{name}.py").exists():
            continue
        begun = time.monotonic()
        answers[name], failure = ask(name, quick if arguments.quick else full)
        if failure:
            failures[name] = failure
        print(f"{name}: {time.monotonic() - begun:.0f} s{', failed: ' + failure if failure else ''}", file=sys.stderr)
    facts["duration"] = f"{time.monotonic() - started:.0f} s"
    if arguments.quick or arguments.only:
        with tempfile.TemporaryDirectory() as place:
            print(table.render(facts, answers, failures, _pictures(Path(place), answers)), file=sys.stderr)
    else:
        table.write(README, table.render(facts, answers, failures, _pictures(PLOTS, answers)))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
