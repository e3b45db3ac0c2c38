"""This kernel's flows and expectations, from its messages.

In: records of events, of replies to GETs and of dumps. Out: both own tables, and
`lookups`, the keys of flows about which only the kernel can say what is true. The rule
of the room: an UPDATE is partial and is merged; what no event tells (sequence
adjustments of NAT helpers, the zone of an expectation) is taken from where it is.
"""

from collections.abc import Iterable, Sequence

from syncd.flows.masquerade import dies_with_address
from syncd.flows.record import (
    BY_PROGRAM,
    CTA_HELP,
    CTA_SEQ_ADJ_ORIG,
    CTA_SYNPROXY,
    CTA_TIMEOUT,
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
)
from syncd.flows.zones import ZonedKeys

from tests.frozen.v1_0.table import KNOWN_TO_PEERS, OwnTable

IPS_SEQ_ADJUST = 0x40  # include/uapi/linux/netfilter/nf_conntrack_common.h
_SEQ_ADJ_BIT = 1 << CTA_SEQ_ADJ_ORIG
_HELP_BIT = 1 << CTA_HELP
_ADJUSTING_BITS = _HELP_BIT | 1 << CTA_SYNPROXY  # who adjusts sequence numbers
_TIMEOUT_BIT = 1 << CTA_TIMEOUT
_EARLY_END = _TIMEOUT_BIT | BY_PROGRAM
EARLY_END_S = 3.0  # in which a demotion may follow the address that left
EARLY_SWEEP_S = 2.0  # the same for an end whose event was lost
_DISTURBED_LIMIT = 1 << 18  # keys that are remembered for the next commit


