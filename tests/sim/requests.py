"""What a model kernel answers to requests: create, update, delete and look up.

In: whole ctnetlink requests, as a daemon sends them. Out: refusals and replies, by the
index of the request, and changed tables. The rules are those of Linux 6.18 (reference:
ctnetlink): what is missing, in the way, refused in part or silently dropped. What a
request does raises no event at the daemon that sent it; a timer that it sets is obeyed.
"""

import errno
import random
import struct
from collections.abc import Sequence
from typing import NamedTuple

from tests.sim.clock import Clock
from tests.sim.ctnetlink import (
    ASSURED,
    CONFIRMED,
    DST_NAT,
    DYING,
    EXP_DUMP,
    EXPECTED,
    FIXED_TIMEOUT,
    HELPER,
    ICMP,
    ICMPV6,
    NAT_DONE,
    SEEN_REPLY,
    SEQ_ADJUST,
    SRC_NAT,
    TCP,
    Facts,
    Tracker,
    Way,
    expectation_message,
    ways_of,
)
from tests.sim.decode import expected_of, facts_of, named, walk, way_of
from tests.sim.kernel import Entry, ExpectationEntry, ModelKernel

_CT_NEW, _CT_GET, _CT_DELETE = 0x100, 0x101, 0x102
_EXP_NEW, _EXP_GET, _EXP_DELETE = 0x200, 0x201, 0x202
_EXCL, _CREATE = 0x200, 0x400
_TAKEN_BITS = SEEN_REPLY | ASSURED | HELPER | FIXED_TIMEOUT  # of a STATUS in a create
_SCALED = 0x01  # IP_CT_TCP_FLAG_WINDOW_SCALE
_COLLECTED_S = (0.0, 11.0)  # after its timer has run out an entry is still there
_POLICY_S = 300  # what a helper gives to its expectations
_NO_LABELS = bytes(16)
_RANGES = (("attribute 6", SRC_NAT), ("attribute 13", DST_NAT))  # CTA_NAT_SRC, _DST
_OPENED_ONLY = {"attribute 6", "attribute 13", "TUPLE_MASTER"}


class Refused(Exception):  # noqa: N818 - the kernel's word
    """The request was not carried out, or not in full."""

    def __init__(self, code: int) -> None:
        self.code = code


class Answers(NamedTuple):
    """(index, errno, text) and (index, message)."""

    refusals: list[tuple[int, int, str]]
    replies: list[tuple[int, bytes]]


