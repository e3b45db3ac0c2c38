"""Who comes in: the filter between what the kernel says and the own tables.

In: records of events, of replies to GETs and of dumps, the filter, this node's
addresses, the time. Out: the own tables, in which stands what is wanted and nothing
else: what peers are told, and what they prove equal, follows from that. The rules:

- A verdict is about a flow as it is now. A flow that becomes wanted is put into the own
  tables, one that is no longer wanted is withdrawn: its end is told.
- A flow that has to be old enough waits in `Young`. What was told once stays told.
- An expectation goes with its master: it waits until the master is in the own table.
- Addresses follow the kernel. One that came makes flows the node's own; they are
  withdrawn in steps. One that left makes none wanted that was not: an entry that is
  left behind by an address is no flow that passes through. Only what begins when the
  address is gone for `LEFT_S` is, and when a dump shows nothing left behind any more
  the address is forgotten.
"""

from collections.abc import Iterable, Sequence

from syncd.errors import RecordError
from syncd.flows.filter import (
    ACCEPTED,
    AGE,
    EXPECTED,
    OWN,
    REASONS,
    RecordFilter,
    ends_of,
)
from syncd.flows.own import IPS_SEQ_ADJUST, Own
from syncd.flows.record import (
    CTA_SEQ_ADJ_ORIG,
    DUMP,
    END,
    EXP_END,
    EXP_NEW,
    EXPECTATION,
    NEW,
    UPDATE,
    Record,
    master_of,
    status_of,
    without_timeout,
)
from syncd.flows.young import Young
from syncd.flows.zones import plain_key

LEFT_S = 60.0  # in which an address that left may come back, or be on its way
_AT_ONCE = 4096  # flows that are judged again in one step, a few milliseconds
_ASSURED = 0x4  # IPS_ASSURED, linux/netfilter/nf_conntrack_common.h
_AWAITED_LIMIT = 4096  # expectations without a master: more than a kernel has
# C integers when compiled, where those of other modules are objects.
_UPDATE, _NEW, _END, _DUMP, _ACCEPTED, _OWN = UPDATE, NEW, END, DUMP, ACCEPTED, OWN


