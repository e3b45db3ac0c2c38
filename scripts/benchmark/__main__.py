"""Measure syncd beside conntrackd: the same load, by turns, ratios per round."""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from syncd import keys

from benchmark import measures, report
from benchmark.apart import measure_apart
from benchmark.daemons import Conntrackd, Daemon, Pair, Place, Syncd
from benchmark.digest import measure_digest
from benchmark.filtering import measure_filter
from benchmark.load import Load
from benchmark.world import ADDRESSES, SYNC, World, is_root_of_machine

MEASURES = (
    *("cpu", "plain", "latency", "rate", "memory", "resync", "commit"),
    *("digest", "filter", "show", "accounting", "warm"),
)
# These need not the world, and most of them no daemons.
_ALONE = frozenset({"digest", "filter", "show", "accounting"})
_TABLE = frozenset({"memory", "resync", "commit"})
KINDS: dict[str, type[Daemon]] = {kind.kind: kind for kind in (Conntrackd, Syncd)}


def main() -> int:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    if os.geteuid():
        print("scripts/bench: must be root, it makes namespaces", file=sys.stderr)
        return 4
    kinds = [KINDS[name] for name in options.daemons]
    facts = report.machine_facts(kinds)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    rounds: list[dict[str, measures.Figures]] = []
    notes: list[str] = []
    status = 0
    try:
        _run(options, kinds, rounds, notes)
    except KeyboardInterrupt:
        notes.append("interrupted")
        status = 130
    except (OSError, RuntimeError, TimeoutError) as error:
        notes.append(f"ended early: {error}")
        status = 1
    summary = report.summarise(rounds, Syncd.kind, Conntrackd.kind)
    print()
    print("\n".join(report.table(summary, Syncd.kind, Conntrackd.kind)))
    print("".join(f"\nnote: {note}" for note in notes))
    path = Path(options.json or time.strftime("bench-%Y%m%d-%H%M%S.json"))
    report.write_json(
        path,
        {
            "machine": facts,
            "settings": vars(options),
            "summary": summary,
            "rounds": rounds,
            "notes": notes,
        },
    )
    print(path)
    return status