class Requests:
    """The request socket of one daemon."""

    def __init__(self, kernel: ModelKernel, clock: Clock, rng: random.Random) -> None:
        self._kernel = kernel
        self._clock = clock
        self._rng = rng
        kernel.expired = self._run_out

    def exchange(self, messages: Sequence[bytes]) -> Answers:
        """Carry them out one after the other."""
        answers = Answers([], [])
        for index, message in enumerate(messages):
            try:
                reply = self._answer(message)
            except Refused as refused:
                answers.refusals.append((index, refused.code, ""))
            else:
                if reply is not None:
                    answers.replies.append((index, reply))
        return answers

    def _answer(self, message: bytes) -> bytes | None:
        length, kind, flags, _, _ = struct.unpack_from("=IHHII", message)
        if length != len(message):
            raise AssertionError(f"a request of {len(message)} bytes says {length}")
        if kind >> 8 == 2:
            return self._answer_expectation(kind, flags, message)
        asked = named(message[20:])
        entry = self._find(asked)
        if kind == _CT_NEW and entry is None and flags & _CREATE:
            self._create(asked)
        elif kind == _CT_NEW and entry is not None and flags & _EXCL:
            raise Refused(errno.EEXIST)
        elif entry is None:
            raise Refused(errno.ENOENT)
        elif kind == _CT_NEW:
            self._update(entry, asked)
        elif kind == _CT_GET:
            return self._kernel.show(entry)
        elif kind == _CT_DELETE:
            self._kernel.delete(entry.key, b"")
        return None

    def _find(self, asked: dict[str, bytes]) -> Entry | None:
        """The entry that has this tuple in either direction; no expired one."""
        zone = int.from_bytes(asked.get("ZONE", b""))
        tuple_ = asked.get("TUPLE_ORIG") or asked["TUPLE_REPLY"]  # never a flush
        way = way_of(tuple_)
        entry = self._kernel.holders.get((way._replace(zone=0), zone or way.zone))
        if entry is not None and entry.hidden:
            self._kernel.end(entry)  # `nf_ct_gc_expired`
            return None
        return entry

    # Flows

    def _create(self, asked: dict[str, bytes]) -> None:
        kernel = self._kernel
        if kernel.is_full:
            raise Refused(errno.ENOMEM)
        wanted = facts_of(asked)
        if (wanted.status & (CONFIRMED | EXPECTED | DYING)) != CONFIRMED:
            raise Refused(errno.EBUSY)
        status = wanted.status & _TAKEN_BITS | CONFIRMED
        reply = wanted.reply
        for name, bit in _RANGES:
            if name in asked:
                translated = _translated(reply, bit, asked[name])
                status |= NAT_DONE | (bit if translated != reply else 0)
                reply = translated
        if wanted.master is not None:
            master = wanted.master._replace(zone=0), wanted.zone or wanted.orig.zone
            if not self._is_there(master):
                raise Refused(errno.ENOENT)
            status |= EXPECTED
        if wanted.adjust_orig is not None or wanted.adjust_reply is not None:
            status |= SEQ_ADJUST
        facts = wanted._replace(
            status=status,
            reply=reply,
            tracker=_tracked(Tracker(0), wanted),
            labels=b"" if wanted.labels == _NO_LABELS else wanted.labels,
        )
        if any(way in kernel.holders for way in ways_of(facts)):
            raise Refused(errno.EEXIST)
        entry = kernel.inject(facts, int.from_bytes(asked["TIMEOUT"]))
        kernel.arm(entry)

    def _is_there(self, way: tuple[Way, int]) -> bool:
        entry = self._kernel.holders.get(way)
        return entry is not None and not entry.hidden

    def _update(self, entry: Entry, asked: dict[str, bytes]) -> None:
        """In the kernel's order; what comes before a refusal has been done."""
        if asked.keys() & _OPENED_ONLY:
            raise Refused(errno.EOPNOTSUPP)
        there = {name: entry.parts[name][4:] for name in ("TUPLE_REPLY", "STATUS")}
        wanted = facts_of(there | asked)
        if wanted.helper and wanted.helper != entry.facts.helper:
            raise Refused(errno.EBUSY if entry.facts.helper else errno.EOPNOTSUPP)
        if "TIMEOUT" in asked:
            if entry.facts.status & FIXED_TIMEOUT:
                raise Refused(errno.EPERM)
            self._kernel.set_timer(entry, int.from_bytes(asked["TIMEOUT"]))
            entry.timer_end = entry.expires
            if entry.injected:
                self._kernel.arm(entry)
        facts = entry.facts
        if "STATUS" in asked:
            lost = facts.status & ~wanted.status & (SEEN_REPLY | ASSURED)
            fixed = EXPECTED | CONFIRMED | DYING
            if lost or (facts.status ^ wanted.status) & fixed:
                raise Refused(errno.EBUSY)
            added = wanted.status & _TAKEN_BITS
            facts = facts._replace(status=facts.status | added)
        if "PROTOINFO" in asked and facts.tracker is not None:
            facts = facts._replace(tracker=_tracked(facts.tracker, wanted))
        if "MARK" in asked:
            facts = facts._replace(mark=wanted.mark)
        for name in ("adjust_orig", "adjust_reply", "synproxy"):
            if (value := getattr(wanted, name)) is not None:
                facts = facts._replace(**{name: value})
        if facts.adjust_orig is not None or facts.adjust_reply is not None:
            facts = facts._replace(status=facts.status | SEQ_ADJUST)
        if "LABELS" in asked:
            labels = b"" if wanted.labels == _NO_LABELS else wanted.labels
            facts = facts._replace(labels=labels)
        changed = ("STATUS", "PROTOINFO", "MARK", "LABELS", "SYNPROXY")
        entry.set(facts, (*changed, "SEQ_ADJ_ORIG", "SEQ_ADJ_REPLY"))

    def _run_out(self, entry: Entry) -> None:
        """A timer has run out: hidden at once, collected when somebody comes by."""
        self._kernel.hide(entry)
        self._clock.after(
            self._rng.uniform(*_COLLECTED_S), lambda: self._kernel.end(entry)
        )

    # Expectations

    def _answer_expectation(
        self, kind: int, flags: int, message: bytes
    ) -> bytes | None:
        parts = dict(walk(message[20:]))
        kernel = self._kernel
        if 1 not in parts:  # GET and DELETE name tuple and mask, a zone maybe
            parts[1] = parts[2]
        expected = expected_of(parts | {n: parts.get(n, b"") for n in (6, 8, 9)})
        zone = int.from_bytes(parts.get(7, b""))
        key = _expectation_key(message)
        entry = kernel.expectations.get(key)
        if entry is not None and _zone_of(entry.master) != zone:
            if kind == _EXP_NEW:
                raise Refused(errno.EBUSY)  # the model has one table for all zones
            entry = None
        if kind == _EXP_NEW and entry is None and flags & _CREATE:
            master = kernel.holders.get((expected.master._replace(zone=0), zone))
            if master is None or master.hidden:
                raise Refused(errno.ENOENT)
            if not master.facts.helper:
                raise Refused(errno.EOPNOTSUPP)
            expected = expected._replace(helper=master.facts.helper)
            expires = self._kernel.time.now + _POLICY_S
            planted = ExpectationEntry(expected, self._ident(), expires, master)
            kernel.expectations[key] = planted
            self._arm(planted)
        elif entry is None:
            raise Refused(errno.ENOENT)
        elif kind == _EXP_NEW and flags & _EXCL:
            raise Refused(errno.EEXIST)
        elif kind == _EXP_NEW:
            entry.expires = self._kernel.time.now + int.from_bytes(parts[4])
            self._arm(entry)
        elif kind == _EXP_GET:
            left = max(int(entry.expires - self._kernel.time.now), 0)
            return expectation_message(EXP_DUMP, entry.expected, entry.ident, left)
        elif kind == _EXP_DELETE:
            del kernel.expectations[key]
        return None

    def _arm(self, entry: ExpectationEntry) -> None:
        def look() -> None:
            kernel = self._kernel
            there = kernel.expectations.get(entry.key) is entry
            left_s = entry.expires - kernel.time.now
            if there and left_s <= 0.0:
                kernel.end_expectation(entry.key)
            elif there:
                self._clock.after(max(left_s, 0.01), look)

        self._clock.after(entry.expires - self._kernel.time.now, look)

    def _ident(self) -> int:
        return self._rng.getrandbits(32)


