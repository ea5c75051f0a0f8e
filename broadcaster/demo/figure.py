"""The learning curve as a picture in a file."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from broadcaster.demo.tally import Tally


def draw(tally: Tally, target: float, title: str, path: Path) -> None:
    """Writes a PNG: every episode a dot, the mean of the last 100 a line, over the seconds of the run and the versions made."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*_columns(tally.returns), ".", markersize=2, alpha=0.4, color="tab:gray", label="one episode")
    curve = [(point.seconds, point.mean_return) for point in tally.curve]
    axes.plot(*_columns(curve), color="tab:blue", linewidth=2, label="mean of the last 100 episodes")
    axes.axhline(target, color="tab:green", linestyle="--", linewidth=1, label=f"solved at {target:g}")
    axes.set(xlabel="seconds since the start", ylabel="return of an episode", title=title, ylim=(0, 520))
    versions = axes.twinx()
    versions.plot(*_columns([(point.seconds, float(point.version)) for point in tally.curve]), color="tab:orange", linewidth=1)
    versions.set_ylabel("policy version", color="tab:orange")
    versions.set_ylim(bottom=0)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path)


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
