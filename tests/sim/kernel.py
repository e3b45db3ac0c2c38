"""A model kernel: its table, its events with a bounded queue, its dumps.

In: what happens to flows (`create`, `change`, `refresh`, ...). Out: the messages that
Linux would write (reference: ctnetlink of 6.18), through a queue that overruns, and
replies to GETs and dumps. The rule of the room: what the real kernel does without an
event (moved timers, sequence adjustment of NAT helpers, entries that have expired but
are not collected yet) happens without an event here as well.
"""

import math
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable

from tests.sim.clock import Action, Clock, LocalClock
from tests.sim.ctnetlink import (
    CTA,
    DUMP,
    DYING,
    END,
    EXP_DUMP,
    EXP_END,
    EXP_NEW,
    FIXED_TIMEOUT,
    NEW,
    SEQ_ADJUST,
    UPDATE,
    Expected,
    Facts,
    Triple,
    Zoned,
    attribute,
    expectation_key,
    expectation_message,
    family_of,
    flow_key,
    flow_message,
    number,
    tracker_tlv,
    triple,
    ways_of,
)

_ZEROS = triple(CTA["SYNPROXY"], (0, 0, 0))
_USE = number(CTA["USE"], 1)


class EventQueue:
    """The socket buffer between kernel and daemon: when it is full, events are lost.

    A `sticky` queue is the default of a socket: after an overrun nothing is queued
    until it has been read empty.
    """

    __slots__ = (
        "_blocked",
        "_limit",
        "_losses",
        "_sticky",
        "closed",
        "waiting",
        "wake",
    )

    def __init__(self, limit: int, *, sticky: bool) -> None:
        self._limit = limit
        self._sticky = sticky
        self._blocked = False
        self._losses = 0
        self.closed = False
        self.waiting: deque[bytes] = deque()
        self.wake: Action = _nobody

    def push(self, event: bytes) -> None:
        """Queue an event, or lose it."""
        if self.closed:
            return
        if self._blocked or len(self.waiting) >= self._limit:
            self._losses += 1
            self._blocked = self._sticky
            return
        self.waiting.append(event)
        self.wake()

    def drain(self, limit: int) -> list[bytes]:
        """Up to so many events, oldest first."""
        waiting = self.waiting
        drained = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
        if not waiting:
            self._blocked = False
        return drained

    @property
    def losses_unseen(self) -> int:
        """Losses since `check_losses`, without asking for them."""
        return self._losses

    def check_losses(self) -> int:
        """How many events were lost since this was last asked."""
        losses, self._losses = self._losses, 0
        return losses


class Entry:
    """One life of a flow."""

    __slots__ = (
        *("expires", "facts", "hidden", "ident", "injected", "key", "parts"),
        *("armed_at", "began_at", "met_at", "mute", "timer_end", "ways"),
    )

    def __init__(
        self, key: bytes, facts: Facts, ident: int, expires: float, began_at: float
    ) -> None:
        self.key = key
        self.began_at = began_at
        self.facts = facts
        self.ident = ident
        self.expires = expires
        self.hidden = False  # expired, but not collected yet
        self.injected = False
        self.mute = False  # nobody listened when it began: it tells nothing
        self.met_at = -math.inf  # when a packet was here last
        self.armed_at = math.inf  # when its timer is looked at: one that is obeyed
        self.timer_end = expires  # as a request set it last
        self.ways = ways_of(facts)
        names = (name for name in CTA if name not in ("ID", "USE", "TIMEOUT"))
        self.parts = {name: attribute(name, facts) for name in names}
        self.parts["ID"] = number(CTA["ID"], ident)

    def set(self, facts: Facts, names: Iterable[str]) -> None:
        """New facts; these attributes are written anew."""
        self.facts = facts
        for name in names:
            self.parts[name] = attribute(name, facts)


