"""The shelves: key -> body, one `Table` per owner and kind of record.

In: records that `record.py` has read (own table), or keys and bodies that a frame
carried (a peer's table). Out: the newest body of every key, and for the own tables
the change marks: which keys a peer has not been told about in their present state.

The rule of the room: a table holds state, not history. An end is an absent key with
a change mark; a mark says "send whatever is there now". A key that nobody was told
about (mark `NEW_TO_PEERS`) and that ends again leaves no trace.
"""

from collections.abc import Iterable, Sequence

from syncd.flows.record import (
    CTA_SEQ_ADJ_ORIG,
    DUMP,
    END,
    EXP_DUMP,
    EXP_END,
    EXP_NEW,
    NEW,
    UPDATE,
    Record,
    master_of,
    merge,
    with_zone,
    without_timeout,
    zone_of,
)

# The value of a change mark: has any peer ever been sent this key?
NEW_TO_PEERS = True
KNOWN_TO_PEERS = False

IPS_SEQ_ADJUST = 0x40  # include/uapi/linux/netfilter/nf_conntrack_common.h
_SEQ_ADJ_BIT = 1 << CTA_SEQ_ADJ_ORIG
_ANY_ATTRIBUTE = (1 << 32) - 1  # no update has them all: the next one is merged


class Table:
    """A peer's records of one kind, as they were told to us.

    `bodies` maps key to body. `told_s` maps key to the whole second (of the local
    monotonic clock) at which the body came: a timeout is estimated from it. `stale`
    holds, during a resync, the keys that have not been told again yet.
    """

    __slots__ = ("bodies", "stale", "told_s")

    def __init__(self) -> None:
        self.bodies: dict[bytes, bytes] = {}
        self.told_s: dict[bytes, int] = {}
        self.stale: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.bodies)

    def put(self, flat: Sequence[bytes], now: float) -> None:
        """Store `[key, body, key, body, ...]`."""
        keys = flat[::2]
        self.bodies.update(zip(keys, flat[1::2], strict=True))
        self.told_s.update(dict.fromkeys(keys, int(now)))
        if self.stale:
            self.stale.difference_update(keys)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forget the keys; one that is not there is fine."""
        for key in keys:
            if self.bodies.pop(key, None) is not None:
                del self.told_s[key]
                self.stale.discard(key)

    def begin_sweep(self) -> None:
        """From now on a key counts as stale until it is told again."""
        self.stale = set(self.bodies)

    def end_sweep(self) -> int:
        """Forget what was not told again since `begin_sweep`; return how many."""
        stale, self.stale = self.stale, set()
        self.drop(stale)
        return len(stale)

    def clear(self) -> int:
        """Forget all; return how many records that were."""
        count = len(self.bodies)
        self.bodies.clear()
        self.told_s.clear()
        self.stale = set()
        return count

    def differing(self, flat: Sequence[bytes]) -> int:
        """How many of `[key, body, ...]` are not stored just like that."""
        get = self.bodies.get
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return sum(get(key) != body for key, body in pairs)


class OwnTable:
    """This kernel's records of one kind, kept up to date from its messages.

    `facts` maps key to (CTA_ID bytes or b"", bit set of the attributes in the body).
    `marks` maps a changed key to `NEW_TO_PEERS` or `KNOWN_TO_PEERS`. While `holding`
    ends are not carried out but noted in `held` (see `release`): the node has given
    its traffic away, and what its kernel forgets now lives on elsewhere.
    """

    __slots__ = ("bodies", "facts", "held", "holding", "marks", "seen", "touched")

    def __init__(self) -> None:
        self.bodies: dict[bytes, bytes] = {}
        self.facts: dict[bytes, tuple[bytes, int]] = {}
        self.marks: dict[bytes, bool] = {}
        self.held: dict[bytes, None] = {}
        self.holding = False
        self.touched: set[bytes] | None = None  # by events, since a dump began
        self.seen: set[bytes] = set()  # in the dump that is going on

    def __len__(self) -> int:
        return len(self.bodies)

    def put(self, key: bytes, body: bytes, ident: bytes, mask: int) -> None:
        """Store and mark one record as the kernel has it now."""
        if key not in self.marks:
            self.marks[key] = NEW_TO_PEERS if key not in self.bodies else False
        self.bodies[key] = body
        self.facts[key] = (ident, mask)
        if self.held:
            self.held.pop(key, None)

    def end(self, key: bytes) -> None:
        """The kernel has no such record any more."""
        if self.holding:
            if key in self.bodies:
                self.held[key] = None
            return
        if self.bodies.pop(key, None) is None:
            return
        del self.facts[key]
        if self.marks.get(key, KNOWN_TO_PEERS) is NEW_TO_PEERS:
            del self.marks[key]
        else:
            self.marks[key] = KNOWN_TO_PEERS

    def ended(self, key: bytes, ident: bytes) -> None:
        """A DESTROY event: it counts only for the entry with that CTA_ID."""
        fact = self.facts.get(key)
        if fact is not None and (fact[0] == ident or not fact[0] or not ident):
            self.end(key)

    def refresh(self, record: Record) -> None:
        """A reply to a GET: the present truth; a moved timer alone is no change."""
        _, key, body, ident, mask = record
        old = self.bodies.get(key)
        if old is not None and (
            old == body or without_timeout(old) == without_timeout(body)
        ):
            self.facts[key] = (ident, mask)
            self.held.pop(key, None)
            return
        self.put(key, body, ident, mask)

    def fill(self, record: Record) -> None:
        """A part of a dump: it fills in what events since its begin did not tell."""
        _, key, body, ident, mask = record
        self.seen.add(key)
        if self.touched is None or key not in self.touched:
            self.refresh(record)
            return
        old = self.bodies.get(key)
        if old is None or self.facts[key][0] != ident:
            return
        if mask & ~self.facts[key][1]:
            merged, merged_mask = merge(body, old)
            self.put(key, merged, ident, merged_mask)

    def begin_dump(self) -> None:
        """A dump starts: note what events touch, they are newer than the dump."""
        self.touched = set()
        self.seen = set()

    def end_dump(self) -> int:
        """The dump is complete: sweep what it did not show; return how many."""
        touched = self.touched or set()
        gone = self.bodies.keys() - self.seen - touched - self.held.keys()
        for key in gone:
            self.end(key)
        self.abort_dump()
        return len(gone)

    def abort_dump(self) -> None:
        """No dump is going on any more."""
        self.touched = None
        self.seen = set()

    def release(self) -> int:
        """Carry out the ends that were held back; return how many."""
        self.holding = False
        held, self.held = self.held, {}
        for key in held:
            self.end(key)
        return len(held)

    def adopt(self, records: Sequence[tuple[bytes, bytes, float]]) -> None:
        """Records (key, body, age) that were just put into this kernel.

        Their CTA_ID is not known; the next update of each is merged.
        """
        keys = [key for key, _, _ in records]
        self.marks.update(dict.fromkeys(keys, KNOWN_TO_PEERS))
        self.bodies.update([record[:2] for record in records])
        self.facts.update(dict.fromkeys(keys, (b"", _ANY_ATTRIBUTE)))
        if self.held:
            for key in keys:
                self.held.pop(key, None)

    def clear(self) -> int:
        """Forget all; peers are told that each one ended."""
        count = len(self.bodies)
        self.marks.update(dict.fromkeys(self.bodies, KNOWN_TO_PEERS))
        self.bodies.clear()
        self.facts.clear()
        self.held.clear()
        return count


class Own:
    """Both own tables, and what is to be asked of the kernel.

    `lookups` are flow keys whose events did not carry the whole state.
    """

    __slots__ = ("expectations", "flows", "ignored", "lookups", "zoned")

    def __init__(self) -> None:
        self.flows = OwnTable()
        self.expectations = OwnTable()
        self.lookups: dict[bytes, None] = {}
        self.zoned: dict[bytes, bytes] = {}  # key without its zone -> key
        self.ignored = 0  # records that the filter did not admit

    def apply(self, records: Sequence[Record]) -> None:
        """Take events and replies to GETs in the order in which they came."""
        flows = self.flows
        bodies, facts, marks = flows.bodies, flows.facts, flows.marks
        later: list[Record] = []
        for record in records:
            kind, key, body, ident, mask = record
            if kind == UPDATE:
                fact = facts.get(key)
                if fact is None or (fact[0] != ident and fact[0]):
                    self.lookups[key] = None
                    continue
                if fact[1] & ~mask:
                    body, mask = merge(bodies[key], body)
                    facts[key] = (ident, mask)
                elif fact[1] != mask:
                    facts[key] = (ident, mask)
                bodies[key] = body
                if key not in marks:
                    marks[key] = KNOWN_TO_PEERS
                if flows.held:
                    flows.held.pop(key, None)
                # STATUS stands behind REPLY; its lowest byte has SEQ_ADJUST.
                if body[body[0] + 7] & IPS_SEQ_ADJUST and not mask & _SEQ_ADJ_BIT:
                    self.lookups[key] = None
            elif kind == NEW:
                flows.put(key, body, ident, mask)
                if len(key) > 4 + key[4]:
                    self._note_zone(key)
            elif kind == END:
                flows.ended(key, ident)
            elif kind == DUMP:
                flows.refresh(record)
                if zone_of(key) is not None:
                    self._note_zone(key)
            else:
                later.append(record)
        if flows.touched is not None:
            flows.touched.update(record[1] for record in records)
        if later:
            self._apply_expectations(later)

    def fill(self, records: Iterable[Record]) -> None:
        """Take a part of a dump of either kind."""
        for record in records:
            if record[0] == DUMP:
                self.flows.fill(record)
                if zone_of(record[1]) is not None:
                    self._note_zone(record[1])
            elif record[0] == EXP_DUMP:
                self.expectations.fill(self._zoned(record))

    def _note_zone(self, key: bytes) -> None:
        self.zoned[_without_zone(key)] = key
        if len(self.zoned) > 2 * len(self.flows.bodies) + 64:
            self.zoned = {
                _without_zone(k): k for k in self.flows.bodies if zone_of(k) is not None
            }

    def master_key(self, expectation_body: bytes) -> bytes | None:
        """The flow that an expectation hangs on, or None when it is not known.

        Expectation messages carry no zone; the master flow has it.
        """
        base = master_of(expectation_body)
        return base if base in self.flows.bodies else self.zoned.get(base)

    def _zoned(self, record: Record) -> Record:
        """The same expectation under the zone of its master."""
        kind, key, body, ident, mask = record
        master = self.master_key(body)
        zone = zone_of(master) if master is not None else None
        return (kind, with_zone(key, zone), body, ident, mask) if zone else record

    def _apply_expectations(self, records: Sequence[Record]) -> None:
        """Expectations after the flows: their masters are known by then."""
        expectations = self.expectations
        for record in records:
            if record[0] == EXP_END:
                self._expectation_ended(record[1], record[3])
                continue
            if record[0] == EXP_NEW:
                # NAT of a helper changes the master's sequence adjustment without
                # an event (ctnetlink.md, section 8): read the master now.
                master = self.master_key(record[2])
                self.lookups[master or master_of(record[2])] = None
            record = self._zoned(record)
            if record[0] == EXP_NEW:
                expectations.put(*record[1:])
            else:
                expectations.refresh(record)
            if expectations.touched is not None:
                expectations.touched.add(record[1])

    def _expectation_ended(self, key: bytes, ident: bytes) -> None:
        expectations = self.expectations
        if key not in expectations.bodies:
            matches = (k for k in expectations.bodies if k.startswith(key))
            key = next((k for k in matches if expectations.facts[k][0] == ident), key)
        expectations.ended(key, ident)
        if expectations.touched is not None:
            expectations.touched.add(key)


def _without_zone(key: bytes) -> bytes:
    """The key of the same tuple in zone 0: CTA_ZONE (8 bytes) is the last part."""
    return key[:-8] if zone_of(key) is not None else key
