"""Small policies: does every actor get each of 200 a second, how late, does memory stay flat, how many a second can there be?

    python -m benchmarks.small [--quick]

Each actor reads with `every()`. Before memory is looked at, as many versions are published as the broadcaster's bounded tables
hold (events 16,384, finished uploads 8,192, kept versions 1,000), so that what grows afterwards is growth.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.processes import Broadcaster, Child, Group, exit_on_sigterm, probe
from benchmarks.result import Result, Spread, percentile
from benchmarks.usage import Cpu, Sampler, cpu_of, private_apart, slope

RATE, SECONDS, SIZE, ACTORS = 200, 30, 1 << 10, 16
FLOOD_SIZE, FLOOD_ACTORS, FLOOD_SECONDS = 4 << 10, 4, 5
FILL, FILL_POLICY = 17_000, 1_200
SETTLED = 15.0
"""Seconds after which what the actors brought along is there: subscriptions, their places in tables, buffers of sockets."""
FLAT = 1 << 20
"""Bytes of growth over the whole run that may be the allocator's."""
LATE = 60.0
"""Seconds that the actors may take to finish when the learner has."""


def fill(broadcaster: Broadcaster) -> int:
    """Publishes until every table that forgets its oldest has something to forget. Returns how many versions there were."""
    return sum(_fill(broadcaster, model, least) for model, least in (("filling", FILL), ("policy", FILL_POLICY)))


def _fill(broadcaster: Broadcaster, model: str, least: int) -> int:
    count = 0
    with Group() as group:
        learner = group.start("benchmarks.learner", broadcaster.url, model, "--remote")
        learner.up()
        while count < least:
            count += int(learner.ask(do="flood", size=SIZE, seconds=1)["count"]) + 1
        learner.ask(do="probe", size=SIZE)  # Actors begin with the newest, and the last of a flood would end them.
    return count + 1


def paced(*, quick: bool) -> None:
    """200 policies of 1 KiB a second to 16 actors."""
    count = RATE * (5 if quick else SECONDS)
    with Broadcaster() as broadcaster, Group() as group:
        filled = 0 if quick else fill(broadcaster)
        learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--remote")
        learner.up()
        actors = group.many(ACTORS, "benchmarks.actor", "every", broadcaster.url, "policy")
        probe(learner, actors, do="probe", size=SIZE)
        memory = {"private": lambda: sum(private_apart(pid, broadcaster.slot_dir) for pid in broadcaster.pids)}
        before = cpu_of(broadcaster.pids)
        with Sampler(memory, 0.5) as sampler:
            published = learner.ask(LATE + count / RATE, do="pace", size=SIZE, rate=RATE, count=count)
            heard = [actor.read(LATE) for actor in actors]
        used = cpu_of(broadcaster.pids) - before
    _delivery(count, published, heard, used).emit()
    _memory(sampler, published["seconds"], filled).emit()


def _delivery(count: int, published: dict[str, Any], heard: list[dict[str, Any]], used: Cpu) -> Result:
    ages = [age / 1e3 for one in heard for age in one["ages_us"]]
    lost = sum(count - one["received"] for one in heard)
    disordered = sum(one["disordered"] for one in heard)
    rate = count / published["seconds"]
    return Result(
        question="small",
        case=f"{RATE}/s of {SIZE >> 10} KiB to {ACTORS}, every()",
        what="publish to handed out, each version and actor",
        unit="ms",
        ours=Spread.of(ages),
        target=f"none lost, in order, at {RATE}/s",
        met=not lost and not disordered and rate > 0.98 * RATE,
        limit="wake-ups: one of each actor for each version",
        details={
            "p99_ms": percentile(ages, 99),
            "versions": count,
            "lost": lost,
            "missing": sum(one["missing"] for one in heard),
            "disordered": disordered,
            "repaired": sum(one["repaired"] for one in heard),
            "rate_per_s": rate,
            "publish_blocks_p50_us": percentile(published["publish_us"], 50),
            "publish_blocks_p99_us": percentile(published["publish_us"], 99),
            "broadcaster_cpu_us_per_version": used.total / count * 1e6,
        },
    )


def _memory(sampler: Sampler, seconds: float, filled: int) -> Result:
    series = sampler.series["private"]
    settled = [(at, value) for at, value in series if at >= series[0][0] + SETTLED] if filled else series
    growth = slope(settled) * seconds
    return Result(
        question="small",
        case=f"memory over {seconds:.0f} s of it",
        what="the broadcaster's private memory, slots apart",
        unit="MiB",
        ours=Spread.of([value / (1 << 20) for _, value in series]),
        target=f"grows by less than {FLAT >> 20} MiB",
        met=growth < FLAT if filled else None,
        limit=None if filled else "tables were not filled before (--quick): they grow until they are full",
        details={
            "growth_by_fit_kib": growth / 1024,
            "kib_per_s": slope(settled) / 1024,
            "kib_in_the_first_seconds": (settled[0][1] - series[0][1]) / 1024,
            "versions_before": filled,
        },
    )


def flood(learners: int, seconds: float) -> Result:
    """As many versions as there can be, each acknowledged before its learner makes the next one, and each read by all actors."""
    with Broadcaster() as broadcaster, Group() as group:
        sending = [_learner(group, broadcaster, number) for number in range(learners)]
        options = ("every", broadcaster.url, "policy", "--learners", learners)
        actors = group.many(FLOOD_ACTORS, "benchmarks.actor", *options)
        for learner in sending:
            probe(learner, actors, do="probe", size=FLOOD_SIZE)
        before = cpu_of(broadcaster.pids)
        for learner in sending:
            learner.tell(do="flood", size=FLOOD_SIZE, seconds=seconds)
        said = [learner.read() for learner in sending]
        used = cpu_of(broadcaster.pids) - before
        heard = [actor.read(LATE) for actor in actors]
    count = sum(one["count"] for one in said)
    rate = sum(one["count"] / one["seconds"] for one in said)
    lost = sum(count + learners - one["received"] for one in heard)
    busy = used.total / max(one["seconds"] for one in said)
    return Result(
        question="small",
        case=f"{FLOOD_SIZE >> 10} KiB to {FLOOD_ACTORS}, {learners} {'learner' if learners == 1 else 'learners'}",
        what="most versions a second",
        unit="versions/s",
        ours=Spread(rate, rate, rate, 1),
        target="none lost",
        met=not lost,
        limit=f"the broadcaster's processes: {busy:.2f} processors busy",
        details={
            "versions": count,
            "lost": lost,
            "broadcaster_cpu_us_per_version": used.total / count * 1e6,
            "age_p50_ms": percentile([age / 1e3 for one in heard for age in one["ages_us"]], 50),
            "age_p99_ms": percentile([age / 1e3 for one in heard for age in one["ages_us"]], 99),
        },
    )


def _learner(group: Group, broadcaster: Broadcaster, number: int) -> Child:
    learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--number", number, "--remote")
    learner.up()
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    arguments = parser.parse_args()
    exit_on_sigterm()
    paced(quick=arguments.quick)
    for learners in (1, 4):
        flood(learners, 1 if arguments.quick else FLOOD_SECONDS).emit()


if __name__ == "__main__":
    main()
