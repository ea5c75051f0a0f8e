"""The demo's figures: percentiles, rates, the live table, and the options and result of a run."""

from __future__ import annotations

import io
import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from broadcaster.demo.reports import ActorReport, Finished, LearnerReport
from broadcaster.demo.result import Options, conclude, summary
from broadcaster.demo.run import to_json
from broadcaster.demo.table import picture, sparkline
from broadcaster.demo.tally import Tally, percentile
from broadcaster.protocol.errors import ConfigError

FINISHED = Finished(solved=True, mean_return=404.0, best=30, best_return=404.0, size=36_000, sha256="ab" * 32)


def learned(version: int, versions: int, **more: object) -> LearnerReport:
    known = dict(version=version, mean_return=50.0, versions=versions, used=512, dropped=0, returns=[20.0, 30.0])
    return LearnerReport(**(known | more))  # type: ignore[arg-type]


def full_tally() -> Tally:
    """Two actors, ten seconds: ten versions each second in the first five, two each second after."""
    tally = Tally(actors=2, started=100.0)
    for second in range(1, 11):
        made = 10 if second <= 5 else 2
        tally.receive([learned(second, made, lags={0: {1: 98, 7: 2}, 1: {0: 100}}, dropped=1)], now=100.0 + second)
    tally.receive([ActorReport(actor=0, version=9, visible_ms=[1.0, 2.0, 90.0])], now=110.0)
    tally.receive([ActorReport(actor=1, version=10, visible_ms=[3.0])], now=110.0)
    return tally


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [({}, 0.5, None), ({4: 1}, 0.99, 4), ({1: 99, 9: 1}, 0.99, 1), ({1: 98, 9: 2}, 0.99, 9), ({3: 1, 1: 1}, 0.5, 1)],
)
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(counts: dict[int, int], share: float, expected: int | None) -> None:
    assert percentile(Counter(counts), share) == expected


def test_reports_add_up() -> None:
    tally = full_tally()
    assert (tally.version, tally.versions, tally.episodes, tally.used, tally.dropped) == (10, 60, 20, 5120, 10)
    assert tally.versions_per_second(110.0) == pytest.approx(8 / 3), "only the last seconds count: four reports of two versions"
    assert tally.versions_per_second(200.0) == 0, "nothing has happened for long"
    assert (tally.visible(0.5), tally.visible(0.99)) == (2.0, 90.0)
    assert (tally.actors[0].lag(0.5), tally.actors[0].lag(0.99), tally.actors[1].lag(0.99)) == (1, 7, 0)
    assert tally.finished is None
    tally.receive([FINISHED], now=111.0)
    assert (tally.finished, tally.ended) == (FINISHED, 111.0)


def test_a_sparkline_rises_with_its_values_and_has_a_width() -> None:
    assert sparkline([0.0, 250.0, 500.0]) == "▁▅█"
    assert sparkline([float(value % 7) for value in range(999)], width=20, top=3.1) == "█" * 20
    assert sparkline([]) == ""


def test_the_table_shows_what_was_asked_for_from_the_first_moment_on() -> None:
    for tally in (Tally(actors=2, started=100.0), full_tally()):
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(picture(tally, 110.0, 120.0, seed=3))
    text = console.export_text()
    for words in (
        "versions per second",
        "publish to visible",
        "lag",
        "episodes per second",
        "mean return",
        "2.00 / 90.00 ms",
        "seed 3",
    ):
        assert words in text


def test_the_result_holds_every_figure_and_its_commands_survive_a_shell(tmp_path: Path) -> None:
    directory = tmp_path / "with a space"
    tally = full_tally()
    tally.receive([FINISHED], now=111.0)
    result = conclude(Options(seed=3, actors=2), tally, FINISHED, directory, 400.0, tally.ended)
    fields = json.loads(to_json(result))
    assert (fields["solved"], fields["best_version"], fields["seconds"], fields["training_seconds"]) == (True, 30, 11.0, 10.0)
    assert (fields["versions"], fields["versions_per_second"], fields["samples"], fields["samples_dropped"]) == (
        60,
        6.0,
        5130,
        10,
    )
    assert (fields["lag_versions_p50"], fields["lag_versions_p99"]) == (0, 1)
    assert fields["per_actor"][0]["lag_versions_p99"] == 7
    assert shlex.split(fields["serve"])[-1] == str(directory / "archive")
    assert all(fields[name] in summary(result) for name in ("serve", "fetch", "figure"))


@pytest.mark.parametrize("wrong", [{"actors": 0}, {"actors": 65}, {"seconds": 0}, {"seconds": float("nan")}, {"seed": -1}])
def test_an_option_out_of_range_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}"):
        Options(**wrong).check()  # type: ignore[arg-type]
