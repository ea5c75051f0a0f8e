"""The live table: one picture of a tally."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table

from broadcaster.demo.tally import ActorTally, Tally

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
LIMIT = 500.0
"""The largest return that CartPole-v1 gives."""


def sparkline(values: list[float], width: int = WIDTH, top: float = LIMIT) -> str:
    """`values` as at most `width` bars from 0 to `top`, each the mean of as many values as the others, give or take one."""
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns)] + [len(values)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    return "".join(BARS[min(int(mean / top * len(BARS)), len(BARS) - 1)] for mean in means)


def picture(tally: Tally, now: float, seconds: float, seed: int) -> RenderableType:
    """The table at the moment `now` of a run that may take `seconds`."""
    title = f"CartPole-v1 · seed {seed} · {len(tally.actors)} actors · {now - tally.started:.1f} of at most {seconds:g} s"
    return Panel(Group(_run(tally, now), "", _actors(tally)), title=title, title_align="left", expand=False)


def _run(tally: Tally, now: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("version", f"[bold]{tally.version}[/]")
    table.add_row("versions per second", f"{tally.versions_per_second(now):.1f}")
    table.add_row("publish to visible, p50 / p99", f"{_ms(tally.visible(0.5))} / {_ms(tally.visible(0.99))} ms")
    table.add_row("lag of samples, p50 / p99", f"{_count(tally.lag(0.5))} / {_count(tally.lag(0.99))} versions")
    table.add_row("episodes per second", f"{tally.episodes_per_second(now):.1f}")
    table.add_row("samples used / dropped as too old", f"{tally.used} / {tally.dropped}")
    curve = [point.mean_return for point in tally.curve]
    table.add_row("mean return of 100 episodes", f"[bold green]{tally.mean_return:.1f}[/]  {sparkline(curve) if curve else ''}")
    return table


def _actors(tally: Tally) -> Table:
    table = Table(box=None, pad_edge=False)
    headings = ("actor", "acts with version", "lag p50", "lag p99", "visible p50 ms", "visible p99 ms")
    for heading in headings:
        table.add_column(heading, justify="right", header_style="dim")
    for index, actor in enumerate(tally.actors):
        table.add_row(str(index), *_actor(actor))
    return table


def _actor(actor: ActorTally) -> list[str]:
    lags = [_count(actor.lag(share)) for share in (0.5, 0.99)]
    return [str(actor.version or "-"), *lags, *(_ms(actor.visible(share)) for share in (0.5, 0.99))]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
