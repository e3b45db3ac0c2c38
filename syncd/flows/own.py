"""This kernel's flows and expectations, from its messages.

In: records of events, of replies to GETs and of dumps. Out: both own tables, and
`lookups`, the keys of flows about which only the kernel can say what is true. The rule
of the room: an UPDATE is partial and is merged; what no event tells (sequence
adjustments of NAT helpers, the zone of an expectation) is taken from where it is.

A planted record is one that warm standby wrote into this kernel for a peer: it is not
own, whatever a dump or a reply shows, until an event shows that it lives here. Its end
is told to nobody: it is `uprooted`, and stays planted until somebody has asked for it.
"""

from collections.abc import Iterable, Sequence

from syncd.flows.helped import Helped, Timers, is_rewritten
from syncd.flows.masquerade import dies_with_address
from syncd.flows.record import (
    BY_PROGRAM,
    CTA_HELP,
    CTA_LABELS,
    CTA_SEQ_ADJ_ORIG,
    CTA_STATUS,
    CTA_SYNPROXY,
    CTA_TIMEOUT,
    CTA_TUPLE_MASTER,
    DUMP,
    END,
    EXP_END,
    EXP_NEW,
    EXPECTATION,
    FLOW,
    NEW,
    UPDATE,
    Record,
    master_of,
    merge,
    plain_key,
    with_zone,
    without_timeout,
)
from syncd.flows.rollcall import RollCall
from syncd.flows.table import OwnTable
from syncd.flows.wildcard import REFUSE, Wildcards, is_wildcard
from syncd.flows.zones import ZonedKeys, zone_of_original

IPS_SEQ_ADJUST = 0x40  # include/uapi/linux/netfilter/nf_conntrack_common.h
_SEQ_ADJ_BIT, _LABELS_BIT = 1 << CTA_SEQ_ADJ_ORIG, 1 << CTA_LABELS
_STATUS_BIT, _NAT_CLASH = 1 << CTA_STATUS, 0x1000 >> 8  # IPS_NAT_CLASH, its byte
_HELP_BIT = 1 << CTA_HELP
_ADJUSTING_BITS = _HELP_BIT | 1 << CTA_SYNPROXY  # who adjusts sequence numbers
_TIMEOUT_BIT = 1 << CTA_TIMEOUT
_EARLY_END = _TIMEOUT_BIT | BY_PROGRAM
EARLY_END_S = 3.0  # in which a demotion may follow the address that left
EARLY_SWEEP_S = 2.0  # the same for an end whose event was lost
# C integers when compiled, where those of record.py are objects.
_UPDATE, _NEW, _END, _DUMP, _SEQ_ADJUST = UPDATE, NEW, END, DUMP, IPS_SEQ_ADJUST
_HELPED = _HELP_BIT
# What the message of an end lacks.
_TOLD_EARLIER = 1 << CTA_HELP | 1 << CTA_LABELS | 1 << CTA_TUPLE_MASTER
# An end, the body that was own until then (None: it was not; empty: it has nothing that
# the message lacks), was it planted, adopted?
End = tuple[Record, bytes | None, bool, bool]
_DISTURBED_LIMIT = 1 << 18  # keys that are remembered for the next commit


