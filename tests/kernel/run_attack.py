"""`scripts/attack`: somebody without the key on the sync link, and what came of it.

In: names of attacks. Out: a table, JSON if asked for; exit status 1 if a
verdict is bad.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.kernel import trial
from tests.kernel.attack import ATTACKS, GUEST, OPEN_TOO, TCP_ATTACKS, Attacker, Strike
from tests.lab import Lab

_HEAD = (
    *("attack", "sent", "rejected", "dropped", "accepted", "us each", "oldest s"),
    *("heal s", "log bytes", "verdict"),
)


def main() -> int:
    """Run what was asked for."""
    arguments = _arguments()
    if arguments.list:
        for attack in (ATTACKS | TCP_ATTACKS).values():
            print(f"{attack.name:18} {attack.sentence}")
        return 0
    attacks = TCP_ATTACKS if arguments.link == "tcp" else ATTACKS
    known = tuple(attacks)
    if arguments.security == "off":
        known = tuple(name for name in known if name in OPEN_TOO)
    names = arguments.attack or known
    wrong = [name for name in names if name not in known]
    if wrong:
        print(f"not against this cluster: {', '.join(wrong)}", file=sys.stderr)
        return 2
    security = f'mode = "{arguments.security}"\n'
    strikes: list[Strike] = []
    with (
        tempfile.TemporaryDirectory(prefix="syncd-attack-") as directory,
        Lab("attack") as lab,
        trial.staged(
            *(lab, Path(directory), arguments.load, arguments.flows),
            link=trial.LINKS[arguments.link],
            security=security,
            guests=(GUEST,) if arguments.link == "tcp" else (),
        ) as stage,
    ):
        attacker = Attacker(stage, Path(directory))
        print(f"{attacker.record(3.0)} frames recorded on {arguments.link}, security "
              f"{arguments.security}\n{_line(_HEAD)}", flush=True)  # fmt: skip
        attacker.rest(3.0)
        for name in names:
            strikes.append(
                attacker.strike(attacks[name], arguments.seconds, arguments.rate)
            )
            _print(strikes[-1])
        if arguments.keep:
            _keep_logs(stage, Path(arguments.keep))
    if arguments.json:
        rows = [asdict(strike) for strike in strikes]
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")
    bad = [strike.name for strike in strikes if strike.problems]
    print(f"{len(bad)} of {len(strikes)} failed: {', '.join(bad)}" if bad else
          f"{len(strikes)} attacks, nothing changed")  # fmt: skip
    return int(bool(bad))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/attack",
        description="Three nodes under load, and somebody without the key.",
    )
    parser.add_argument("attack", nargs="*", help="which (default: all that apply)")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--link", choices=trial.LINKS, default="multicast")
    parser.add_argument(
        "--security", choices=("enforce", "permissive", "off"), default="enforce"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack")
    parser.add_argument("--rate", type=float, default=4000.0, help="frames a second")
    parser.add_argument("--load", type=float, default=1000.0, help="events a second")
    parser.add_argument("--flows", type=int, default=2000, help="tuples of the load")
    parser.add_argument("--json", metavar="FILE", help="write the results")
    parser.add_argument("--keep", metavar="DIRECTORY", help="keep the daemons' logs")
    return parser.parse_args()


def _line(cells: Sequence[object]) -> str:
    first, *rest = (str(cell) for cell in cells)
    return f"{first:18}" + " ".join(f"{cell:>9}" for cell in rest)


def _print(strike: Strike) -> None:
    cells = (
        *(strike.name, strike.sent, sum(strike.rejected.values()), strike.dropped),
        *(strike.accepted, f"{strike.cpu_us:.1f}", f"{strike.oldest_s:.1f}"),
        *(f"{strike.heal_s:.2f}", strike.log_bytes),
        "BAD" if strike.problems else "good",
    )
    print(_line(cells), "", strike.rejected, flush=True)
    for problem in strike.problems:
        print(f"    {problem}", flush=True)


def _keep_logs(stage: trial.Stage, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for node in stage.made.nodes:
        (directory / f"{node.name}.log").write_text(node.log)


if __name__ == "__main__":
    sys.exit(main())
