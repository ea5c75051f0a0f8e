"""`broadcaster demo`: a learner and its actors train through a real broadcaster."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from broadcaster.cli.command import Command, as_json


@click.command(cls=Command)
@click.option("--seed", metavar="N", type=int, default=1, show_default=True, help="Seed of everything random.")
@click.option("--actors", metavar="N", type=int, default=4, show_default=True, help="Number of actors.")
@click.option("--seconds", metavar="SECONDS", type=float, default=120.0, show_default=True, help="Longest time to train.")
@click.option("--out", metavar="DIR", default="demo-out", show_default=True, help="Each run makes a new directory in it.")
@as_json
def demo(seed: int, actors: int, seconds: float, out: str, as_json: bool) -> None:
    """Train CartPole with live actors.

    One learner and several actors work through a real broadcaster, and a table shows what happens.
    """
    from broadcaster.demo.result import Options
    from broadcaster.demo.run import main

    sys.exit(main(Options(seed=seed, actors=actors, seconds=seconds, out=Path(out)), as_json=as_json))
