"""Results as pictures (SVG): latency against actors and against size, ours beside its peers; and what more of each costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.host import LIMIT
from benchmarks.peers import file_replace, gloo, grpc_stream, ray_store, redis_store, zmq_proxy
from benchmarks.table import Row

NAMES = {
    LIMIT: ("one memcpy: the limit", "#000000", ":"),
    zmq_proxy.NAME: ("pyzmq through zmq.proxy", "#0072b2", "-"),
    redis_store.NAME: ("Redis", "#cc3311", "-"),
    ray_store.NAME: ("Ray", "#009e73", "-"),
    gloo.NAME: ("torch gloo", "#8c564b", "-"),
    grpc_stream.NAME: ("gRPC", "#e69f00", "-"),
    file_replace.NAME: ("a file, polled", "#888888", "--"),
}
"""Word, colour and dash of each peer, for readers who see colours alike."""
OURS = ("this library", "#d01c8b", "-")
KIB, MIB = 1 << 10, 1 << 20
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}

Points = dict[int, float]


def write(directory: Path, answers: Mapping[str, list[Row]]) -> dict[str, str]:
    """Writes those pictures for which there are results; returns the words for each file name. Raises ImportError without
    matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    made = {}
    with matplotlib.rc_context(STYLE):
        for name, words, panels in _pictures(answers):
            if panels:
                _draw(directory / name, panels)
                made[name] = words
    return made


class Panel:
    """One pair of axes: what is along it, and a line for each name."""

    def __init__(self, title: str, along: str, ticks: Mapping[int, str]) -> None:
        self.title = title
        self.along = along
        self.ticks = dict(ticks)
        self.lines: dict[str, Points] = {}

    def add(self, name: str, at: int, value: float) -> None:
        self.lines.setdefault(name, {})[at] = value


def _pictures(answers: Mapping[str, list[Row]]) -> Iterator[tuple[str, str, list[Panel]]]:
    host = [row for row in answers.get("host", []) if "theirs" in row]
    words = "until the last of N actors on one host has a published version"
    yield "latency_actors.svg", f"{words}, by actors", _panels(host, "bytes", "actors", (4 * KIB, MIB, 64 * MIB))
    yield "latency_size.svg", f"{words}, by size", _panels(host, "actors", "bytes", (1, 4, 16))
    scaling = [row for row in answers.get("scaling", []) if "target" not in row and "ours" in row]
    yield "scaling.svg", "until the last has it, by actors (processes) and by connections", _scaling(scaling)


def _panels(rows: list[Row], split: str, along: str, wanted: tuple[int, ...]) -> list[Panel]:
    panels = []
    for value in wanted:
        part = [row for row in rows if row["details"][split] == value]
        places = sorted({row["details"][along] for row in part})
        if not places:
            continue
        title = _size(value) if split == "bytes" else f"{value} {'actor' if value == 1 else 'actors'}"
        names = {place: _size(place) if along == "bytes" else str(place) for place in places}
        panel = Panel(title, "size" if along == "bytes" else "actors", names)
        for row in part:
            panel.add("", row["details"][along], row["ours"]["median"])
            if row["peer"] in NAMES:
                panel.add(row["peer"], row["details"][along], row["theirs"]["median"])
        panels.append(panel)
    return panels


def _scaling(rows: list[Row]) -> list[Panel]:
    panels: dict[str, Panel] = {}
    for row in rows:
        connections = "connection" in row["case"]
        title = f"{_size(row['details']['bytes'])} to {'connections' if connections else 'processes'}"
        panel = panels.setdefault(title, Panel(title, "connections" if connections else "actors", {}))
        panel.ticks[row["details"]["count"]] = str(row["details"]["count"])
        panel.add("", row["details"]["count"], row["ours"]["median"])
    return list(panels.values())


def _size(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def _draw(file: Path, panels: list[Panel]) -> None:
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, len(panels), figsize=(3.7 * len(panels) + 0.5, 4.4), squeeze=False)
    for axes, panel in zip(all_axes[0], panels, strict=True):
        _lines(axes, panel)
    all_axes[0][0].set_ylabel("milliseconds, median")
    found = {label: line for axes in all_axes[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    rows = -(-len(found) // 4)
    figure.legend(list(found.values()), list(found), loc="lower center", ncols=min(4, len(found)), fontsize=10)
    figure.tight_layout(rect=(0, 0.03 + 0.055 * rows, 1, 1))
    figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    pyplot.close(figure)


def _lines(axes: Any, panel: Panel) -> None:
    for name in [*NAMES, ""]:
        if points := panel.lines.get(name):
            word, colour, dash = NAMES.get(name, OURS)
            places = sorted(points)
            style = {"linewidth": 2.8, "markersize": 6, "zorder": 3} if not name else {"linewidth": 1.4, "markersize": 4}
            axes.plot(places, [points[at] for at in places], dash, color=colour, marker="o", label=word, **style)
    axes.set(xscale="log", yscale="log", title=panel.title, xlabel=panel.along)
    axes.set_xticks(list(panel.ticks), list(panel.ticks.values()), rotation=35 if panel.along == "size" else 0)
    axes.minorticks_off()
    low, high = (math.log10(end) for end in axes.get_ylim())
    low, high = math.floor(low), math.ceil(high)
    between = (1, 2, 5) if high - low <= 2 else (1,)
    axes.set_ylim(10.0**low, 10.0**high)
    axes.set_yticks([part * 10.0**power for power in range(low, high) for part in between] + [10.0**high])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def lines(made: Mapping[str, str], folder: str) -> str:
    """The pictures as Markdown."""
    return "\n\n".join(f"![{words[:1].upper()}{words[1:]}]({folder}/{name})" for name, words in made.items())
