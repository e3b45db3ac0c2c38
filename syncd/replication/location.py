"""Which records differ: the sender lists what it told, the holder compares and asks.

In: the buckets that differ. Out: inventories, and the few records that are told again
or dropped. An inventory is a DATA frame without records: a span of short names of keys,
and of every record in that span, as it was told up to this frame, its short name and
short value. The inventories of one burst leave one after the other, nothing between
them, so each one is exact at its place in the stream. A holder that misses nothing
before it drops what is not listed and asks for what it has not, or has otherwise.

The rule of the room: an error here costs a record told once too often, never one lost;
what was missed is found by the next comparison.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from syncd.flows.digest import (
    ALL_BUCKETS,
    Chosen,
    Span,
    bucket_of,
    choose,
    named,
    short_name,
    short_names,
    spans_of,
)
from syncd.flows.own import Own
from syncd.replication.frame import Inventory, Numbered
from syncd.replication.outbox import Outbox

if TYPE_CHECKING:
    from syncd.replication.peer import Peer

_ENTRY = struct.Struct(">II")
_NAME_BYTES = 5  # of a short name in a HELLO
_BURST_FRAMES = 32
_ENVELOPE_BYTES = 64  # of an inventory frame around its entries
_ASKS_LIMIT = 128  # names in one HELLO
_HELLO_BYTES = 350  # of a HELLO about one peer, without names
FAR_APART = 1024  # records to ask for: a resync is shorter


def told_records(own: Own) -> Iterator[tuple[bytes, bytes]]:
    """Everything that the frames have told so far."""
    for table in (own.flows, own.expectations):
        marks = table.marks
        for record in table.bodies.items():
            if record[0] not in marks:
                yield record
        for key, body in table.marks.items():
            if body:
                yield key, body


def held_records(peer: "Peer") -> Iterator[tuple[bytes, bytes]]:
    """Everything that we hold of a peer."""
    return chain(peer.flows.bodies.items(), peer.expectations.bodies.items())


@dataclass(slots=True)
class Lister:
    """The sender's side: which spans are still to be listed."""

    spans: list[Span] = field(default_factory=list)

    def want(self, buckets: int) -> None:
        """Some peer differs in these buckets."""
        self.spans = spans_of(buckets)

    def burst(self, outbox: Outbox, own: Own) -> list[Numbered]:
        """The next inventories, as many as the window has room for."""
        room = min(outbox.window_frames - len(outbox.unacked), _BURST_FRAMES)
        capacity = max((outbox.payload_bytes - _ENVELOPE_BYTES) // _ENTRY.size, 1)
        if room <= 0:
            return []
        records = sorted(self._wanted(outbox, own))
        frames = []
        while self.spans and room:
            first, last = self.spans[0]
            part = [record for record in records if first <= record[0] <= last]
            for at in range(0, max(len(part), 1), capacity):
                if not room:
                    break
                upto = part[at + capacity : at + capacity + 1]
                end = upto[0][0] - 1 if upto else last
                room -= 1
                frames.append(_packed(outbox, (first, end), part[at : at + capacity]))
                first = end + 1
            self.spans[0] = (first, last)
            if first > last:
                del self.spans[0]
        return frames

    def _wanted(self, outbox: Outbox, own: Own) -> list[tuple[int, int]]:
        """Short names of what was told, in the buckets that are left.

        Their sums are counted afresh by the way.
        """
        buckets = 0
        for first, last in self.spans:
            for bucket in range(bucket_of(first), bucket_of(last) + 1):
                buckets |= 1 << bucket
        chosen = choose(told_records(own), buckets)
        outbox.told.recount(chosen, buckets)
        return [short_names(record) for record in chosen]


def _packed(outbox: Outbox, span: Span, entries: Iterable[tuple[int, int]]) -> Numbered:
    blob = b"".join(_ENTRY.pack(name, value) for name, value in entries)
    return outbox.pack_proof(inventory=(*span, blob))


def mark_asked(own: Own, names: set[int]) -> int:
    """A peer asks for the records with these short names: mark them; how many."""
    count = 0
    for table in (own.flows, own.expectations):
        keys = [key for key in table.bodies if short_name(key) in names]
        table.mark_again(keys)
        count += len(keys)
    return count


@dataclass(slots=True)
class Inquiry:
    """The holder's side, about one peer's tables."""

    asks: list[int] = field(default_factory=list)  # in this round
    _index: dict[int, list[Chosen]] = field(default_factory=dict)
    _frame: int = 0  # number of the latest inventory

    def begin_round(self) -> None:
        """Another comparison was made: what is still different is asked for anew."""
        self.asks = []
        self._index = {}

    def compare(
        self, peer: "Peer", number: int, inventory: Inventory, buckets: int
    ) -> list[bytes]:
        """Take frame `number`; drop what is too many, note what to ask for.

        Returns the keys that were dropped. Buckets that are equal here may be listed
        for somebody else.
        """
        if number != self._frame + 1 or not self._index:
            self._look_through(peer, buckets)
        self._frame = number
        first, last, blob = inventory
        theirs: dict[int, list[int]] = {}
        for name, value in _ENTRY.iter_unpack(blob):
            theirs.setdefault(name, []).append(value)
        extra: list[bytes] = []
        asks = []
        for name, records in self._index.items():
            if first <= name <= last:
                if name not in theirs:
                    extra += [key for _, key, _ in records]
                    continue
                ours = sorted(short_names(record)[1] for record in records)
                if ours != sorted(theirs[name]):
                    asks.append(name)
        asks += [
            name
            for name in theirs
            if buckets >> bucket_of(name) & 1 and name not in self._index
        ]
        peer.flows.drop(extra)
        peer.expectations.drop(extra)
        self.asks += asks
        return extra

    def _look_through(self, peer: "Peer", buckets: int) -> None:
        """Our records in these buckets; their sums are counted afresh."""
        chosen = audit(peer, buckets)
        self._index = {}
        for record in chosen:
            self._index.setdefault(short_names(record)[0], []).append(record)

    def first_asks(self, payload_bytes: int) -> tuple[int, ...]:
        """The names to ask for, as many as a HELLO carries."""
        room = (payload_bytes - _HELLO_BYTES) // _NAME_BYTES
        return tuple(self.asks[: min(max(room, 8), _ASKS_LIMIT)])


def audit_all(peer: "Peer") -> None:
    """Count all buckets afresh."""
    peer.held.recount(named(held_records(peer)), ALL_BUCKETS)


def audit(peer: "Peer", buckets: int) -> list[Chosen]:
    """Count buckets afresh: a record that changed in silence shows. Their records."""
    chosen = choose(held_records(peer), buckets)
    peer.held.recount(chosen, buckets)
    return chosen
