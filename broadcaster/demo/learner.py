"""The learner: a process that learns from the actors' samples and publishes the policy after each update.

What it learns, and from which samples, is decided in training.py; this is the loop that brings them in and the versions out.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import zmq

from broadcaster.demo import MODEL
from broadcaster.demo.ppo import Tuning
from broadcaster.demo.reports import Finished, LearnerReport, Reporter
from broadcaster.demo.samples import SampleReceiver
from broadcaster.demo.training import News, Training
from broadcaster.protocol.errors import RequestTimeout
from clients import connect

REPORT_EVERY = 0.1
ARCHIVE_EVERY = 5.0
"""Seconds. Transient versions go in time, so the best one so far is archived now and then, not at the end only."""
PATIENCE = 30.0
"""Seconds without any sample after which something must be wrong."""


class Best:
    """The version that was published when the mean return was highest, and its way into the archive."""

    def __init__(self, registry: Any, now: float) -> None:
        self._registry = registry
        self._archived: Any = None
        self._next = now + ARCHIVE_EVERY
        self.number = 0
        self.mean_return = -1.0

    def consider(self, number: int, mean_return: float, now: float) -> None:
        """Notes a newly published version, and archives the best one when it is time."""
        if mean_return >= self.mean_return:
            self.number, self.mean_return = number, mean_return
        if now >= self._next:
            self._next = now + ARCHIVE_EVERY
            self.archive()

    def archive(self) -> Any:
        """The VersionInfo of the best version, archived."""
        if self._archived is None or self._archived.number != self.number:
            self._archived = self._registry.archive(MODEL, self.number)
        return self._archived


class Learner:
    """The loop around the training: samples in, versions and reports out."""

    def __init__(self, client: Any, samples: SampleReceiver, reporter: Reporter, training: Training) -> None:
        self._publisher = client.publisher(MODEL)
        self._best = Best(client.registry, time.monotonic())
        self._samples = samples
        self._reporter = reporter
        self._training = training
        self._newest = 0
        self._heard = time.monotonic()
        self._reported = 0.0

    def learn(self, target: float, until: float) -> Finished:
        """Trains until the mean return over 100 episodes reaches `target`, or the monotonic clock `until`."""
        self._publish()
        solved = False
        while not solved and time.monotonic() < until:
            self._collect()
            if self._training.has_batch:
                self._training.update()
                self._publish()
                # Asked only here, so that the version that solved it is published and carries this very mean return.
                solved = self._training.is_known and self._training.mean_return >= target
            self._report()
        self._report(now=True)
        best = self._best.archive()
        return Finished(
            solved=solved,
            mean_return=self._training.mean_return,
            best=best.number,
            best_return=self._best.mean_return,
            size=best.size,
            sha256=best.sha256 or "",
        )

    def _collect(self) -> None:
        """Takes one segment if one comes soon."""
        segment = self._samples.receive(milliseconds=50)
        if segment is not None:
            self._heard = time.monotonic()
            self._training.take(segment, self._newest)
        elif time.monotonic() - self._heard > PATIENCE:
            raise RequestTimeout(what="waiting for a sample from any actor", timeout=PATIENCE)

    def _publish(self) -> None:
        mean_return = self._training.mean_return
        version = self._publisher.publish(
            self._training.weights, metrics={"return": mean_return}, user_data={"samples": str(self._training.samples)}
        )
        self._newest = version.number
        self._training.news.versions += 1
        # A mean over fewer than 100 episodes is not worth comparing.
        self._best.consider(version.number, mean_return if self._training.is_known else 0.0, time.monotonic())

    def _report(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._reported < REPORT_EVERY:
            return
        self._reported = time.monotonic()
        news, self._training.news = self._training.news, News()
        self._reporter.send(
            LearnerReport(
                version=self._newest,
                mean_return=self._training.mean_return,
                versions=news.versions,
                used=news.used,
                dropped=news.dropped,
                returns=news.returns,
                lags={actor: dict(lags) for actor, lags in news.lags.items()},
            )
        )


def main() -> None:
    """Trains, reports how it ended, and exits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--reports", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--actors", type=int, required=True)
    parser.add_argument("--target", type=float, required=True)
    parser.add_argument("--until", type=float, required=True)
    given = parser.parse_args()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with connect(given.url, name="learner") as client:
        samples, reporter = SampleReceiver(context, given.samples), Reporter(context, given.reports)
        learner = Learner(client, samples, reporter, Training(given.seed, given.actors, Tuning()))
        reporter.send(learner.learn(given.target, given.until))


if __name__ == "__main__":
    main()