class ExpectationEntry:
    """One life of an expectation."""

    __slots__ = ("expected", "expires", "ident", "key", "master")

    def __init__(
        self, expected: Expected, ident: int, expires: float, master: Entry
    ) -> None:
        self.key = expectation_key(expected)
        self.expected = expected
        self.ident = ident
        self.expires = expires
        self.master = master


class ModelKernel:
    """Tables of flows and expectations; every change tells the listener, or not."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self.time: Clock | LocalClock = clock  # that timers go by
        self._rng = rng
        self.queue = EventQueue(0, sticky=False)
        self.queue.closed = True
        self.flows: dict[bytes, Entry] = {}
        self.expectations: dict[bytes, ExpectationEntry] = {}
        self.events = 0
        self.limit = 0  # of flows, 0 = none
        self.expired: Callable[[Entry], None] = self.hide  # what comes of a timer
        self.late_end_share = 0.0  # of reused tuples whose DESTROY comes after NEW
        self.holders: dict[Zoned, Entry] = {}  # by their tuples of both directions
        self.exclusive = False  # does a packet fail whose reply tuple is taken?
        self.choosy = False  # do entries without a listener stay silent for ever?

    def listen(self, limit: int, *, sticky: bool) -> EventQueue:
        """Open an event socket; the one before is closed."""
        self.queue.closed = True
        self.queue = EventQueue(limit, sticky=sticky)
        return self.queue

    @property
    def is_full(self) -> bool:
        """Is there no room for another flow?"""
        return 0 < self.limit <= len(self.flows)

    def is_taken(self, facts: Facts) -> bool:
        """Has another flow one of these tuples, so that NAT finds no place?"""
        if not self.exclusive:
            return False
        key = flow_key(facts)
        return any(
            way in self.holders and self.holders[way].key != key
            for way in ways_of(facts)
        )

    # Flows

    def create(
        self, facts: Facts, timeout: float, announced: Expected | None = None
    ) -> Entry:
        """A packet opens a flow; an entry that holds the tuple makes room for it.

        The helpers of SIP and TFTP announce a flow at the first packet already: then
        EXP_NEW comes before the NEW of its master.
        """
        key = flow_key(facts)
        old = self.flows.get(key)
        late = old is not None and self._rng.random() < self.late_end_share
        if old is not None and not late:
            self.end(old)
        entry = self._begin(key, facts, timeout)
        entry.met_at = self._clock.now
        entry.mute = self.choosy and self.queue.closed
        if old is not None and late:
            self._end_expectations(old)
            self._leave(old)
        self._hold(entry)
        if announced is not None:
            self.expect(announced, entry, 300)
        self._tell(NEW, entry, entry.parts)
        if old is not None and late:
            self._tell_end(old, early=False)
        return entry

    def inject(self, facts: Facts, timeout: float) -> Entry:
        """The daemon creates an entry; its own events are filtered from its socket."""
        key = flow_key(facts)
        entry = self._begin(key, facts, timeout)
        entry.injected = True
        self._hold(entry)
        return entry

    def _begin(self, key: bytes, facts: Facts, timeout: float) -> Entry:
        expires = self.time.now + timeout
        return Entry(key, facts, self._ident(), expires, self._clock.now)

    def _hold(self, entry: Entry) -> None:
        self.flows[entry.key] = entry
        for way in entry.ways:
            self.holders[way] = entry

    def _leave(self, entry: Entry) -> None:
        """Its tuples are free."""
        for way in entry.ways:
            if self.holders.get(way) is entry:
                del self.holders[way]

    def change(self, entry: Entry, facts: Facts, timeout: float) -> None:
        """A packet or a rule changes the entry: an UPDATE with the part that it shows.

        PROTOINFO, LABELS, SYNPROXY and SEQ_ADJ are shown only when they changed, MARK
        when it is not zero or just changed, the master never.
        """
        before, parts = entry.facts, entry.parts
        shown = {
            name: parts[name]
            for name in ("TUPLE_ORIG", "TUPLE_REPLY", "ZONE", "ID", "HELP")
        }
        changed = []
        for name, old, new in (
            ("STATUS", before.status, facts.status),
            ("PROTOINFO", before.tracker, facts.tracker),
            ("LABELS", before.labels, facts.labels),
            ("SEQ_ADJ_ORIG", before.adjust_orig, facts.adjust_orig),
            ("SEQ_ADJ_REPLY", before.adjust_reply, facts.adjust_reply),
            ("SYNPROXY", before.synproxy, facts.synproxy),
            ("MARK", before.mark, facts.mark),
        ):
            if old != new:
                changed.append(name)
        entry.set(facts, changed)
        self._met(entry, timeout)
        for name in (*changed, "STATUS", "MARK"):
            shown[name] = parts[name]
        if "MARK" in changed:
            shown["MARK"] = number(CTA["MARK"], facts.mark)
        self._tell(UPDATE, entry, shown)

    def refresh(self, entry: Entry, timeout: float) -> None:
        """A packet moves the timer: no event."""
        self._met(entry, timeout)

    def _met(self, entry: Entry, timeout: float) -> None:
        entry.met_at = self._clock.now
        if not entry.facts.status & FIXED_TIMEOUT:
            self.set_timer(entry, timeout)

    def set_timer(self, entry: Entry, timeout: float) -> None:
        """So much is left from now on."""
        entry.expires = self.time.now + timeout
        if entry.expires < entry.armed_at < math.inf:
            self.arm(entry)

    def arm(self, entry: Entry) -> None:
        """From now on its timer is obeyed; else only the workload ends it."""
        entry.armed_at = at = entry.expires

        def look() -> None:
            if entry.armed_at != at or self.flows.get(entry.key) is not entry:
                return
            if entry.expires > at:
                self.arm(entry)
            else:
                entry.armed_at = math.inf
                self.expired(entry)

        due = at if isinstance(self.time, Clock) else self.time.due(at)
        self._clock.at(due, look)

    def timers_jumped(self) -> None:
        """The time of this machine has gone on, all at once."""
        for entry in self.flows.values():
            if entry.armed_at < math.inf:
                self.arm(entry)

    def disarm(self, entry: Entry) -> None:
        """Packets that raise no event keep it alive."""
        entry.armed_at = math.inf

    def mangle(self, entry: Entry, orig: Triple, reply: Triple) -> None:
        """A NAT helper adjusts sequence numbers: no event."""
        facts = entry.facts._replace(
            status=entry.facts.status | SEQ_ADJUST,
            adjust_orig=orig,
            adjust_reply=reply,
        )
        entry.set(facts, ("STATUS", "SEQ_ADJ_ORIG", "SEQ_ADJ_REPLY"))
        entry.met_at = self._clock.now

    def hide(self, entry: Entry) -> None:
        """The timer runs out; the collector comes later (`end`)."""
        entry.hidden = True

    def end(self, entry: Entry, *, early: bool = False) -> None:
        """The entry is gone; `early` = with time left."""
        if self.flows.get(entry.key) is not entry:
            return
        del self.flows[entry.key]
        self._leave(entry)
        self._tell_end(entry, early=early)
        self._end_expectations(entry)

    def delete(self, key: bytes, ident: bytes) -> None:
        """The daemon's own request; its event socket does not hear of it."""
        entry = self.flows.get(key)
        if entry is not None and ident in (b"", entry.ident.to_bytes(4)):
            del self.flows[key]
            self._leave(entry)
            self._end_expectations(entry)

    def alive(self, entry: Entry) -> bool:
        """Is this life of the flow in the table and not expired?"""
        return self.flows.get(entry.key) is entry and not entry.hidden

    # Expectations

    def expect(self, expected: Expected, master: Entry, timeout: float) -> None:
        """A helper announces a flow."""
        entry = ExpectationEntry(
            expected, self._ident(), self.time.now + timeout, master
        )
        old = self.expectations.pop(entry.key, None)
        if old is not None:
            self._tell_expectation(EXP_END, old)
        self.expectations[entry.key] = entry
        self._tell_expectation(EXP_NEW, entry)

    def end_expectation(self, key: bytes) -> None:
        """The announced flow came, or the time is up."""
        entry = self.expectations.pop(key, None)
        if entry is not None:
            self._tell_expectation(EXP_END, entry)

    def _end_expectations(self, master: Entry) -> None:
        for key in [k for k, e in self.expectations.items() if e.master is master]:
            self.end_expectation(key)

    # Requests

    def get(self, key: bytes) -> bytes | None:
        """The reply to a GET by key; None = ENOENT."""
        entry = self.flows.get(key)
        if entry is None or entry.hidden:
            return None
        return self.show(entry)

    def dump_flows(self, cursor: "Place", limit: int) -> "Chunk":
        """The next chunk in the order of the hash table, as it is now."""
        waiting = sorted(
            (place, entry)
            for entry in self.flows.values()
            if not entry.hidden and (place := _place(entry.key)) > cursor
        )
        part = waiting[:limit]
        last = part[-1][0] if part else cursor
        return [self.show(entry) for _, entry in part], last

    def dump_expectations(self, cursor: "Place", limit: int) -> "Chunk":
        """The same for expectations."""
        waiting = sorted(
            (place, key) for key in self.expectations if (place := _place(key)) > cursor
        )
        part = waiting[:limit]
        last = part[-1][0] if part else cursor
        now = self.time.now
        replies = []
        for _, key in part:
            entry = self.expectations[key]
            left = max(int(entry.expires - now), 0)
            replies.append(
                expectation_message(EXP_DUMP, entry.expected, entry.ident, left)
            )
        return replies, last

    # Messages

    def _ident(self) -> int:
        return self._rng.getrandbits(32)

    def _left(self, entry: Entry) -> bytes:
        left = max(int(entry.expires - self.time.now), 0)
        return number(CTA["TIMEOUT"], left)

    def _tell(self, kind: str, entry: Entry, parts: dict[str, bytes]) -> None:
        self.events += 1
        if self.queue.closed or entry.mute:
            return
        shown = parts | {"TIMEOUT": self._left(entry)}
        self.queue.push(flow_message(kind, family_of(entry.facts.orig), shown))

    def _tell_end(self, entry: Entry, *, early: bool) -> None:
        if entry.mute:
            return
        facts = entry.facts
        shown = entry.parts | {"STATUS": number(CTA["STATUS"], facts.status | DYING)}
        if facts.tracker is not None:
            protocol = facts.orig.protocol
            shown["PROTOINFO"] = tracker_tlv(protocol, facts.tracker, state_only=True)
        if early:
            shown["TIMEOUT"] = self._left(entry)
        self.events += 1
        self.queue.push(flow_message(END, family_of(facts.orig), shown))

    def _tell_expectation(self, kind: str, entry: ExpectationEntry) -> None:
        if entry.master.mute:
            return
        self.events += 1
        left = max(int(entry.expires - self.time.now), 0)
        self.queue.push(expectation_message(kind, entry.expected, entry.ident, left))

    def show(self, entry: Entry) -> bytes:
        """A dump's message about it, or a GET's."""
        shown = entry.parts | {"TIMEOUT": self._left(entry), "USE": _USE}
        shown["MARK"] = number(CTA["MARK"], entry.facts.mark)
        if entry.injected and not shown["SYNPROXY"]:
            shown["SYNPROXY"] = _ZEROS
        return flow_message(DUMP, family_of(entry.facts.orig), shown)


Place = tuple[int, bytes]
Chunk = tuple[list[bytes], Place]


def _place(key: bytes) -> Place:
    """Where a key hangs in the hash table."""
    return zlib.crc32(key), key


def _nobody() -> None:
    """Nobody waits for events."""
