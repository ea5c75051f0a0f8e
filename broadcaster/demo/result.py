"""What is asked of a run, and what came of it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from broadcaster.demo import MODEL
from broadcaster.demo.reports import Finished
from broadcaster.demo.tally import ActorTally, Tally
from broadcaster.protocol.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is to do. Each run makes a new directory in `out`, so none overwrites or continues another one."""

    seed: int = 1
    actors: int = 4
    seconds: float = 120.0
    out: Path = field(default_factory=lambda: Path("demo-out"))

    def check(self) -> None:
        """ConfigError for a value out of range."""
        if not 0 <= self.seed < 2**31:
            raise ConfigError(key="--seed", reason=f"{self.seed} is not between 0 and {2**31 - 1}")
        if not 1 <= self.actors <= 64:
            raise ConfigError(key="--actors", reason=f"{self.actors} is not between 1 and 64")
        if not 0 < self.seconds <= 86_400:
            raise ConfigError(key="--seconds", reason=f"{self.seconds:g} is not more than 0 and at most 86400")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run ended; the fields are those of `--json`. Percentiles are None when nothing was measured."""

    solved: bool
    """Whether the mean return over 100 episodes reached the target; if not, the time was up."""
    mean_return: float
    """Over the last 100 episodes."""
    seconds: float
    """From the first process started to the end of the training."""
    training_seconds: float
    """From the first version to the end of the training."""
    versions: int
    versions_per_second: float
    episodes: int
    episodes_per_second: float
    samples: int
    """Samples that reached the learner, the dropped ones among them."""
    samples_dropped: int
    """Refused because the policy that made them was too many versions behind."""
    publish_to_visible_ms_p50: float | None
    """From the learner's publication to the moment when an actor's `latest()` handed the version out."""
    publish_to_visible_ms_p99: float | None
    lag_versions_p50: float | None
    """How many versions a sample's policy was behind the newest one when the learner got the sample."""
    lag_versions_p99: float | None
    per_actor: tuple[dict[str, float | None], ...]
    """The same four figures of each actor."""
    best_version: int
    """The archived version: the one that was published when the mean return was highest."""
    best_return: float
    best_size: int
    """Bytes."""
    best_sha256: str
    archive: str
    """The directory in which that version stays."""
    serve: str
    """The command that serves the archive again, now that the run's broadcaster has ended."""
    fetch: str
    """The command that fetches the best version from there."""
    figure: str
    """The learning curve: a PNG."""
    directory: str
    seed: int
    actors: int
    target: float


def conclude(options: Options, tally: Tally, finished: Finished, directory: Path, target: float, now: float) -> Result:
    """The result of a run that ended at the moment `now`, with its files in `directory` (absolute)."""
    seconds = now - tally.started
    training = max(seconds - (tally.first_version or 0.0), 1e-9)
    payload = directory / f"{MODEL}-{finished.best}.safetensors"
    return Result(
        solved=finished.solved,
        mean_return=round(finished.mean_return, 2),
        seconds=round(seconds, 2),
        training_seconds=round(training, 2),
        versions=tally.versions,
        versions_per_second=round(tally.versions / training, 1),
        episodes=tally.episodes,
        episodes_per_second=round(tally.episodes / training, 1),
        samples=tally.used + tally.dropped,
        samples_dropped=tally.dropped,
        publish_to_visible_ms_p50=_rounded(tally.visible(0.5)),
        publish_to_visible_ms_p99=_rounded(tally.visible(0.99)),
        lag_versions_p50=tally.lag(0.5),
        lag_versions_p99=tally.lag(0.99),
        per_actor=tuple(_figures(actor) for actor in tally.actors),
        best_version=finished.best,
        best_return=round(finished.best_return, 2),
        best_size=finished.size,
        best_sha256=finished.sha256,
        archive=str(directory / "archive"),
        serve=shlex.join([_command(), "serve", "--archive-dir", str(directory / "archive")]),
        fetch=shlex.join([_command(), "fetch", MODEL, str(finished.best), "--out", str(payload)]),
        figure=str(directory / "learning-curve.png"),
        directory=str(directory),
        seed=options.seed,
        actors=options.actors,
        target=target,
    )


def _command() -> str:
    """The command as this user can type it: its name where the shell finds it, else where it lies beside our interpreter."""
    beside = Path(sys.executable).with_name("broadcaster")
    if shutil.which("broadcaster") is not None or not beside.exists():
        return "broadcaster"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def _figures(actor: ActorTally) -> dict[str, float | None]:
    return {
        "publish_to_visible_ms_p50": _rounded(actor.visible(0.5)),
        "publish_to_visible_ms_p99": _rounded(actor.visible(0.99)),
        "lag_versions_p50": actor.lag(0.5),
        "lag_versions_p99": actor.lag(0.99),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def summary(result: Result) -> str:
    """The result in words, for a person."""
    ending = "solved" if result.solved else "not solved: the time is up"
    visible = f"p50 {_text(result.publish_to_visible_ms_p50)} ms, p99 {_text(result.publish_to_visible_ms_p99)} ms"
    lag = f"p50 {_text(result.lag_versions_p50)}, p99 {_text(result.lag_versions_p99)} versions"
    return "\n".join(
        [
            f"{ending}: mean return {result.mean_return:.1f} over the last 100 episodes (solved at {result.target:g})",
            f"{result.seconds:.1f} s in all, {result.training_seconds:.1f} s of them training: {result.versions} versions, "
            f"{result.episodes} episodes, {result.samples} samples, {result.samples_dropped} of them dropped as too old",
            f"publish to visible: {visible}; the samples' policies were behind by {lag}",
            f"learning curve: {result.figure}",
            f"best version: {result.best_version}, mean return {result.best_return:.1f}, archived ({result.best_size} bytes, "
            f"sha256 {result.best_sha256})",
            "to fetch it, serve the archive again:",
            f"  {result.serve}",
            "and, while that runs, in another terminal:",
            f"  {result.fetch}",
        ]
    )


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
