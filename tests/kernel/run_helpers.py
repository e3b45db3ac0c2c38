"""`scripts/helpers`: every helper, family, NAT and stage, and a table of what came.

In: names of sessions. Out: a table; exit status 1 if something failed that is not
known to fail on every pair of firewalls.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.kernel.helper_lab import NATS, STAGES
from tests.kernel.helper_trial import ABSENT, OK, PLAYS, Case, Outcome, cross
from tests.lab import Lab

ZONES = {
    "none": "",
    "both": '    iifname { "eth0", "eth1" } ct zone set 7',
    "original": '    iifname { "eth0", "eth1" } ct original zone set 8',
}
# What a helper knows and tells nobody cannot be given to another kernel.
_NOT_TRANSFERABLE = {"pptp": "call"}
_KERNEL = "kernel"  # fails without a failover too


def main() -> int:
    """Run what was asked for."""
    arguments = _arguments()
    names = arguments.session or list(PLAYS)
    unknown = [name for name in names if name not in PLAYS]
    if unknown:
        print(f"no such session: {', '.join(unknown)}; there are {', '.join(PLAYS)}")
        return 2
    found: dict[str, Outcome] = {}
    for stage in ("", *(arguments.stage or STAGES)):
        began = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="syncd-helpers-") as directory,
            Lab("helpers") as lab,
        ):
            found[stage] = cross(
                *(lab, Path(directory), stage, names, arguments.nat or NATS),
                cut=arguments.cut,
                zones=ZONES[arguments.zones],
                standby=arguments.standby,
            )
        seconds = time.monotonic() - began
        print(f"{stage or 'no failover':12} {seconds:.0f} s", file=sys.stderr)
        for text in found[stage].differences[:20]:
            print(f"    {text}", file=sys.stderr)
    return _report(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/helpers",
        description="Sessions that helpers follow cross a failover and the way back.",
    )
    parser.add_argument("session", nargs="*", help="which (default: all)")
    parser.add_argument("--standby", choices=("table", "kernel"), default="table")
    parser.add_argument("--stage", action="append", choices=STAGES)
    parser.add_argument("--nat", action="append", choices=NATS)
    parser.add_argument("--zones", choices=ZONES, default="none")
    parser.add_argument(
        "--cut",
        action="store_true",
        help="the firewall loses power instead of a demote",
    )
    return parser.parse_args()


def _report(found: dict[str, Outcome]) -> int:
    """The table, and each failure in full below it."""
    stages = [stage for stage in found if stage]
    failures: list[str] = []
    print(f"{'session':14}{'family':8}{'NAT':12}" + "".join(f"{s:11}" for s in stages))
    for case in found[""].words:
        cells = [_cell(found, stage, case) for stage in stages]
        print(
            f"{case[0]:14}IPv{case[1]:<5}{case[2]:12}"
            + "".join(f"{c:11}" for c in cells)
        )
        failures += [
            f"{' '.join(map(str, case))} at {stage}: {found[stage].words[case]}"
            for stage, cell in zip(stages, cells, strict=True)
            if cell == "FAILED"
        ]
    for text in failures:
        print(text)
    wrong = sum(len(outcome.differences) for outcome in found.values())
    print(f"{len(failures)} sessions failed, {wrong} expectations differed")
    return int(bool(failures or wrong))


def _cell(found: dict[str, Outcome], stage: str, case: Case) -> str:
    word = found[stage].words[case]
    if word in (OK, ABSENT):
        return word
    if found[""].words[case] != OK:
        return _KERNEL
    return _NOT_TRANSFERABLE.get(case[0], "FAILED")


if __name__ == "__main__":
    sys.exit(main())
