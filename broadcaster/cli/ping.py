"""`broadcaster ping`: whether a broadcaster answers, and where the time of a request goes."""

from __future__ import annotations

import click

from broadcaster.cli.command import Command, as_json, at_a_broadcaster, connect
from broadcaster.cli.output import print_json, print_table


@click.command(cls=Command)
@at_a_broadcaster
@as_json
def ping(url: str | None, namespace: str, as_json: bool) -> None:
    """Ask whether a broadcaster answers, and how long that takes.

    One line for each node on the way, the one that answered first: its name and role, how long it had the request, and how much
    of that the request waited there for a thread. The rest of the round trip is the way itself.
    """
    with connect(url, namespace) as client:
        found, server_version = client.ping(), client.server_version
        address = client.address
    if as_json:
        print_json(
            {"address": address, "server_version": server_version, "round_trip": found.round_trip, "hops": list(found.hops)}
        )
        return
    click.echo(f"{address} answered in {found.round_trip * 1000:.3f} ms, version {server_version}")
    rows = [[hop.node, hop.role, f"{(hop.sent - hop.received) / 1e6:.3f}", f"{hop.queued / 1e6:.3f}"] for hop in found.hops]
    print_table(["NODE", "ROLE", "HAD IT MS", "WAITED MS"], rows)
