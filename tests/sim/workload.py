"""Seeded traffic: flows of all kinds that open, change and end in a model kernel.

In: a generator of random numbers and a pace. Out: calls of the model kernel. A life of
a flow is a Python generator that yields the delay until its next step; it is over when
its entry is gone, for whatever reason.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass

from tests.sim.clock import Clock
from tests.sim.ctnetlink import (
    ASSURED,
    ESP,
    GRE,
    HELPER,
    ICMP,
    SCTP,
    SEEN_REPLY,
    SEQ_ADJUST,
    TCP,
    UDP,
    Facts,
    Tracker,
    flow_key,
)
from tests.sim.kernel import Entry, ModelKernel
from tests.sim.opening import Opening, announce, related

Life = Generator[float, None, None]

_ESTABLISHED_S = 432000
_TIME_WAIT, _CLOSED = 7, 8


class Gone(Exception):  # noqa: N818 - no error: a life is over
    """The entry of a life is not there any more."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much happens; times in virtual seconds."""

    initial: int = 30  # flows that are there before the daemon starts
    births: float = 20.0  # new flows per second
    step_s: float = 0.2  # mean time between two steps of a life
    ports: int = 64  # a small pool makes tuples come again
    zones: int = 2


class Workload:
    """The traffic of one kernel."""

    def __init__(
        self, kernel: ModelKernel, clock: Clock, rng: random.Random, pace: Pace
    ) -> None:
        self._kernel = kernel
        self._clock = clock
        self._rng = rng
        self._pace = pace
        self._opening = Opening(rng, pace.ports, pace.zones)
        self.running = False

    def start(self) -> None:
        """Open the initial flows, then keep opening others."""
        self.running = True
        for _ in range(self._pace.initial):
            self._run(self._any_life())
        self._birth()

    def stop(self) -> None:
        """Nothing changes any more; what has expired is collected."""
        self.running = False
        for entry in [e for e in self._kernel.flows.values() if e.hidden]:
            self._kernel.end(entry)

    def open_one(self) -> None:
        """One more flow, now."""
        self._run(self._any_life())

    def adopt(self, entry: Entry) -> None:
        """Go on with a flow that another kernel opened; it may end here."""
        life = self._idle(entry, _ESTABLISHED_S)
        self._run(self._expire(entry) if self._rng.random() < 0.5 else life)

    def _birth(self) -> None:
        if self.running and self._pace.births:
            self._run(self._any_life())
            self._clock.after(self._rng.expovariate(self._pace.births), self._birth)

    def _run(self, life: Life) -> None:
        if not self.running:
            return
        try:
            delay = next(life)
        except (StopIteration, Gone):
            return
        self._clock.after(delay, lambda: self._run(life))

    # Lives

    def _any_life(self) -> Life:
        lives = (self._tcp, self._udp, self._ping, self._ftp)
        more = (self._plain, self._sctp, self._synproxy, self._tftp)
        weights = (40, 25, 8, 8, 6, 5, 4, 4)
        (life,) = self._rng.choices((*lives, *more), weights)
        return life()

    def _tcp(self) -> Life:
        entry = self._open(self._opening.draw(TCP), 120)
        yield from self._connect(entry)
        yield from self._talk(entry)
        yield from self._close(entry)

    def _udp(self) -> Life:
        entry = self._open(self._opening.draw(UDP), 30)
        yield self._pause()
        if self._rng.random() < 0.7:
            self._change(entry, 30, add=SEEN_REPLY)
            yield self._pause()
            self._change(entry, 120, add=ASSURED)
            yield from self._talk(entry)
        yield from self._expire(entry)

    def _ping(self) -> Life:
        entry = self._open(self._opening.draw(ICMP), 30)
        yield self._pause(0.1)
        self._change(entry, 30, add=SEEN_REPLY)
        yield from self._expire(entry)

    def _plain(self) -> Life:
        entry = self._open(self._opening.draw(self._rng.choice((GRE, ESP))), 30)
        yield self._pause()
        self._change(entry, 180, add=SEEN_REPLY)
        yield from self._talk(entry)
        yield from self._expire(entry)

    def _sctp(self) -> Life:
        entry = self._open(self._opening.draw(SCTP), 3)
        orig, reply = self._rng.getrandbits(32), entry.facts.tracker
        for state in (2, 3, 4):
            yield self._pause(0.2)
            tracker = Tracker(state, orig, reply.orig if reply else 0)
            status = ASSURED if state == 4 else 0
            self._change(entry, 210, add=SEEN_REPLY | status, tracker=tracker)
        yield from self._talk(entry)
        yield from self._expire(entry)

    def _synproxy(self) -> Life:
        facts = self._opening.draw(TCP)
        proxy = (self._rng.getrandbits(32), 0x1000005A, 0)
        entry = self._open(facts._replace(synproxy=proxy), 120)
        yield self._pause(0.1)
        late = (*proxy[:2], self._rng.getrandbits(32))
        tracker = Tracker(3, 10, 10, 0x23, 0x23)
        self._change(
            entry,
            _ESTABLISHED_S,
            add=SEEN_REPLY | ASSURED,
            tracker=tracker,
            synproxy=late,
        )
        offset = self._rng.getrandbits(32)
        self._change(
            entry,
            _ESTABLISHED_S,
            add=SEQ_ADJUST,
            adjust_orig=(0, 0, 0),
            adjust_reply=(0, offset, offset),
        )
        yield from self._talk(entry)
        yield from self._close(entry)

    def _ftp(self) -> Life:
        facts = self._opening.draw(TCP, port=21, helper="ftp")
        entry = self._open(facts._replace(status=facts.status | HELPER), 120)
        yield from self._connect(entry)
        for _ in range(self._rng.randint(1, 3)):
            yield self._pause()
            port = self._rng.randint(50000, 60000)
            expected = announce(entry.facts, port, "ftp")
            self._must_live(entry)
            if expected.nat is not None:
                bits = self._rng.getrandbits(32)
                self._kernel.mangle(entry, (bits, 0, bits & 7), (0, 0, 0))
            self._kernel.expect(expected, entry, 300)
            yield self._pause()
            self._must_live(entry)
            yield from self._come(entry, port)
        yield from self._talk(entry)
        yield from self._close(entry)

    def _come(self, master: Entry, port: int) -> Life:
        """The expected flow comes, or does not."""
        key = next(
            (k for k, e in self._kernel.expectations.items() if e.master is master),
            None,
        )
        if key is None or self._rng.random() < 0.3:
            return
        self._kernel.end_expectation(key)
        entry = self._open(related(master.facts, port), 120)
        yield from self._connect(entry)
        self._run(self._close(entry))

    def _tftp(self) -> Life:
        facts = self._opening.draw(UDP, port=69, helper="tftp")
        facts = facts._replace(status=facts.status | HELPER)
        port = facts.orig.numbers[0]
        entry = self._open(facts, 30, announced=port)
        yield self._pause()
        self._must_live(entry)
        yield from self._come_datagrams(entry, port)
        yield from self._expire(entry)

    def _come_datagrams(self, master: Entry, port: int) -> Life:
        for key in [
            k for k, e in self._kernel.expectations.items() if e.master is master
        ]:
            self._kernel.end_expectation(key)
        entry = self._open(related(master.facts, port), 30)
        yield self._pause()
        self._change(entry, 30, add=SEEN_REPLY)

    # Stages

    def _connect(self, entry: Entry) -> Life:
        scale = self._rng.randint(0, 14)
        first = entry.facts.tracker
        orig = first.orig if first else 0
        yield self._pause(0.1)
        answered = Tracker(2, orig, scale, 3, 0x13)
        self._change(entry, 60, add=SEEN_REPLY, tracker=answered)
        yield self._pause(0.1)
        established = Tracker(3, orig, scale, 0x23, 0x23)
        self._change(entry, _ESTABLISHED_S, add=ASSURED, tracker=established)

    def _talk(self, entry: Entry) -> Life:
        """Packets, most without an event; now and then a mark or labels."""
        for _ in range(self._rng.randint(1, 12)):
            yield self._pause()
            self._must_live(entry)
            match self._rng.randrange(10):
                case 0:
                    mark = self._rng.getrandbits(32) if self._rng.random() < 0.7 else 0
                    if mark != entry.facts.mark:
                        self._change(entry, 300, mark=mark)
                case 1:
                    labels = self._rng.randbytes(16)
                    self._change(entry, 300, labels=labels)
                case _:
                    self._kernel.refresh(entry, self._rng.randint(20, 432000))

    def _close(self, entry: Entry) -> Life:
        if self._rng.random() < 0.15:
            yield self._pause()
            self._state(entry, _CLOSED, 10)
        else:
            for state in (4, 5, 6, _TIME_WAIT):
                if state == 5 and self._rng.random() < 0.5:
                    continue
                yield self._pause(0.3)
                self._state(entry, state, 120)
        yield from self._expire(entry)

    def _expire(self, entry: Entry) -> Life:
        """The end: at its time, seen late, or before its time."""
        yield self._pause(2)
        self._must_live(entry)
        if self._rng.random() < 0.5:
            self._kernel.hide(entry)
            yield self._pause(2)
            self._kernel.end(entry)
        else:
            self._kernel.end(entry, early=self._rng.random() < 0.3)

    def _idle(self, entry: Entry, timeout: float) -> Life:
        while True:
            yield self._pause(5)
            self._change(entry, timeout, mark=self._rng.getrandbits(32))

    # Steps

    def _open(self, facts: Facts, timeout: float, announced: int = 0) -> Entry:
        """The first packet; a tuple that a live flow holds is not free."""
        holder = self._kernel.flows.get(flow_key(facts))
        if holder is not None and not holder.hidden:
            tracker = holder.facts.tracker
            if tracker is None or tracker.state not in (_TIME_WAIT, _CLOSED):
                raise Gone
        if holder is None and self._kernel.is_full:
            raise Gone  # the packet is dropped
        if self._kernel.is_taken(facts):
            raise Gone
        expected = announce(facts, announced, facts.helper) if announced else None
        return self._kernel.create(facts, timeout, expected)

    def _must_live(self, entry: Entry) -> None:
        if not self._kernel.alive(entry):
            raise Gone

    def _state(self, entry: Entry, state: int, timeout: float) -> None:
        self._must_live(entry)
        tracker = entry.facts.tracker
        if tracker is not None:
            tracker = tracker._replace(
                state=state, orig_flags=tracker.orig_flags | 0x04
            )
        self._kernel.change(entry, entry.facts._replace(tracker=tracker), timeout)

    def _change(
        self, entry: Entry, timeout: float, add: int = 0, **new: object
    ) -> None:
        """An event-worthy change; `add` are bits of the status."""
        self._must_live(entry)
        status = entry.facts.status | add
        facts = entry.facts._replace(status=status, **new)  # type: ignore[arg-type] # NamedTuple
        self._kernel.change(entry, facts, timeout)

    def _pause(self, share: float = 1.0) -> float:
        return self._rng.expovariate(1 / (self._pace.step_s * share))
