"""A kernel in small for warm standbys: it takes requests, and packets meet its entries.

In: whole requests, as `restore` builds them. Out: refusals and replies. The rule: what
the real kernel does with timers and status bits, and nothing about NAT.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from syncd.flows import nla
from syncd.flows.own import Own
from syncd.flows.planting import PlantingPlan
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    CANONICAL,
    CTA_STATUS,
    CTA_TIMEOUT,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    DUMP,
    END,
    UPDATE,
    Record,
)
from syncd.replication.standby import Standby
from syncd.replication.steps import Task

Answer = tuple[list[tuple[int, int, str]], list[tuple[int, bytes]]]
IDENT = b"\0\0\0\x63"


@dataclass(slots=True)
class Entry:
    """One flow: reply tuple and status as attributes, and when it ends."""

    reply: bytes
    status: int
    ends_at: float

    def body(self, now: float) -> bytes:
        left = max(int(self.ends_at - now), 0)
        status = nla.tlv(CTA_STATUS, self.status.to_bytes(4))
        return self.reply + status + nla.tlv(CTA_TIMEOUT, left.to_bytes(4))


class Kernel:
    """Holds entries by key; `room` is how many more it takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.room = 1 << 30
        self.entries: dict[bytes, Entry] = {}
        self.created = self.deleted = self.changed = 0

    def answer(self, messages: Sequence[bytes]) -> Answer:
        refusals, replies = [], []
        for index, message in enumerate(messages):
            code, reply = self._answer_one(message)
            if code:
                refusals.append((index, code, ""))
            elif reply:
                replies.append((index, reply))
        return refusals, replies

    def _answer_one(self, message: bytes) -> tuple[int, bytes]:
        kind = int.from_bytes(message[4:6], "little")
        flags = int.from_bytes(message[6:8], "little")
        sent = nla.attributes(message, 20)
        key = message[16:20] + sent[CTA_TUPLE_ORIG]
        entry = self.entries.get(key)
        if kind == 0x100 and flags & 0x400:
            return self._create(key, sent), b""
        if entry is None:
            return errno.ENOENT, b""
        if kind == 0x102:
            self.deleted += 1
            del self.entries[key]
        elif kind == 0x101:
            body = key[4:] + entry.body(self.now) + nla.tlv(12, IDENT)
            head = (20 + len(body)).to_bytes(4, "little") + b"\0\x01\x02\0"
            return 0, head + bytes(8) + key[:4] + body
        else:
            self.changed += 1
            if CTA_TIMEOUT in sent:
                entry.ends_at = self.now + int.from_bytes(sent[CTA_TIMEOUT][4:])
            if CTA_STATUS in sent:
                entry.status |= int.from_bytes(sent[CTA_STATUS][4:])
        return 0, b""

    def _create(self, key: bytes, sent: dict[int, bytes]) -> int:
        if key in self.entries:
            return errno.EEXIST
        if self.room <= 0:
            return errno.ENOMEM
        self.room -= 1
        self.created += 1
        status = int.from_bytes(sent[CTA_STATUS][4:])
        ends_at = self.now + int.from_bytes(sent[CTA_TIMEOUT][4:])
        self.entries[key] = Entry(sent[CTA_TUPLE_REPLY], status, ends_at)
        return 0

    def show(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The answers to look-ups of these flows."""
        found = dict(self.answer(_requests(keys, 0x101))[1])
        return [found.get(index) for index in range(len(keys))]

    def left_s(self, key: bytes) -> float:
        return self.entries[key].ends_at - self.now

    def expire(self, own: Own) -> None:
        """Timers that have run out end their entries, and say so."""
        gone = [key for key, e in self.entries.items() if e.ends_at <= self.now]
        for key in gone:
            body = self.entries.pop(key).body(self.now)
            own.apply([(END, key, body, IDENT, 0)], self.now)

    def packet(self, key: bytes, timeout_s: int = 180) -> None:
        """A packet that sets the timer: no event."""
        self.entries[key].ends_at = self.now + timeout_s

    def change(self, own: Own, key: bytes, status: int) -> None:
        """A packet that changes more: an event, and what looking it up tells."""
        entry = self.entries[key]
        entry.status |= status
        mask = CANONICAL | 1 << 2 | 1 << 3 | 1 << 7
        record: Record = (UPDATE, key, entry.body(self.now), IDENT, mask)
        own.apply([record], self.now)
        if key in own.lookups:
            del own.lookups[key]
            own.apply([(DUMP, *record[1:])], self.now)


def work(standby: Standby, kernel: Kernel, *, answers: bool = True) -> bool:
    """One beat, until nothing is left to be done, or no plan is answered."""
    standby.look(kernel.now)
    while (step := standby.next_step(kernel.now)) is not None:
        if step.plan is not None:
            if not answers:
                standby.again(step, kernel.now)
                return False
            while (batch := step.plan.next_batch()) is not None:
                step.plan.report(batch, *kernel.answer(batch.messages))
            standby.planted(step.plan, kernel.now)
            continue
        if step.task is Task.LOOK:
            standby.looked(step.keys, kernel.show(step.keys), kernel.now)
        elif step.task is Task.DELETE:
            kernel.answer(_requests(step.keys, 0x102))
            standby.deleted(step.keys)
        else:
            kernel.answer(step.messages)
            standby.advanced(step.keys)
    return True


def next_plan(standby: Standby, kernel: Kernel) -> PlantingPlan:
    """What is to be planted now, and nobody has asked the kernel for yet."""
    standby.look(kernel.now)
    step = standby.next_step(kernel.now)
    assert step is not None
    assert step.plan is not None
    return step.plan


def carry_out(plan: PlantingPlan, kernel: Kernel) -> None:
    """Ask the kernel for all of it; the standby has not heard of it yet."""
    for batch in iter(plan.next_batch, None):
        plan.report(batch, *kernel.answer(batch.messages))


def _requests(keys: Sequence[bytes], kind: int) -> list[bytes]:
    """A request for each key."""
    head = kind.to_bytes(2, "little") + b"\1\0" + bytes(8)
    return [(16 + len(key)).to_bytes(4, "little") + head + key for key in keys]


def records(kernel: Kernel) -> list[Record]:
    """What a dump shows."""
    reader = RecordReader()
    messages = []
    for key, entry in kernel.entries.items():
        body = key[4:] + entry.body(kernel.now) + nla.tlv(12, IDENT)
        head = (20 + len(body)).to_bytes(4, "little") + b"\0\x01\x02\0"
        messages.append(head + bytes(8) + key[:4] + body)
    return reader.read(messages)
