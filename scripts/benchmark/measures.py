"""What is measured: each function takes a running pair through one trial.

Out come figures, name -> value. Events are counted by the load, CPU by the scheduler,
bytes by the sync link's own counters, so nothing that is compared reports on itself.
"""

import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import counters
from benchmark.daemons import Daemon, Pair, wait_until
from benchmark.load import Cycle, Load
from benchmark.sniffer import Sniffer, match
from benchmark.world import SYNC, World

Figures = dict[str, float]

_FILL_RATE = 60_000.0  # events a second while a table is filled: both follow easily
_PROBE_EVERY_S = 0.02
_RATE_STEP = 50_000
_RATE_LIMIT = 500_000
_RATE_LEAST_S = 5.0  # longer than any buffer can hide an overload
_RATE_TRIES = 3  # to get a load that is even
_SETTLE_S = 60.0
_OTHER_MARK = "7"  # the load has none
_REST_S, _REST_SHARE = 0.3, 0.1


@dataclass(slots=True)
class Trial:
    """What all measures need."""

    world: World
    load: Load
    directory: Path
    seconds: float  # of steady load
    life_s: float
    flows: int
    rates: tuple[int, ...]
    notes: list[str] = field(default_factory=list)

    def note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)


@dataclass(frozen=True, slots=True)
class _Moment:
    active_ns: int
    standby_ns: int
    wire: counters.Wire


def _moment(pair: Pair) -> _Moment:
    wire = counters.wire(pair.active.pid, SYNC)
    return _Moment(pair.active.cpu_ns(), pair.standby.cpu_ns(), wire)


def thousands(rate: float) -> str:
    """A rate as people say it."""
    return f"{rate / 1000:g} k/s"


def measure_cpu(trial: Trial, pair: Pair) -> Figures:
    """CPU and link bytes per event at each rate, between the marks of steady load."""
    figures: Figures = {}
    for rate in trial.rates:
        lost = pair.lost()
        cycle, begin, end = _steady(trial, pair, rate)
        at = thousands(rate)
        for name, spent in (
            ("CPU active", (end.active_ns - begin.active_ns) / 1000),
            ("CPU standby", (end.standby_ns - begin.standby_ns) / 1000),
            ("link payload", end.wire.payload_since(begin.wire)),
            ("link sent", end.wire.sent_bytes - begin.wire.sent_bytes),
            ("link back", end.wire.received_bytes - begin.wire.received_bytes),
        ):
            figures[f"{name} {at}"] = spent / cycle.steady_events
        if _uneven(trial, cycle):
            trial.note(f"the load fell behind at {at}: do not trust its figures")
        if pair.lost() > lost:
            trial.note(f"{pair.active.kind} lost events or datagrams at {at}")
        _settle(trial, pair)
    return figures


def measure_warm(trial: Trial, pair: Pair) -> Figures:
    """CPU per event when the standby's kernel follows, and how long it takes to fill.

    What counts as filled, and as empty again, is the standby's kernel itself.
    """
    figures: Figures = {}
    for rate in trial.rates:
        lost = pair.lost()
        cycle, begin, end = _steady(trial, pair, rate)
        at = f"warm {thousands(rate)}"
        active, standby = end.active_ns - begin.active_ns, end.standby_ns
        figures[f"CPU active {at}"] = active / 1000 / cycle.steady_events
        spent = (standby - begin.standby_ns) / 1000
        figures[f"CPU standby {at}"] = spent / cycle.steady_events
        if _uneven(trial, cycle):
            trial.note(f"the load fell behind at {at}: do not trust its figures")
        if pair.lost() > lost:
            trial.note(f"{pair.active.kind} lost events or datagrams at {at}")
        _await_rest(pair)
        if left := trial.world.flows(trial.world.fw2):
            trial.note(
                f"{pair.active.kind}: {left} ended flows in the standby's kernel"
            )
            trial.world.flush(trial.world.fw2)
    before = _resident(pair.standby)
    begin_s, spent = time.monotonic(), pair.standby.cpu_ns()
    trial.load.establish(trial.flows, _FILL_RATE)
    told_s = time.monotonic()

    def filled() -> bool:
        return trial.world.flows(trial.world.fw2) >= trial.flows

    def present() -> str:
        found = trial.world.flows(trial.world.fw2)
        return f"{trial.flows} flows in {pair.standby.kind}'s kernel: {found}"

    wait_until(filled, _SETTLE_S, present, 0.05)
    figures["warm behind at the end"] = time.monotonic() - told_s
    figures["warm filled"] = time.monotonic() - begin_s
    _await_rest(pair)
    figures["warm CPU standby"] = (pair.standby.cpu_ns() - spent) / 1000 / trial.flows
    figures["memory warm standby"] = (_resident(pair.standby) - before) / trial.flows
    return figures


def _steady(trial: Trial, pair: Pair, rate: float) -> tuple[Cycle, _Moment, _Moment]:
    moments: list[_Moment] = []
    cycle = trial.load.cycle(
        rate, trial.seconds, trial.life_s, lambda: moments.append(_moment(pair))
    )
    begin, end = moments
    return cycle, begin, end


def _uneven(trial: Trial, cycle: Cycle) -> bool:
    """Did the load itself fail to keep its pace, or lose packets on the way?"""
    return cycle.late_s > trial.life_s / 12 or cycle.refused > 0


