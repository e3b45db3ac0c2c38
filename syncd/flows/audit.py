"""Are the own tables what the kernel has? A comparison that disturbs nothing.

In: the parts of a dump of the flows, spread over seconds, and replies to GETs. Out:
keys to ask the kernel about, and what was found and put right. Needed because the
kernel does not tell all: entries that began while nobody listened
(`nf_conntrack_events` 2 or 0) never send an update or an end.

The rule: the dump only raises a suspicion, for events may be newer than it. A
suspicion is judged by a GET between two looks at the event queue, and only what no
event told in between is a difference.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from syncd.flows import view
from syncd.flows.likeness import lengthened
from syncd.flows.masquerade import dies_with_address
from syncd.flows.own import EARLY_SWEEP_S, Own
from syncd.flows.record import FLOW, Record
from syncd.flows.rollcall import RollCall

_EXAMPLES = 3

Accepts = Callable[[bytes, bytes], bool]
Take = Callable[[list[Record], float], None]


@dataclass(slots=True)
class Findings:
    """What one audit found and put right.

    `unknown` were not in the own table, `changed` stood otherwise in it, `ended` were
    no longer in the kernel; `timers` had become much longer than was told, which is
    told anew but is no difference.
    """

    records: int = 0  # that the kernel showed
    unknown: int = 0
    changed: int = 0
    ended: int = 0
    timers: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def differences(self) -> int:
        return self.unknown + self.changed + self.ended

    def note(self, what: str, key: bytes, body: bytes) -> None:
        """Count one difference; the first few are named."""
        setattr(self, what, getattr(self, what) + 1)
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{what}: {view.line(key, body)}")


class Audit:
    """One comparison of the own flows with a kernel's."""

    __slots__ = ("_accepts", "_own", "_roll", "_suspects", "_take", "found")

    def __init__(self, own: Own, accepts: Accepts, take: Take | None = None) -> None:
        """`take` brings in what is missing; without a filter `own` does that itself."""
        self.found = Findings()
        self._own = own
        self._accepts = accepts
        self._take: Take = own.apply if take is None else take
        self._roll = RollCall()
        self._suspects: dict[bytes, None] = {}
        self._roll.begin(chain(own.flows.bodies, own.planted))

    def note(self, limit: int) -> bool:
        """Note some of what the dump has to show; is there more to do?"""
        return self._roll.note(limit)

    def compare(self, records: Iterable[Record]) -> None:
        """Take a part of the dump of flows."""
        bodies, planted = self._own.flows.bodies, self._own.planted
        for record in records:
            key, body = record[1], record[2]
            self._roll.saw(key)
            self.found.records += 1
            if key in planted:
                continue
            old = bodies.get(key)
            if old is None:
                if self._accepts(key, body):
                    self._suspects[key] = None
            elif not self._agrees(record) or lengthened(key, old, body):
                self._suspects[key] = None

    @property
    def suspects(self) -> int:
        """How many keys wait for a judgement."""
        return len(self._suspects)

    def take_suspects(self, limit: int) -> list[bytes]:
        """Keys to GET and to `judge` now."""
        keys = list(islice(self._suspects, limit))
        for key in keys:
            del self._suspects[key]
        return keys

    def take_unseen(self, limit: int) -> list[bytes]:
        """The same for what the complete dump did not show; empty: that was all."""
        while keys := self._roll.take(limit):
            wanted = [key for key in keys if self._is_here(key)]
            if wanted:
                return wanted
        return []

    def _is_here(self, key: bytes) -> bool:
        own = self._own
        if key in own.planted:
            return key[6] == FLOW
        return key in own.flows.bodies and key not in own.flows.held

    def judge(
        self, keys: Sequence[bytes], replies: Mapping[bytes, Record], now: float
    ) -> None:
        """What the kernel says of these keys, but for those that events touched."""
        touched = self._own.flows.touched or ()
        for key in keys:
            reply = replies.get(key)
            if key in touched:  # its events come: they and the reply are both right
                if reply is not None and not self._agrees(reply):
                    self._own.lookups[key] = None
            elif reply is None:
                self._is_gone(key, now)
            else:
                self._is_there(reply, now)

    def _agrees(self, record: Record) -> bool:
        return self._own.flows.agrees(record, lenient=True)

    def _is_gone(self, key: bytes, now: float) -> None:
        own = self._own
        if key in own.planted:
            own.uproot(key)
        elif self._is_here(key):
            body = own.flows.bodies[key]
            self.found.note("ended", key, body)
            if own.flows.missed is not None:
                own.flows.missed.append((key, body))
            if dies_with_address(body):
                own.flows.end_later(key, now + EARLY_SWEEP_S)
            else:
                own.flows.end(key)

    def _is_there(self, record: Record, now: float) -> None:
        own = self._own
        _, key, body, ident, mask = record
        old = own.flows.bodies.get(key)
        if key in own.planted or key in own.sown:
            return
        if not self._accepts(key, body):
            if old is not None:
                self.found.note("changed", key, body)
                own.flows.end(key)
        elif old is None:
            self.found.note("unknown", key, body)
            self._take([record], now)
        elif not self._agrees(record):
            self.found.note("changed", key, body)
            self._take([record], now)
        elif lengthened(key, old, body):
            self.found.timers += 1
            own.flows.put(key, body, ident, mask)