def _expectation_key(message: bytes) -> bytes:
    """Family, tuple and mask of a request."""
    at = 20
    for _ in range(2):
        at += int.from_bytes(message[at : at + 2], "little")
    return message[16:at]


def _zone_of(master: Entry) -> int:
    return master.facts.zone or master.facts.orig.zone


def _translated(reply: Way, bit: int, raw: bytes) -> Way:
    """The reply tuple behind CTA_NAT_SRC or CTA_NAT_DST of one address and port."""
    parts = dict(walk(raw))
    address = parts[1] if 1 in parts else parts[4]
    if (parts[2] if 1 in parts else parts[5]) != address:
        raise AssertionError("a range of more than one address")
    numbers = reply.numbers
    if 3 in parts and numbers and reply.protocol != 47:
        port = int.from_bytes(dict(walk(parts[3]))[1])
        if reply.protocol in (ICMP, ICMPV6):
            numbers = (port, *numbers[1:])
        elif bit == SRC_NAT:
            numbers = (numbers[0], port)
        else:
            numbers = (port, numbers[1])
    if bit == SRC_NAT:
        return reply._replace(target=address, numbers=numbers)
    return reply._replace(source=address, numbers=numbers)


def _tracked(before: Tracker, wanted: Facts) -> Tracker | None:
    """What `nlattr_to_tcp` makes of it: flags by their mask, scales if both have one.

    The mask that syncd sends covers what a kernel that joins in late may believe.
    """
    asked = wanted.tracker
    if asked is None or wanted.orig.protocol != TCP:
        return asked
    mask = 0x0F
    orig_flags = before.orig_flags & ~mask | asked.orig_flags & mask
    reply_flags = before.reply_flags & ~mask | asked.reply_flags & mask
    scales = before.orig, before.reply
    if orig_flags & reply_flags & _SCALED:
        scales = asked.orig, asked.reply
    return Tracker(asked.state, *scales, orig_flags, reply_flags)
