"""`broadcaster drain`: waits until nothing is under way, so that the broadcaster can be ended without cutting anything."""

from __future__ import annotations

import time
from collections.abc import Mapping

import click

from broadcaster.cli.command import Command, as_json, at_a_broadcaster, connect, timeout
from broadcaster.cli.output import pairs, print_json
from broadcaster.protocol.errors import RequestTimeout

UNDER_WAY = ("uploads", "archive_jobs", "changes_waiting")
"""Gauges: payloads on their way, jobs that write the archive, changes that wait for their turn."""
_LOOK = 0.05
"""Seconds between two looks."""


@click.command(cls=Command)
@click.option(
    "--quiet",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="How long nothing may have been published.",
)
@timeout(30.0, "Give up after so long.")
@at_a_broadcaster
@as_json
def drain(quiet: float, timeout: float, url: str | None, namespace: str, as_json: bool) -> None:
    """Wait until nothing is under way.

    No upload, no version that is still being archived, and nothing published for a moment: then a broadcaster can be ended
    without cutting anybody off. It refuses nothing meanwhile, for what comes last is often what matters most, and does not end
    anything. Ends with 5 when it was not quiet in time.
    """
    begun = time.monotonic()
    since, published = begun, -1.0
    with connect(url, namespace) as client:
        while True:
            stats, now = client.registry.stats(), time.monotonic()
            busy = _under_way(stats)
            if busy or stats["publishes"] != published:
                since, published = now, stats["publishes"]
            if not busy and now - since >= quiet:
                break
            if now - begun >= timeout:
                raise RequestTimeout(what=f"draining ({pairs(busy) or 'versions are still published'})", timeout=timeout)
            time.sleep(_LOOK)
    took = time.monotonic() - begun
    print_json({"drained": True, "seconds": took}) if as_json else click.echo(f"quiet after {took:.1f} s")


def _under_way(stats: Mapping[str, float]) -> dict[str, int]:
    return {name: int(stats[name]) for name in UNDER_WAY if stats.get(name)}
