"""Which records differ: the sender lists what it told, the holder compares and asks.

In: the buckets that differ. Out: inventories, and the few records that are told again
or dropped. An inventory is a DATA frame without records: a span of short names of keys,
and of every record in that span, as it was told up to this frame, its short name and
short value. The inventories of one burst leave one after the other, nothing between
them, so each one is exact at its place in the stream. A holder that misses nothing
before it drops what is not listed and asks for what it has not, or has otherwise.

The rule of the room: an error here costs a record told once too often, never one lost;
what was missed is found by the next comparison. On both sides `Shelves` find the keys
of a bucket, so that no step looks through a whole table.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncd.flows.digest import Span, bucket_of, named, short_names, spans_of
from syncd.flows.own import Own
from syncd.replication.frame import Inventory, Numbered
from syncd.replication.outbox import Outbox
from syncd.replication.shelves import PIECE, Place, Shelves

if TYPE_CHECKING:
    from syncd.replication.peer import Peer

_ENTRY = struct.Struct(">II")
_NAME_BYTES = 5  # of a short name in a HELLO
_BURST_FRAMES = 32
_ENVELOPE_BYTES = 64  # of an inventory frame around its entries
_ASKS_LIMIT = 128  # names in one HELLO
_ASKED_LIMIT = 4096  # names that peers have asked for and that are not looked up yet
_HELLO_BYTES = 350  # of a HELLO about one peer, without names
_IDLE_S = 5.0  # after which the keys of differing buckets are forgotten
_BUCKET_NAMES = 1 << 26  # short names of one bucket
FAR_APART = 1024  # records to ask for: a resync is shorter


@dataclass(slots=True)
class Lister:
    """The sender's side: which spans are still to be listed."""

    spans: list[Span] = field(default_factory=list)
    _wanted: int = 0  # buckets that shall be listed when their keys are found
    _asked: set[int] = field(default_factory=set)  # short names, to be told again
    _shelves: Shelves | None = None
    _uncounted: int = 0  # buckets whose sums are to be counted afresh
    _used_at: float = 0.0

    def want(self, buckets: int) -> None:
        """Some peer differs in these buckets: they are counted, then listed."""
        self._wanted = buckets
        self._uncounted |= buckets

    def ask(self, names: Iterable[int]) -> None:
        """A peer asks for the records with these short names."""
        if len(self._asked) < _ASKED_LIMIT:
            self._asked.update(names)

    def stop(self) -> None:
        """What differs will be told anyway."""
        self.spans, self._wanted = [], 0

    @property
    def idle(self) -> bool:
        """Is nothing wanted that is not listed yet?"""
        return not self.spans and not self._wanted

    @property
    def busy(self) -> bool:
        """Is a step due?"""
        return bool(self._wanted or self._asked)

    def step(self, outbox: Outbox, own: Own, now: float) -> None:
        """Find keys, count a bucket, list or mark what was wanted."""
        if not self.busy:
            if self._shelves is not None and now - self._used_at >= _IDLE_S:
                self._forget()
            return
        self._used_at = now
        shelves = self._prepared(outbox, own)
        if not shelves.ready:
            shelves.step()
        if not shelves.ready:
            return
        if self._uncounted:
            bucket = (self._uncounted & -self._uncounted).bit_length() - 1
            self._uncounted &= self._uncounted - 1
            keys = shelves.keys(bucket)
            records = ((key, _told(own, key)) for key in keys)
            outbox.told.recount(named(r for r in records if r[1]), 1 << bucket)
            return
        self.spans = spans_of(self._wanted) if self._wanted else self.spans
        self._wanted = 0
        for name in self._asked:
            keys = {key for _, key in shelves.span((name, name))}
            for table in (own.flows, own.expectations):
                table.mark_again([key for key in keys if key in table.bodies])
        self._asked.clear()

    def _prepared(self, outbox: Outbox, own: Own) -> Shelves:
        """Shelves for all that is wanted."""
        needed = self._wanted
        for name in self._asked:
            needed |= 1 << bucket_of(name)
        shelves = self._shelves
        if shelves is None or needed & ~shelves.buckets:
            needed |= 0 if shelves is None else shelves.buckets
            flows, expectations = own.flows, own.expectations
            keys = list(flows.bodies)  # 20 ns each
            keys += flows.marks
            keys += expectations.bodies
            keys += expectations.marks
            shelves = self._shelves = Shelves(outbox.told, keys, needed)
            self._uncounted = needed
            if len(keys) <= PIECE // 2:
                shelves.step()
        return shelves

    def _forget(self) -> None:
        if self._shelves is not None:
            self._shelves.close()
        self._shelves, self._uncounted, self.spans = None, 0, []

    def burst(self, outbox: Outbox, own: Own, now: float) -> list[Numbered]:
        """The next inventories, as many as the window has room for."""
        room = min(outbox.window_frames - len(outbox.unacked), _BURST_FRAMES)
        capacity = max((outbox.payload_bytes - _ENVELOPE_BYTES) // _ENTRY.size, 1)
        if room <= 0 or self._shelves is None:
            return []
        self._used_at = now
        frames: list[Numbered] = []
        while self.spans and room > len(frames):
            first, last = self.spans[0]
            entries: list[tuple[int, int]] = []
            upto = first - 1
            while upto < last and len(entries) < (room - len(frames)) * capacity:
                begin = upto + 1
                upto = min(last, (begin // _BUCKET_NAMES + 1) * _BUCKET_NAMES - 1)
                places = self._shelves.span((begin, upto))
                left = (room - len(frames)) * capacity - len(entries)
                if len(places) > left and places[left][0] > begin:
                    upto = places[left][0] - 1
                entries += _entries(own, [p for p in places[:left] if p[0] <= upto])
            for at in range(0, max(len(entries), 1), capacity):
                if len(frames) == room:
                    break
                rest = entries[at + capacity : at + capacity + 1]
                end = rest[0][0] - 1 if rest else upto
                part = entries[at : at + capacity]
                frames.append(_packed(outbox, (first, end), part))
                first = end + 1
            self.spans[0] = (first, last)
            if first > last:
                del self.spans[0]
        return frames


def _entries(own: Own, places: Iterable[Place]) -> list[tuple[int, int]]:
    """Short names and values of what was told, in order."""
    records = ((key, _told(own, key)) for _, key in places)
    told = named(record for record in records if record[1])
    return [short_names(record) for record in told]


def _told(own: Own, key: bytes) -> bytes:
    """What the frames have told so far of this key, nothing if it has ended."""
    return own.flows.told(key) or own.expectations.told(key)


def _packed(outbox: Outbox, span: Span, entries: Iterable[tuple[int, int]]) -> Numbered:
    blob = b"".join(_ENTRY.pack(name, value) for name, value in entries)
    return outbox.pack_proof(inventory=(*span, blob))


@dataclass(slots=True)
class Inquiry:
    """The holder's side, about one peer's tables."""

    asks: list[int] = field(default_factory=list)  # in this round

    def begin_round(self) -> None:
        """Another comparison was made: what is still different is asked for anew."""
        self.asks = []

    def compare(self, peer: "Peer", inventory: Inventory, buckets: int) -> list[bytes]:
        """Take an inventory; drop what is too many, note what to ask for.

        Returns the keys that were dropped. Buckets that are equal here may be listed
        for somebody else.
        """
        shelves = peer.audit.shelves
        if shelves is None:
            return []
        first, last, blob = inventory
        theirs: dict[int, list[int]] = {}
        for name, value in _ENTRY.iter_unpack(blob):
            theirs.setdefault(name, []).append(value)
        ours: dict[int, list[bytes]] = {}
        for name, key in shelves.span((first, last)):
            if buckets >> bucket_of(name) & 1:
                ours.setdefault(name, []).append(key)
        extra: list[bytes] = []
        asks = []
        for name, keys in ours.items():
            held = [(k, b) for k in keys if (b := _held(peer, k))]
            if name not in theirs:
                extra += [key for key, _ in held]
                continue
            values = sorted(short_names(record)[1] for record in named(held))
            if values != sorted(theirs[name]):
                asks.append(name)
        asks += [n for n in theirs if buckets >> bucket_of(n) & 1 and n not in ours]
        peer.flows.drop(extra)
        peer.expectations.drop(extra)
        self.asks += asks
        return extra

    def first_asks(self, payload_bytes: int) -> tuple[int, ...]:
        """The names to ask for, as many as a HELLO carries."""
        room = (payload_bytes - _HELLO_BYTES) // _NAME_BYTES
        return tuple(self.asks[: min(max(room, 8), _ASKS_LIMIT)])


def _held(peer: "Peer", key: bytes) -> bytes:
    return peer.flows.bodies.get(key) or peer.expectations.bodies.get(key, b"")
