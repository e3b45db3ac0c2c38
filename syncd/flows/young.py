"""Flows that nobody is told about before they have lived for a while.

In: records of flows that are young, and what becomes of them. Out: those that are old
enough, in the order in which they were first seen. The rule: most of them end first, so
one that waits costs its own events and nothing else. They stand in slots of time, the
oldest first; nothing is looked through while no slot is due.
"""

from collections import deque
from itertools import islice

from syncd.flows.record import DUMP, Record, merge
from syncd.flows.rollcall import RollCall

_AT_ONCE = 8192
_SLOT_S = 0.25  # flows that were first seen within it come of age together

_Slot = dict[bytes, None]  # the keys of those that still wait


class Young:
    """What waits: `flows` maps key to (its slot, CTA_ID, body, mask)."""

    __slots__ = ("_roll", "_slots", "flows", "min_age_s", "never_told")

    def __init__(self, min_age_s: float) -> None:
        self.flows: dict[bytes, tuple[_Slot, bytes, bytes, int]] = {}
        self.min_age_s = min_age_s
        self.never_told = 0  # flows that ended first
        self._slots: deque[tuple[float, _Slot]] = deque()  # with the start of each
        self._roll = RollCall()  # of the dump that is going on

    def wait(self, record: Record, now: float) -> None:
        """A flow, or another one on its tuple, is young: its age counts from now."""
        key = record[1]
        self.forget(key)
        slots = self._slots
        if not slots or now >= slots[-1][0] + _SLOT_S:
            slots.append((now, {}))
        slot = slots[-1][1]
        slot[key] = None
        self.flows[key] = (slot, record[3], record[2], record[4])

    def renew(self, record: Record, now: float) -> None:
        """What the kernel says in full of a flow that waits."""
        slot, ident, _, _ = self.flows[record[1]]
        if ident != record[3]:
            self.wait(record, now)
        else:
            self.flows[record[1]] = (slot, ident, record[2], record[4])

    def update(self, record: Record) -> bool:
        """Lay an UPDATE over a flow that waits; False if it is about another one."""
        key = record[1]
        slot, ident, body, mask = self.flows[key]
        if ident != record[3]:
            self.forget(key)
            return False
        if mask & ~record[4]:
            body, mask = merge(body, record[2])
        else:
            body, mask = record[2], record[4]
        self.flows[key] = (slot, ident, body, mask)
        return True

    def end(self, key: bytes, ident: bytes) -> None:
        """A DESTROY: it counts only for the entry with that CTA_ID."""
        known = self.flows[key]
        if known[1] == ident or not known[1] or not ident:
            self.forget(key)
            self.never_told += 1

    def forget(self, key: bytes) -> None:
        """This key waits no longer, if it did."""
        known = self.flows.pop(key, None)
        if known is not None:
            del known[0][key]

    def release(self, key: bytes) -> Record:
        """A flow need not wait any longer: what the kernel would say of it."""
        _, ident, body, mask = self.flows[key]
        self.forget(key)
        return DUMP, key, body, ident, mask

    def due(self, now: float, limit: int) -> list[Record]:
        """The next flows that are old enough; if there are `limit`, ask again."""
        records: list[Record] = []
        while len(records) < limit and self.deadline() <= now:
            slot = self._slots[0][1]
            keys = list(islice(slot, limit - len(records)))
            records += [self.release(key) for key in keys]
            if not slot:
                self._slots.popleft()
        return records

    def deadline(self) -> float:
        """When the next ones are old enough."""
        if not self._slots:
            return float("inf")
        return self._slots[0][0] + _SLOT_S + self.min_age_s

    def begin_dump(self) -> None:
        """A dump starts: what it does not show has ended unheard."""
        self._roll.begin(self.flows)

    def seen(self, key: bytes) -> None:
        """The kernel has this flow."""
        self._roll.saw(key)

    def end_dump(self) -> None:
        """The dump is complete."""
        while keys := self._roll.take(_AT_ONCE):
            for key in keys:
                self.forget(key)

    def abort_dump(self) -> None:
        """The dump failed."""
        self._roll.begin(())