def _settle(trial: Trial, pair: Pair) -> None:
    """Nothing is alive any more: so it must be on the standby, too."""
    try:
        pair.await_standby(0, _SETTLE_S)
    except TimeoutError as error:
        present = trial.world.flows(trial.world.fw1)
        trial.note(f"{error}; in the active kernel: {present}")
        pair.stop()
        pair.start()


def measure_latency(trial: Trial, pair: Pair) -> Figures:
    """From a packet to its change on the sync link, and to the standby's daemon."""
    figures: Figures = {}
    for name, rate in (("idle", 0), ("10 k/s", 10_000), ("50 k/s", 50_000)):
        file = trial.directory / "capture"
        sniffer = Sniffer(trial.world, SYNC, file)
        try:
            cycle = trial.load.cycle(
                rate, trial.seconds, trial.life_s, lambda: None, _PROBE_EVERY_S
            )
        finally:
            sniffer.stop()
        _settle(trial, pair)
        on_link, at_standby = match(sniffer, cycle.probes, pair.active.opened)
        file.unlink()
        if missing := len(cycle.probes) - len(on_link):
            trial.note(f"{pair.active.kind}, {name}: {missing} probes never came")
        _quantiles(figures, f"latency link {name}", on_link)
        _quantiles(figures, f"latency standby {name}", at_standby)
    return figures


def _quantiles(figures: Figures, name: str, values: list[float]) -> None:
    if len(values) < 2:
        return
    figures[f"{name} p50"] = statistics.median(values)
    figures[f"{name} p99"] = statistics.quantiles(values, n=100, method="inclusive")[98]


def measure_rate(trial: Trial, pair: Pair) -> Figures:
    """The highest rate of the load at which nothing was lost."""
    best = 0
    for rate in range(_RATE_STEP, _RATE_LIMIT + 1, _RATE_STEP):
        held = _held(trial, pair, rate)
        if held is None:
            trial.note(f"the load cannot do {thousands(rate)} evenly on this machine")
        if not held:
            break
        best = rate
    return {"loss-free rate": best}


def _held(trial: Trial, pair: Pair, rate: float) -> bool | None:
    """Whether nothing was lost at this rate; None if the load never kept it."""
    seconds = max(trial.seconds, _RATE_LEAST_S)
    for _ in range(_RATE_TRIES):
        lost = pair.lost()
        cycle = trial.load.cycle(rate, seconds, trial.life_s, lambda: None)
        try:
            pair.await_standby(0, 10.0)
        except TimeoutError:
            return False
        if pair.lost() > lost:
            return False
        if not _uneven(trial, cycle):
            return True
    return None


def measure_table(trial: Trial, pair: Pair, wanted: frozenset[str]) -> Figures:
    """Fill a fresh pair's tables, then what is wanted of: memory, resync, commit."""
    figures: Figures = {}
    daemons = {"active": pair.active, "standby": pair.standby}
    before = {name: _resident(daemon) for name, daemon in daemons.items()}
    trial.load.establish(trial.flows, _FILL_RATE)
    pair.await_standby(trial.flows)
    _await_rest(pair)
    if "memory" in wanted:
        for name, daemon in daemons.items():
            grown = _resident(daemon) - before[name]
            figures[f"memory {name}"] = grown / trial.flows
    if "resync" in wanted:
        pair.standby.flush_peer()
        _await_rest(pair)
        figures["resync asked"] = _timed(trial, pair, pair.standby.pull)
        figures["resync restart"] = _timed(trial, pair, lambda: _restart(pair.standby))
        _await_rest(pair)
    if "commit" in wanted:
        for name in ("empty", "existing", "differing"):
            figures |= _commit(trial, pair, name)
    return figures


def _commit(trial: Trial, pair: Pair, name: str) -> Figures:
    """One commit; the kernel must then have every flow, and have it as it was told."""
    world, kind = trial.world, pair.active.kind
    if name == "differing":
        program = Path(__file__).with_name("marking.py")
        world.inside(world.fw2, sys.executable, str(program), _OTHER_MARK)
        _await_rest(pair)
    commit = pair.standby.commit()
    present = world.flows(world.fw2)
    if present != trial.flows:
        trial.note(f"{kind}: commit ({name}) left {present} flows, not {trial.flows}")
    marked = world.inside(world.fw2, "conntrack", "-L", "--mark", _OTHER_MARK)
    if marked:
        trial.note(
            f"{kind}: commit ({name}) left {marked.count('mark=')} changed flows"
        )
    _await_rest(pair)
    return {
        f"commit {name}": commit.wall_s,
        f"commit {name}, own clock": commit.reported_s,
    }


def _await_rest(pair: Pair) -> None:
    """Let both finish what the last step left them to do."""

    def at_rest() -> bool:
        before = pair.active.cpu_ns() + pair.standby.cpu_ns()
        time.sleep(_REST_S)
        spent = pair.active.cpu_ns() + pair.standby.cpu_ns() - before
        return spent < _REST_S * 1e9 * _REST_SHARE

    wait_until(at_rest, _SETTLE_S, lambda: f"{pair.active.kind} at rest")


def _resident(daemon: Daemon) -> int:
    return counters.resident_bytes(daemon.pid)


def _timed(trial: Trial, pair: Pair, order: Callable[[], None]) -> float:
    """Seconds from the order until the standby has all."""
    begin = time.monotonic()
    order()
    pair.await_standby(trial.flows)
    return time.monotonic() - begin


def _restart(daemon: Daemon) -> None:
    daemon.stop(signal.SIGKILL)
    daemon.start()
    daemon.rejoin()
