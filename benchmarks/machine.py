"""What the numbers were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import zmq

ROOT = Path(__file__).parent.parent
PACKAGES = ("pyzmq", "msgpack", "xxhash", "numpy", "torch", "safetensors", "redis", "hiredis", "ray", "grpcio")


def facts() -> dict[str, str]:
    """Name and value of everything that a reader needs to take them again."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} × {_processor()}, {_memory()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": ", ".join([f"Python {platform.python_version()}", f"libzmq {zmq.zmq_version()}", *_packages(), _redis()]),
        "commit": _commit(),
        "load before": f"{os.getloadavg()[0]:.2f} (one-minute average)",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.0f} GiB"


def _packages() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return found


def _redis() -> str:
    try:
        said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "redis-server not installed"
    return f"redis-server {said.stdout.partition('v=')[2].partition(' ')[0]}"


def _commit() -> str:
    try:
        said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()