class Admission:
    """Asks the filter about every record."""

    __slots__ = (
        "_ages",
        "_awaited",
        "_departed",
        "_dump_at",
        "_left_behind",
        "_own",
        "_review",
        "_withdrawn",
        "addresses",
        "filter",
        "ignored",
        "reread",
        "young",
    )

    def __init__(self, own: Own, record_filter: RecordFilter) -> None:
        self.ignored = [0] * len(REASONS)  # records, by reason
        self.reread = False  # does only a dump of the kernel show what is wanted now?
        self.addresses: frozenset[bytes] = frozenset()  # of this node
        self.young = Young(record_filter.min_age_s)
        self._own = own
        self.filter = record_filter
        self._ages = record_filter.min_age_s > 0
        self._departed: dict[bytes, float] = {}  # addresses, with the time they left
        self._left_behind: set[bytes] = set()  # of these, seen in the dump
        self._dump_at = 0.0
        self._review: list[bytes] = []  # flows that are to be judged again
        self._withdrawn: list[bytes] = []  # flows whose expectations go with them
        self._awaited: dict[bytes, dict[bytes, Record]] = {}  # by master

    # The rules change

    def change_filter(self, record_filter: RecordFilter) -> None:
        """Another filter from now on; a dump has to show what was unwanted so far."""
        self.filter = record_filter
        self.young.min_age_s = record_filter.min_age_s
        self._ages = record_filter.min_age_s > 0
        self._awaited.clear()
        record_filter.use_own(self.addresses)
        self._judge_again()

    def use_addresses(self, addresses: frozenset[bytes], now: float) -> None:
        """These are this node's addresses now."""
        left, came = self.addresses - addresses, addresses - self.addresses
        self._departed.update(dict.fromkeys(left, now))
        for address in came:
            self._departed.pop(address, None)
        self.addresses = addresses
        self.filter.use_own(addresses)
        if came and self.filter.ignores_own:
            self._judge_again()

    def _judge_again(self) -> None:
        if not self.filter.empty:
            self._review = list(self._own.flows.bodies)

    # Records

    def events(self, records: list[Record], now: float) -> None:
        """Events and replies to GETs, in the order in which they came."""
        own = self._own
        if self.filter.empty and not self.young.flows:
            own.apply(records, now)
            return
        expectations: list[Record] = []
        admitted = self._admitted(records, expectations, now)
        own.apply(admitted, now)
        if self._awaited:
            self._masters_came(admitted, now)
        if self._withdrawn:
            self._masters_went()
        if expectations:
            own.apply(self._with_masters(expectations), now)

    def _admitted(
        self, records: Sequence[Record], expectations: list[Record], now: float
    ) -> list[Record]:
        """The records of flows that the own table is to know; the others' effects."""
        flows, young, planted = self._own.flows.bodies, self.young, self._own.planted
        waiting = young.flows
        judge, partial, ages = self.filter, self.filter.partial, self._ages
        departed = bool(self._departed) and judge.ignores_own
        admitted: list[Record] = []
        for record in records:
            kind, key, body, ident, _ = record
            if kind == _END:
                if key in waiting:
                    young.end(key, ident)
                    self.ignored[AGE] += 1
                admitted.append(record)
                continue
            if kind > _DUMP:
                expectations.append(record)
                continue
            if planted and kind != _NEW and key in planted:
                admitted.append(record)  # a copy of a peer's: the own table knows
                continue
            stored = None
            if partial and kind == _UPDATE:
                stored = flows.get(key)
                if stored is None and key in waiting:
                    stored = waiting[key][2]
            reason = judge.verdict(key, body, stored)
            if departed and reason == _ACCEPTED and self._is_left(record, now):
                reason = _OWN
            if reason != _ACCEPTED:
                self._refuse(record, reason)
            elif not ages or self._is_old(record, now):
                admitted.append(record)
            elif key in waiting and status_of(waiting[key][2]) & _ASSURED:
                admitted.append(self._checked(young.release(key)))
        return admitted

    def _is_old(self, record: Record, now: float) -> bool:
        """May the own table know of it? Else it waits, in its newest state."""
        kind, key, body, ident, _ = record
        young, own = self.young, self._own
        known = own.flows.facts.get(key)
        if known is not None and (
            kind != _NEW or known[0] == ident or not known[0] or not ident
        ):
            young.forget(key)  # it was put into this kernel for a peer meanwhile
            return True
        if key not in young.flows:
            if status_of(body) & _ASSURED or kind == _UPDATE:
                return True  # an UPDATE of what nobody knows: the kernel is asked
            if known is not None:
                self._withdraw(key)  # another flow on the same tuple
            if own.planted or own.uprooted:
                own.claim(key)
            young.wait(record, now)
            return False
        young.seen(key)
        if kind == _UPDATE:
            return not young.update(record)
        young.renew(record, now)
        return False

    def _checked(self, record: Record) -> Record:
        """A flow that waited, for the own table."""
        if not record[4] >> CTA_SEQ_ADJ_ORIG & 1 and (
            status_of(record[2]) & IPS_SEQ_ADJUST
        ):
            self._own.lookups[record[1]] = None  # no event told how
        return record

    def _refuse(self, record: Record, reason: int) -> None:
        """It is not wanted, or not any more."""
        key, own = record[1], self._own
        self.ignored[reason] += 1
        own.ignored += 1
        if record[0] != DUMP and (own.planted or own.uprooted):
            own.claim(key)
        if self.young.flows:
            self.young.forget(key)
        if own.flows.touched is not None:
            own.flows.touched.add(key)  # the dump may show what it was before
        if key in own.flows.bodies:
            self._withdraw(key)

    def _withdraw(self, key: bytes) -> None:
        self._own.flows.disown(key)
        if len(self._own.expectations):
            self._withdrawn.append(key)

    def _is_left(self, record: Record, now: float) -> bool:
        """Is it an entry that was left behind by an address of this node?"""
        kind, key, body, _, _ = record
        departed = self._departed
        left = [departed[end] for end in ends_of(key, body) if end in departed]
        if not left or key in self._own.flows.bodies:
            return False
        begins = kind == NEW or key in self.young.flows
        return not (begins and now >= max(left) + LEFT_S)

    def _judge(self, record: Record, now: float) -> int:
        """The verdict about a record that tells all of its flow."""
        reason = self.filter.verdict(record[1], record[2], None)
        if (
            self._departed
            and reason == ACCEPTED
            and self.filter.ignores_own
            and self._is_left(record, now)
        ):
            self._left_behind.update(ends_of(record[1], record[2]))
            return OWN
        return reason

    # Expectations

    def _with_masters(self, records: Iterable[Record]) -> list[Record]:
        """Those that go with a master in the own table; the others wait for theirs."""
        own, judge = self._own, self.filter
        passing = []
        for record in records:
            kind, key, body, ident, _ = record
            master = master_of(body)
            if kind == EXP_END:
                self._forget_awaited(master, key)
            elif kind != EXP_NEW and (key in own.planted or own.was_told(ident)):
                pass  # a peer's, or an event told: the own table knows
            elif not judge.accepts_helper(body):
                self.ignored[EXPECTED] += 1
                own.ignored += 1
                own.expectations.disown(own.expectation_key(key, ident))
                continue
            elif judge.restricts_flows and not own.has_flow(master):
                if kind == EXP_NEW:
                    own.announced(master)
                own.expectations.disown(own.expectation_key(key, ident))
                if len(self._awaited) < _AWAITED_LIMIT:
                    self._awaited.setdefault(master, {})[key] = record
                continue
            passing.append(record)
        return passing

    def _forget_awaited(self, master: bytes, key: bytes) -> None:
        waiting = self._awaited.get(master)
        if waiting is not None:
            waiting.pop(key, None)
            if not waiting:
                del self._awaited[master]

    def _masters_came(self, records: Iterable[Record], now: float) -> None:
        """Flows that may be masters came into the own table."""
        came: list[Record] = []
        for record in records:
            master = plain_key(record[1])
            if master in self._awaited and self._own.has_flow(master):
                waited = self._awaited.pop(master)
                came += waited.values()
                self.reread |= not waited  # they had been told, and were withdrawn
        if came:
            self._own.apply(came, now)

    def _masters_went(self) -> None:
        """Flows were withdrawn: so are their expectations."""
        own = self._own
        masters = {plain_key(key) for key in self._withdrawn}
        self._withdrawn.clear()
        for key, body in list(own.expectations.bodies.items()):
            master = master_of(body)
            if master in masters and not own.has_flow(master):
                own.expectations.disown(key)
                if len(self._awaited) < _AWAITED_LIMIT:
                    self._awaited.setdefault(master, {})

    # Dumps

    def begin_dump(self, now: float) -> None:
        """A dump of the kernel's tables starts."""
        self._dump_at = now
        self._left_behind.clear()
        self._awaited = {}
        self.reread = False
        self.young.begin_dump()
        self._own.begin_dump()

    def dump_part(self, records: list[Record], now: float) -> None:
        """A part of the dump; flows come before expectations."""
        own = self._own
        if self.filter.empty:
            own.fill(records)
            return
        expectations = [record for record in records if record[0] > DUMP]
        own.fill(
            [
                record
                for record in records
                if record[0] == DUMP and self._admits_dumped(record, now)
            ]
        )
        if self._withdrawn:
            self._masters_went()
        if expectations:
            own.fill(self._with_masters(expectations))

    def _admits_dumped(self, record: Record, now: float) -> bool:
        """Is it for the own table? What events said since the dump began is newer."""
        key, body = record[1], record[2]
        own, young = self._own, self.young
        if own.planted and key in own.planted:
            return True
        touched = own.flows.touched or ()
        known = key in own.flows.bodies
        if key in young.flows and not known:
            young.seen(key)
            if without_timeout(young.flows[key][2]) != without_timeout(body):
                own.lookups[key] = None
            return False
        if key in touched and not known:
            return False
        reason = self._judge(record, now)
        if reason != ACCEPTED:
            if key in touched:
                own.lookups[key] = None
                own.flows.roll.saw(key)
            else:
                self._refuse(record, reason)
            return False
        return not self._ages or known or self._is_old(record, now)

    def end_dump(self, now: float) -> int:
        """The dump is complete: sweep; return how many records were gone."""
        self.young.end_dump()
        forgotten = [
            address
            for address, left_at in self._departed.items()
            if left_at + LEFT_S <= self._dump_at and address not in self._left_behind
        ]
        for address in forgotten:
            del self._departed[address]
        return self._own.end_dump(now)

    def abort_dump(self) -> None:
        """The dump failed: what it showed so far stays, nothing is swept."""
        self.young.abort_dump()
        self._own.abort_dump()

    # Time

    def tick(self, now: float) -> None:
        """Flows that are old enough now, and a step of what is judged again."""
        due = self.young.due(now, _AT_ONCE)
        if due:
            self._come_of_age(due, now)
        if self._review:
            self._review_some(now)
        if self._withdrawn:
            self._masters_went()

    def _come_of_age(self, due: list[Record], now: float) -> None:
        admitted = []
        for _, key, body, ident, mask in due:
            # It began when it began to wait.
            record = (NEW, key, body, ident, mask)
            reason = self._judge(record, now)
            if reason == ACCEPTED:
                admitted.append(self._checked((DUMP, key, body, ident, mask)))
            else:
                self._refuse(record, reason)
        self._own.apply(admitted, now)
        if self._awaited:
            self._masters_came(admitted, now)

    def _review_some(self, now: float) -> None:
        """Judge the next flows of the own table again."""
        bodies = self._own.flows.bodies
        part = self._review[-_AT_ONCE:]
        del self._review[-_AT_ONCE:]
        for key in part:
            body = bodies.get(key)
            if body is None:
                continue
            reason = self._judge((UPDATE, key, body, b"", 0), now)
            if reason != ACCEPTED:
                self.ignored[reason] += 1
                self._withdraw(key)

    def deadline(self) -> float:
        """When `tick` is due."""
        if self._review:
            return 0.0
        return self.young.deadline()

    # Questions

    def ignored_by_key(self) -> dict[str, int]:
        """How many records were left out, by the key of [filter] that did."""
        counts = zip(REASONS[1:], self.ignored[1:], strict=True)
        return {name: count for name, count in counts if count}

    def wants(self, key: bytes, body: bytes) -> bool:
        """Is this record of a peer to be put into this kernel, by what it says?"""
        try:
            if key[6] == EXPECTATION:
                return self.filter.accepts_helper(body)
            return self.filter.verdict(key, body, None) == ACCEPTED
        except RecordError:
            return True  # who puts it there finds out

    def admits(self, key: bytes, body: bytes, now: float) -> bool:
        """Is this record of the kernel wanted now?"""
        if key[6] == EXPECTATION:
            return self.filter.accepts_helper(body) and (
                not self.filter.restricts_flows or self._own.has_flow(master_of(body))
            )
        if key in self.young.flows:
            return False
        return self._judge((DUMP, key, body, b"", 0), now) == ACCEPTED
