"""Many seeds, in parallel, without a test runner around them.

    python -m tests.sim --seeds 100000 --from 1 --jobs 3

In: how many seeds, the first one, how many processes. Out: every failure with the one
command that shows it again, and a summary. Without `--from` the seeds are fresh ones,
from the clock, and the first is printed. With `--warm` a seed gets warm standbys, and
one that cannot have any is left out.
"""

import argparse
import functools
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.sim.cluster import Cluster, Report
from tests.sim.extension import draw_extended

_SHARE = 10  # seeds that a process takes at once
_SEEDS_OF_GARBAGE = 8
_SHOWN = 5  # failures that are told in full
_TELL_S = 60.0  # between two lines of progress


class Outcome(NamedTuple):
    """What came of one seed."""

    seed: int
    nodes: int
    spent_s: float
    report: Report | None
    failure: str


def _begin() -> None:
    """Of a worker: what is there stays; garbage is looked for now and then only."""
    gc.freeze()
    gc.disable()


def run_seed(seed: int, *, warm: bool = False) -> Outcome:
    """One whole run; never raises."""
    began = time.process_time()
    plan = draw_extended(seed, warm=warm)
    report, failure = None, ""
    try:
        report = Cluster(plan).run()
    except Exception as error:  # noqa: BLE001 - told with its seed
        failure = str(error)
    if seed % _SEEDS_OF_GARBAGE == 0:
        gc.collect()
    spent_s = time.process_time() - began
    return Outcome(seed, len(plan.nodes), spent_s, report, failure)


def fresh_seed() -> int:
    """A first seed that no run had before."""
    return time.time_ns() // 1_000_000


def outcomes(
    first: int, count: int, jobs: int, *, warm: bool = False
) -> Iterator[Outcome]:
    """All of them, in any order."""
    seeds: Sequence[int] = range(first, first + count)
    if warm:
        seeds = [seed for seed in seeds if draw_extended(seed, warm=True).warmths]
    run = functools.partial(run_seed, warm=warm)
    if jobs == 1 or count == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs, _begin) as pool:
        yield from pool.imap_unordered(run, seeds, _SHARE)


def summary(done: list[Outcome], wall_s: float, first: int) -> str:
    """How many, how long, what was found."""
    spent = sorted(outcome.spent_s for outcome in done)
    reports = [outcome.report for outcome in done if outcome.report is not None]
    failed = sorted(outcome.seed for outcome in done if outcome.failure)
    lines = [
        f"{len(done)} seeds from {first} in {wall_s:.0f} s; CPU per seed: median "
        f"{statistics.median(spent) * 1e3:.0f} ms, mean "
        f"{statistics.mean(spent) * 1e3:.0f} ms, most {spent[-1] * 1e3:.0f} ms "
        f"(seed {max(done, key=lambda outcome: outcome.spent_s).seed})",
    ]
    if reports:
        trailing = max(
            (outcome for outcome in done if outcome.report is not None),
            key=lambda outcome: outcome.report.trail_s if outcome.report else 0.0,
        )
        healed = sorted(report.settled_s for report in reports)
        lines.append(
            f"{sum(r.events for r in reports)} kernel events, "
            f"{sum(r.datagrams for r in reports)} datagrams; healed within "
            f"{healed[len(healed) * 99 // 100]:.2f} s (99 %), {healed[-1]:.2f} s (all);"
            f" a ready node trailed by {max(r.trail_s for r in reports):.2f} s at most "
            f"(seed {trailing.seed})"
        )
    lines.append(f"failed: {len(failed)} {failed[:40] if failed else ''}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/test", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, metavar="N")
    parser.add_argument("--from", type=int, dest="first", metavar="S")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J")
    parser.add_argument("--warm", action="store_true")
    asked = parser.parse_args()
    first = fresh_seed() if asked.first is None else asked.first
    print(f"seeds {first} to {first + asked.seeds - 1}", flush=True)
    began = told = time.monotonic()
    done: list[Outcome] = []
    failures = 0
    for outcome in outcomes(first, asked.seeds, asked.jobs, warm=asked.warm):
        done.append(outcome)
        if outcome.failure:
            failures += 1
            whole = failures <= _SHOWN
            text = outcome.failure if whole else outcome.failure.splitlines()[0]
            print(f"seed {outcome.seed}: {text}", flush=True)
        if time.monotonic() - told > _TELL_S:
            told = time.monotonic()
            print(f"{len(done)} seeds, {failures} failed", flush=True)
    if not done:
        print("none of these can have warm standbys")
        return 0
    print(summary(done, time.monotonic() - began, first))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