class Own:
    """Both own tables, and what is to be asked of the kernel."""

    __slots__ = (
        "_announcing",
        "_doubted",
        "_helped",
        "_timers",
        "_told_expectations",
        "_zoned",
        "ended",
        "expectations",
        "flows",
        "ignored",
        "lookups",
        "met",
        "planted",
        "roll",
        "sown",
        "uprooted",
        "wildcards",
    )

    def __init__(self) -> None:
        self.flows = OwnTable()
        self.expectations = OwnTable()
        self.lookups: dict[bytes, None] = {}
        self.ignored = 0  # records that the filter did not admit
        # If somebody wants to know: each end of a flow, and what was known of it.
        self.ended: list[End] | None = None
        # Of expectations as the kernel names them: without a zone.
        self.planted: dict[bytes, bytes] = {}  # key -> body as it was written
        self.sown: set[bytes] = set()  # being planted: a dump may show them already
        self.uprooted: dict[bytes, None] = {}  # maybe without an entry now
        self.met: list[bytes] = []  # of these, expectations that no program has ended
        self.roll = RollCall()  # of the planted, for the dump that is going on
        self._zoned = ZonedKeys()
        self._announcing: set[bytes] = set()  # masters, during a dump
        # Flows, during a dump: who had their tuple later has ended, they may have too.
        self._doubted: set[bytes] = set()
        self._told_expectations: set[bytes] = set()  # CTA_IDs, by events during a dump
        self.wildcards = Wildcards()
        self._helped = Helped()
        self._timers = Timers()

    def apply(self, records: Sequence[Record], now: float) -> None:
        """Take events and replies to GETs in the order in which they came."""
        flows, planted, uprooted = self.flows, self.planted, self.uprooted
        bodies, facts = flows.bodies, flows.facts
        held, marks, ended = flows.held, flows.marks, self.ended
        changes = flows.changes
        later: list[Record] = []
        if flows.touched is not None:
            self._note_touched(records)
        if flows.disturbed is not None:
            self._note_disturbed(records)
        for record in records:
            kind, key, body, ident, mask = record
            if kind == _UPDATE:
                fact = facts.get(key)
                if fact is None or (fact[0] != ident and fact[0]):
                    if not planted or self._lives(key, mask):
                        self.lookups[key] = None
                    continue
                known = fact[1]
                if known != mask:
                    if known & ~mask:
                        body, mask = self._merged(key, body, known & ~mask)
                    facts[key] = (ident, mask)
                if key not in marks:
                    marks[key] = bodies[key]
                if changes is not None:
                    changes.note(key, bodies[key], body)
                bodies[key] = body
                if held and key in held:  # we may have deleted it since
                    self.lookups[key] = None
                # STATUS stands behind REPLY; its lowest byte has SEQ_ADJUST.
                if mask & _ADJUSTING_BITS and (
                    (body[body[0] + 7] & _SEQ_ADJUST and not mask & _SEQ_ADJ_BIT)
                    or is_rewritten(key, body, mask)
                ):
                    self.lookups[key] = None
            elif kind == _NEW:
                flows.put(key, body, ident, mask)
                self._zoned.note(key, bodies)
                if mask & _HELPED:
                    self._helped.note(key, body, mask)
                if planted or uprooted:
                    self.claim(key)
            elif kind > _DUMP:
                later.append(record)
            elif kind == _END:
                if ended is not None:
                    self._note_ended(record)
                self._end(record, now)
            elif not planted or key not in planted:
                flows.refresh(record)
                self._note(key, body, mask)
        if later:
            self._apply_expectations(later)

    def _end(self, record: Record, now: float) -> None:
        """A DESTROY event of a flow."""
        _, key, body, ident, mask = record
        if mask & _STATUS_BIT and body[body[0] + 6] & _NAT_CLASH:
            return  # a hidden twin of the flow with this key, see kernel-notes.md
        if key in self.sown:
            self.uprooted[key] = None
        if key in self.planted:
            self.uproot(key)
        # Time was left, and no program caused it: trap 6 of ctnetlink.md.
        elif mask & _EARLY_END == _TIMEOUT_BIT and dies_with_address(body):
            self.flows.ended(key, ident, now + EARLY_END_S)
        else:
            self.flows.ended(key, ident)

    def _note_ended(self, record: Record) -> None:
        """Whoever keeps accounts wants to know what was known before the end."""
        assert self.ended is not None
        _, key, _, ident, _ = record
        flows = self.flows
        fact, adopted = flows.facts.get(key), flows.adopted
        if fact is None or (fact[0] != ident and fact[0] and ident):
            self.ended.append((record, None, key in self.planted, False))
            return
        taken = adopted is not None and key in adopted
        if taken and adopted is not None:
            adopted.discard(key)
        known = flows.bodies[key] if fact[1] & _TOLD_EARLIER else b""
        self.ended.append((record, known, False, taken))

    def _note(self, key: bytes, body: bytes, mask: int) -> None:
        """What has to be known of a flow beside what its table keeps."""
        self._zoned.note(key, self.flows.bodies)
        if mask & _HELPED:
            self._helped.note(key, body, mask)

    def adopt(self, records: Sequence[tuple[bytes, bytes, float]]) -> None:
        """Flows and expectations were just put into this kernel; see `OwnTable`."""
        flows = [record for record in records if record[0][6] == FLOW]
        self.flows.adopt(flows)
        for key, _, _ in flows:  # expectations of a dump are in the zone of theirs
            self._zoned.note(key, self.flows.bodies)
        if self.planted:
            for key, _, _ in records:
                self.claim(plain_key(key))
        if len(flows) < len(records):
            rest = [record for record in records if record[0][6] != FLOW]
            told = self.flows.disturbed or ()  # by events: without a zone
            disturbed = {key for key, _, _ in rest if plain_key(key) in told}
            self.expectations.disturbed = disturbed
            self.expectations.adopt(rest)
            self.expectations.disturbed = None

    def plant(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """These records were written into this kernel for a peer: they are not own."""
        planted, roll = self.planted, self.roll
        for key, body in records:
            plain = key if key[6] == FLOW else plain_key(key)
            planted[plain] = body
            if roll:
                roll.saw(plain)

    def take_left(self) -> list[bytes]:
        """Keys that are own no more, if somebody wants to know."""
        return self.flows.take_left() + self.expectations.take_left()

    def take_uprooted(self) -> list[bytes]:
        """Planted keys whose entries are gone, or changed by somebody, since then."""
        keys, self.uprooted = list(self.uprooted), {}
        return keys

    def _lives(self, key: bytes, mask: int) -> bool:
        """An UPDATE of what is not own: of a planted record, was that a packet?"""
        if key in self.planted:
            self.uprooted[key] = None  # it may end before anybody has looked
            if mask & BY_PROGRAM:
                return False
            del self.planted[key]
        return True

    def claim(self, key: bytes) -> None:
        """The kernel made this record itself: it is own from now on."""
        self.planted.pop(key, None)
        self.uprooted.pop(key, None)

    def uproot(self, key: bytes) -> None:
        """A planted record may not be in the kernel any more.

        What ended may also be an expired entry that gave way to the copy.
        """
        self.uprooted[key] = None

    def has(self, key: bytes) -> bool:
        """Is it own? Of expectations the zone does not matter: the kernel says none."""
        if key[6] == FLOW:
            return key in self.flows.bodies
        bodies, plain = self.expectations.bodies, plain_key(key)
        return key in bodies or any(other.startswith(plain) for other in bodies)

    def _note_disturbed(self, records: Sequence[Record]) -> None:
        """Of these flows the kernel told something since the last commit."""
        flows = self.flows
        assert flows.disturbed is not None
        flows.disturbed.update([record[1] for record in records])
        if len(flows.disturbed) > _DISTURBED_LIMIT:
            flows.disturbed = None

    def _note_touched(self, records: Sequence[Record]) -> None:
        """Of these flows the running dump may show a state that is over.

        The end of another flow with the same tuple says nothing of ours: if the events
        of its own end and of that one's begin were lost, the dump has to sweep it.
        """
        flows = self.flows
        assert flows.touched is not None
        for kind, key, _, ident, _ in records:
            if kind == END and key not in flows.touched and flows.is_other(key, ident):
                self._doubted.add(key)
            else:
                flows.touched.add(key)
                self._doubted.discard(key)

    def _merged(self, key: bytes, body: bytes, missing: int) -> tuple[bytes, int]:
        """The stored body with an UPDATE laid over it that lacks something.

        No event tells that the last label is gone: one that tells nothing else of a
        flow with labels is a reason to ask.
        """
        old = self.flows.bodies[key]
        merged, mask = merge(old, body)
        if missing & _LABELS_BIT and without_timeout(merged) == without_timeout(old):
            self.lookups[key] = None
        return merged, mask

    def begin_dump(self) -> None:
        """A dump of both tables starts."""
        self.roll.begin(self.planted)
        self._doubted.clear()
        self._told_expectations.clear()
        self.flows.begin_dump()
        self.expectations.begin_dump()

    def note(self, limit: int) -> bool:
        """Note some of what the dump has to show; is there more to do?

        It may be done in parts before the dump is read; `fill` does what is left.
        """
        rolls = (self.roll, self.flows.roll, self.expectations.roll)
        return any(roll.note(limit) for roll in rolls)

    def fill(self, records: Iterable[Record]) -> None:
        """Take a part of a dump of either kind, flows first."""
        planted = self.planted
        for record in records:
            if (planted and record[1] in planted) or record[1] in self.sown:
                self.roll.saw(record[1])
            elif record[0] == DUMP:
                if record[1] in self._doubted or not self.flows.fill(record):
                    self.lookups[record[1]] = None
                self._note(record[1], record[2], record[4])
            elif record[3] not in self._told_expectations and self._tells(record):
                zoned = self._in_zone(record)
                self._end_others(record[1], zoned)
                self._fill_expectation(zoned)

    def _fill_expectation(self, record: Record) -> None:
        """An expectation of a dump, in its zone: its timer may have been set anew."""
        expectations = self.expectations
        _, key, body, ident, mask = record
        expectations.fill(record)
        told = expectations.bodies.get(key)
        if told is None or key in (expectations.touched or ()):
            return  # an event has told since
        if self._timers.moved(key, told, body):
            expectations.put(key, body, ident, mask)

    def sweep(self, now: float, limit: int) -> bool:
        """End some of what the complete dump did not show; is there more to do?

        It may be done in parts after the dump is read; `end_dump` does what is left.
        """
        due = now + EARLY_SWEEP_S
        if self.flows.sweep(limit, due) or self.expectations.sweep(limit):
            return True
        keys = self.roll.take(limit)
        for key in keys:
            table = self.expectations if key[6] == EXPECTATION else self.flows
            if key in self.planted and key not in (table.touched or ()):
                self.uproot(key)
        return bool(keys)

    def end_dump(self, now: float) -> int:
        """The dump is complete; return how many records were gone.

        The masters of expectations are read once more: an event that was lost may
        have been the only sign of their sequence adjustment. So are the masters of
        those that came during the dump, which may have shown an older state of them.
        """
        while self.sweep(now, len(self.flows) + 1):
            pass
        gone = self.flows.end_dump() + self.expectations.end_dump()
        self.roll.begin(())
        for body in self.expectations.bodies.values():
            self._ask_masters(master_of(body))
        for plain in self._announcing:
            self._ask_masters(plain)
        self._announcing.clear()
        return gone

    def abort_dump(self) -> None:
        """The dump failed: what it showed so far stays, nothing is swept."""
        self.roll.begin(())
        self.flows.abort_dump()
        self.expectations.abort_dump()

    @property
    def unspoken(self) -> bool:
        """Is there anything that may change without an event?"""
        return bool(self._helped or self.expectations.bodies)

    def ask_helped(self) -> None:
        """Look up some of the flows that helpers may have rewritten."""
        for master in self._helped.take_masters():
            self._ask_masters(master)
        self.lookups |= dict.fromkeys(self._helped.take_turn(self.flows.bodies))

    def begin_review(self) -> None:
        """A dump of the expectations alone starts; `fill` takes its parts."""
        self._told_expectations.clear()
        self.expectations.begin_dump()

    def end_review(self) -> None:
        """It is complete: end those that it did not show."""
        while self.expectations.sweep(len(self.expectations) + 1):
            pass
        self.expectations.end_dump()
        self._timers.forget_all_but(self.expectations.bodies)

    def _apply_expectations(self, records: Sequence[Record]) -> None:
        """Expectations after the flows: their masters are known by then."""
        expectations = self.expectations
        for record in records:
            plain = record[1]
            if not self._tells(record):
                continue
            if record[0] == EXP_NEW:
                self.claim(plain)
            if record[0] == EXP_END and (plain in self.sown or plain in self.planted):
                self.uproot(plain)
                if not record[4] & BY_PROGRAM:
                    self.met.append(plain)
            lives_here = plain not in self.planted
            if lives_here and record[0] == EXP_END:
                expectations.ended(self.expectation_key(plain, record[3]), record[3])
            elif lives_here:
                record = self._in_zone(record)
                key = record[1]
                self._end_others(plain, record)
                if record[0] == EXP_NEW:
                    self.announced(master_of(record[2]))
                    expectations.put(key, record[2], record[3], record[4])
                else:
                    expectations.refresh(record)
                if expectations.touched is not None:
                    expectations.touched.add(key)
            if expectations.touched is not None:
                self._told_expectations.add(record[3])

    def announced(self, master: bytes) -> None:
        """A helper has announced an expectation of this flow, and may have mangled it.

        No event tells the sequence adjustment, which comes later (ctnetlink.md, 8).
        """
        self.claim(master)
        self._ask_masters(master)
        self._helped.ask_soon(master)
        if self.flows.touched is not None:
            self._announcing.add(master)

    def was_told(self, ident: bytes) -> bool:
        """Did an event tell of this expectation since the dump began?"""
        return ident in self._told_expectations

    def has_flow(self, plain: bytes) -> bool:
        """Is a flow with this tuple here, in whatever zone?"""
        return any(True for _ in self._zoned.masters(plain, self.flows.bodies))

    def _tells(self, record: Record) -> bool:
        """May peers know of this expectation?"""
        if self.wildcards.word != REFUSE or not is_wildcard(record[1]):
            return True
        if record[0] == EXP_NEW:
            self.wildcards.untold()
        return False

    def _ask_masters(self, plain: bytes) -> None:
        """Look up every flow with the tuple of a master, known or not."""
        self.lookups[plain] = None
        for key in self._zoned.masters(plain, self.flows.bodies):
            self.lookups[key] = None

    def _in_zone(self, record: Record) -> Record:
        """The same expectation under the zone of its master, if that is known.

        Of several such flows one with a helper counts, best where it is known already.
        """
        kind, key, body, ident, mask = record
        masters = list(self._zoned.masters(master_of(body), self.flows.bodies))
        helped = [m for m in masters if self.flows.facts[m][1] & _HELP_BIT]
        zones = map(zone_of_original, helped or masters)
        keys = [key if zone is None else with_zone(key, zone) for zone in zones]
        known = [zoned for zoned in keys if zoned in self.expectations.bodies]
        return kind, (known or keys or [key])[0], body, ident, mask

    def expectation_key(self, plain: bytes, ident: bytes) -> bytes:
        """Under which key an expectation is stored that the kernel names plainly."""
        facts = self.expectations.facts
        if plain in facts and facts[plain][0] == ident:
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