class Own:
    """Both own tables, and what is to be asked of the kernel."""

    __slots__ = ("_zoned", "expectations", "flows", "ignored", "lookups")

    def __init__(self) -> None:
        self.flows = OwnTable()
        self.expectations = OwnTable()
        self.lookups: dict[bytes, None] = {}
        self.ignored = 0  # records that the filter did not admit
        self._zoned = ZonedKeys()

    def apply(self, records: Sequence[Record], now: float) -> None:
        """Take events and replies to GETs in the order in which they came."""
        flows = self.flows
        bodies, facts, held = flows.bodies, flows.facts, flows.held
        mark = flows.marks.setdefault
        later: list[Record] = []
        for record in records:
            kind, key, body, ident, mask = record
            if kind == UPDATE:
                fact = facts.get(key)
                if fact is None or (fact[0] != ident and fact[0]):
                    self.lookups[key] = None
                    continue
                if fact[1] != mask:
                    if fact[1] & ~mask:
                        body, mask = merge(bodies[key], body)
                    facts[key] = (ident, mask)
                bodies[key] = body
                mark(key, KNOWN_TO_PEERS)
                if held:
                    held.pop(key, None)
                # STATUS stands behind REPLY; its lowest byte has SEQ_ADJUST.
                if (
                    mask & _ADJUSTING_BITS
                    and body[body[0] + 7] & IPS_SEQ_ADJUST
                    and not mask & _SEQ_ADJ_BIT
                ):
                    self.lookups[key] = None
            elif kind == NEW:
                flows.put(key, body, ident, mask)
                self._zoned.note(key, bodies)
            elif kind == END:
                # Time was left, and no program caused it: trap 6 of ctnetlink.md.
                if mask & _EARLY_END == _TIMEOUT_BIT and dies_with_address(body):
                    flows.ended(key, ident, now + EARLY_END_S)
                else:
                    flows.ended(key, ident)
            elif kind == DUMP:
                flows.refresh(record)
                self._zoned.note(key, bodies)
            else:
                later.append(record)
        if flows.touched is not None:
            flows.touched.update([record[1] for record in records])
        if flows.disturbed is not None:
            flows.disturbed.update([record[1] for record in records])
            if len(flows.disturbed) > _DISTURBED_LIMIT:
                flows.disturbed = None
        if later:
            self._apply_expectations(later)

    def begin_dump(self) -> None:
        """A dump of both tables starts."""
        self.flows.begin_dump()
        self.expectations.begin_dump()

    def fill(self, records: Iterable[Record]) -> None:
        """Take a part of a dump of either kind, flows first."""
        for record in records:
            if record[0] == DUMP:
                if not self.flows.fill(record):
                    self.lookups[record[1]] = None
                self._zoned.note(record[1], self.flows.bodies)
            elif record[0] == EXP_DUMP:
                zoned = self._in_zone(record)
                touched = self.expectations.touched
                if touched is not None and record[1] in touched:
                    touched.add(zoned[1])
                else:
                    self._end_others(record[1], zoned)
                self.expectations.fill(zoned)

    def end_dump(self, now: float) -> int:
        """The dump is complete; return how many records were gone.

        The masters of expectations are read once more: an event that was lost may
        have been the only sign of their sequence adjustment.
        """
        gone = self.flows.end_dump(now + EARLY_SWEEP_S) + self.expectations.end_dump()
        for body in self.expectations.bodies.values():
            self._ask_masters(body)
        return gone

    def abort_dump(self) -> None:
        """The dump failed: what it showed so far stays, nothing is swept."""
        self.flows.abort_dump()
        self.expectations.abort_dump()

    def _apply_expectations(self, records: Sequence[Record]) -> None:
        """Expectations after the flows: their masters are known by then."""
        expectations = self.expectations
        for record in records:
            plain = record[1]
            if record[0] == EXP_END:
                key = self._expectation_key(plain, record[3])
                expectations.ended(key, record[3])
            else:
                record = self._in_zone(record)
                key = record[1]
                self._end_others(plain, record)
                if record[0] == EXP_NEW:
                    # NAT of a helper changes the master's sequence adjustment
                    # without an event (ctnetlink.md, section 8): read it now.
                    self._ask_masters(record[2])
                    expectations.put(*record[1:])
                else:
                    expectations.refresh(record)
            if expectations.touched is not None:
                expectations.touched.update((plain, key))

    def _ask_masters(self, expectation_body: bytes) -> None:
        """Look up every flow that may be the master, known or not."""
        plain = master_of(expectation_body)
        self.lookups[plain] = None
        for key in self._zoned.masters(plain, self.flows.bodies):
            self.lookups[key] = None

    def _in_zone(self, record: Record) -> Record:
        """The same expectation under the zone of its master, if that is known.

        Of several flows with the master's tuple the one that has a helper counts.
        """
        kind, key, body, ident, mask = record
        masters = list(self._zoned.masters(master_of(body), self.flows.bodies))
        helped = [m for m in masters if self.flows.facts[m][1] & _HELP_BIT]
        zone = next((_zone_of(m) for m in helped or masters), None)
        return (
            record if zone is None else (kind, with_zone(key, zone), body, ident, mask)
        )

    def _expectation_key(self, plain: bytes, ident: bytes) -> bytes:
        """Under which key an expectation is stored that the kernel names plainly."""
        facts = self.expectations.facts
        if plain in facts:
            return plain
        matches = (key for key in facts if key.startswith(plain))
        return next((key for key in matches if facts[key][0] == ident), plain)

    def _end_others(self, plain: bytes, record: Record) -> None:
        """One expectation has one key, though its master became known late."""
        if not self._zoned:
            return
        facts = self.expectations.facts
        others = [
            key
            for key in facts
            if key != record[1] and key.startswith(plain) and facts[key][0] == record[3]
        ]
        for key in others:
            self.expectations.end(key)


def _zone_of(flow_key: bytes) -> bytes | None:
    """The 2 bytes of a flow key's CTA_ZONE."""
    end = 4 + (flow_key[4] | flow_key[5] << 8)
    return flow_key[end + 4 : end + 6] if end < len(flow_key) else None