def _interrupt(_number: int, _frame: object) -> None:
    """Once: what is cleaned up after it is not to be interrupted again."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="a minute or two, without rate, plain and warm",
    )
    add("--only", metavar="WHAT,...", help=f"of {', '.join(MEASURES)}")
    add("--daemons", metavar="WHICH,...", help=f"of {', '.join(KINDS)}")
    add("--rounds", type=int, help="how often each has its turn (3; quick: 1)")
    add("--seconds", type=float, help="of steady load per figure (8; quick: 3)")
    add("--flows", type=int, default=100_000, help="size of a table (100000)")
    add("--rates", metavar="N,...", help="events a second, for cpu")
    add("--life", type=float, default=1.0, help="seconds a connection lives (1)")
    add("--json", metavar="PATH", help="where the figures go")
    options = parser.parse_args()
    quick = options.quick
    options.rounds = options.rounds or (1 if quick else 3)
    options.seconds = options.seconds or (3.0 if quick else 8.0)
    rates = options.rates or ("10000,50000" if quick else "10000,50000,200000")
    slow = ("rate", "plain", "accounting", "warm") if quick else ()
    usual = [name for name in MEASURES if name not in slow]
    try:
        options.rates = [int(rate) for rate in rates.split(",")]
        options.only = _chosen(options.only, MEASURES) or usual
        options.daemons = _chosen(options.daemons, tuple(KINDS)) or list(KINDS)
    except ValueError as error:
        parser.error(str(error))
    return options


def _chosen(words: str | None, names: tuple[str, ...]) -> list[str]:
    chosen = words.split(",") if words else []
    for name in chosen:
        if name not in names:
            raise ValueError(f"{name!r} is none of {', '.join(names)}")
    return chosen


def _run(
    options: argparse.Namespace,
    kinds: list[type[Daemon]],
    rounds: list[dict[str, measures.Figures]],
    notes: list[str],
) -> None:
    """Fill `rounds`, so that what was measured survives an early end."""
    if _ALONE.issuperset(options.only):
        for number in range(options.rounds):
            rounds.append({kind.kind: {} for kind in kinds})
            for kind in kinds:
                found = _alone(kind, options.flows, frozenset(options.only))
                _note_figures(number, kind, rounds[-1][kind.kind], found)
        return
    most = max(options.flows, int(max(options.rates) / 7 * options.life))
    with (
        tempfile.TemporaryDirectory(prefix="syncd-bench-") as directory,
        closing(World(entries=4 * most + 100_000)) as world,
        closing(Load(world)) as load,
    ):
        notes.extend(world.notes)
        if not is_root_of_machine():
            notes.append("in a user namespace: socket buffers are small, rates suffer")
        trial = measures.Trial(
            world=world,
            load=load,
            directory=Path(directory),
            seconds=options.seconds,
            life_s=options.life,
            flows=options.flows,
            rates=tuple(options.rates),
            notes=notes,
        )
        for number in range(options.rounds):
            figures: dict[str, measures.Figures] = {}
            rounds.append(figures)
            for kind in kinds:
                figures[kind.kind] = {}
                found = _turn(trial, kind, frozenset(options.only))
                _note_figures(number, kind, figures[kind.kind], found)
        if invalid := world.invalid_packets():
            notes.append(f"{invalid} packets of the load were invalid")


def _note_figures(
    number: int,
    kind: type[Daemon],
    figures: measures.Figures,
    found: Iterator[tuple[str, float]],
) -> None:
    for name, value in found:
        figures[name] = value
        said = report.figure(name, value)
        print(f"round {number + 1}: {kind.kind:10} {said}", flush=True)


def _alone(
    kind: type[Daemon], flows: int, wanted: frozenset[str]
) -> Iterator[tuple[str, float]]:
    """What is measured without daemons."""
    if "digest" in wanted and kind is Syncd:
        yield from measure_digest(flows).items()
    if "filter" in wanted and kind is Syncd:
        yield from measure_filter(flows).items()
    if "show" in wanted:
        yield from measure_apart("listing", kind.kind, flows).items()
    if "accounting" in wanted:
        yield from measure_apart("accounting", kind.kind, flows).items()


def _turn(
    trial: measures.Trial, kind: type[Daemon], wanted: frozenset[str]
) -> Iterator[tuple[str, float]]:
    """One daemon's turn: a fresh pair for each part, an empty world after it."""
    yield from _alone(kind, trial.flows, wanted)
    parts: list[Callable[[Pair], measures.Figures]] = []
    plain: Callable[[Pair], measures.Figures] = partial(_measure_plain, trial)
    if "plain" in wanted and kind is Syncd:
        parts.append(plain)
    if "cpu" in wanted:
        parts.append(lambda pair: measures.measure_cpu(trial, pair))
    if "latency" in wanted:
        parts.append(lambda pair: measures.measure_latency(trial, pair))
    if "rate" in wanted:
        parts.append(lambda pair: measures.measure_rate(trial, pair))
    if wanted & _TABLE:
        parts.append(lambda pair: measures.measure_table(trial, pair, wanted))
    warm: Callable[[Pair], measures.Figures] = partial(measures.measure_warm, trial)
    if "warm" in wanted:
        parts.append(warm)
    for part in parts:
        pair = _pair(trial, kind, sealed=part is not plain, warm=part is warm)
        try:
            pair.start()
            yield from part(pair).items()
        finally:
            pair.stop()
        trial.world.flush(trial.world.fw1)
        trial.world.flush(trial.world.fw2)
        trial.load.forget()


def _measure_plain(trial: measures.Trial, pair: Pair) -> measures.Figures:
    """CPU with `[security] mode = "off"`, to see what sealing costs."""
    figures = measures.measure_cpu(trial, pair)
    return {f"{name} plain": value for name, value in figures.items()}


def _pair(
    trial: measures.Trial, kind: type[Daemon], *, sealed: bool, warm: bool
) -> Pair:
    """Sealed as by default; it is syncd alone that has something to seal with."""
    world = trial.world
    key_file = trial.directory / "keys"
    if not key_file.exists():
        key = keys.new_key()
        keys.create(str(key_file), keys.KeyRing((key,), key))
    active, standby = (
        kind(
            Place(
                node=node,
                enter=tuple(world.entering(namespace, ())),
                directory=trial.directory,
                interface=SYNC,
                address=ADDRESSES[node],
                buffers=is_root_of_machine(),
                key_file=key_file if sealed else None,
                warm=warm,
            )
        )
        for node, namespace in (("fw1", world.fw1), ("fw2", world.fw2))
    )
    return Pair(active, standby)


if __name__ == "__main__":
    sys.exit(main())
