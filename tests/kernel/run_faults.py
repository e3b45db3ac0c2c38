"""`scripts/faults`: all faults, or some, and a table of what came of each.

In: names of faults. Out: a table, JSON if asked for; exit status 1 if a verdict is bad.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.kernel import trial
from tests.kernel.faults import FAULTS, TWO
from tests.kernel.trial import Result, Stage
from tests.kernel.truth import LAG_S
from tests.lab import Lab

_HEAD = (
    *("fault", "lasted s", "events", "heal s", "settled s", "lost", "rejected"),
    *("samples", "oldest s", "verified s", "ready s", "MiB", "verdict"),
)
_QUICK = 0.2


def main() -> int:
    """Run what was asked for."""
    arguments = _arguments()
    mixed = arguments.link in trial.MIXED
    names = arguments.fault or [name for name in FAULTS if mixed or name not in TWO]
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        print(f"no such fault: {', '.join(unknown)}; see --list", file=sys.stderr)
        return 2
    if arguments.list:
        for fault in FAULTS.values():
            print(f"{fault.name:22} {fault.sentence}")
        return 0
    results: deque[Result] = deque()
    scale = _QUICK if arguments.quick else arguments.scale
    with (
        tempfile.TemporaryDirectory(prefix="syncd-faults-") as directory,
        Lab("faults") as lab,
        trial.staged(
            *(lab, Path(directory), arguments.rate, arguments.flows, scale),
            link=trial.LINKS.get(arguments.link, arguments.link),
            security=f'mode = "{arguments.security}"\n',
        ) as stage,
    ):
        print(_line(_HEAD), flush=True)
        first = [trial.resident_mib(node) for node in stage.made.nodes]
        for name in names * arguments.rounds:
            results.append(stage.trial(FAULTS[name]))
            _print(results[-1])
        good = _memory(stage, first)
        if arguments.keep:
            _keep_logs(stage, Path(arguments.keep))
    if arguments.json:
        rows = [asdict(result) for result in results]
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")
    bad = [result.name for result in results if result.problems]
    if bad:
        print(f"{len(bad)} of {len(results)} failed: {', '.join(bad)}")
    else:
        print(f"{len(results)} faults, all healed; no claim older than {LAG_S:g} s")
    return int(bool(bad) or not good)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Three nodes in namespaces under load, one fault after the other.",
    )
    links = (*trial.LINKS, *trial.MIXED)
    parser.add_argument("fault", nargs="*", help="which (default: all)")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--quick", action="store_true", help="faults last a fifth")
    parser.add_argument("--scale", type=float, default=1.0, help="of their lengths")
    parser.add_argument("--rounds", type=int, default=1, help="how often all of them")
    parser.add_argument("--rate", type=float, default=1500.0, help="events a second")
    parser.add_argument("--flows", type=int, default=3000, help="tuples of the load")
    parser.add_argument("--link", choices=links, default="multicast")
    parser.add_argument("--security", choices=("enforce", "off"), default="enforce")
    parser.add_argument("--json", metavar="FILE", help="write the results")
    parser.add_argument("--keep", metavar="DIRECTORY", help="keep the daemons' logs")
    return parser.parse_args()


def _line(cells: Sequence[object]) -> str:
    first, *rest = (str(cell) for cell in cells)
    return f"{first:22}" + " ".join(f"{cell:>10}" for cell in rest)


def _print(result: Result) -> None:
    found = result.findings
    ages = (found.oldest_s, found.oldest_verified_s, found.oldest_ready_s)
    verdict = "BAD" if result.problems else "good"
    cells = (
        *(result.name, f"{result.lasted_s:.1f}", result.events),
        *(f"{result.heal_s:.2f}", f"{result.settle_s:.2f}"),
        *(result.lost_frames, result.rejected_frames, found.samples),
        *(f"{age:.1f}" for age in ages),
        *(f"{result.memory_mib:.0f}", verdict),
    )
    print(_line(cells), flush=True)
    for problem in result.problems:
        print(f"    {problem}", flush=True)


def _memory(stage: Stage, first: list[float]) -> bool:
    """The daemons hold what they held, give or take."""
    time.sleep(1.0)
    good = True
    for node, before in zip(stage.made.nodes, first, strict=True):
        after = trial.resident_mib(node)
        word = "grown" if trial.grown(before, after) else "steady"
        good = good and word == "steady"
        print(f"{node.name}: {before:.1f} MiB at first, {after:.1f} at last: {word}")
    return good


def _keep_logs(stage: Stage, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for node in stage.made.nodes:
        (directory / f"{node.name}.log").write_text(node.log)


if __name__ == "__main__":
    sys.exit(main())
