"""Many flows become requests at once: the hot path of a commit.

In: records with the time since they were told, and for those that the kernel holds, its
bodies. Out: the messages of `restore`, byte for byte, at about 1 us each.

The rule: kernels write few layouts, and those are sliced. STATUS, TIMEOUT and PROTOINFO
go through bounded caches keyed by the raw attribute, which so checks its header too.
What is not in a cache, or laid out in another way, takes the way through `restore`,
which also fills the caches.
"""

from array import array
from collections.abc import Iterator, Sequence
from struct import Struct, iter_unpack

from syncd.errors import RecordError
from syncd.flows import nla
from syncd.flows.likeness import OFFLOADED
from syncd.flows.protoinfo import (
    doubted_s,
    is_lenient,
    protoinfo_to_send,
    uses_scales,
)
from syncd.flows.record import CTA_NAT_DST, CTA_NAT_SRC, CTA_STATUS, CTA_TIMEOUT
from syncd.flows.restore import (
    CONFIRMED,
    CREATE,
    CT_NEW,
    DST_NAT,
    EXCL,
    EXPECTED,
    FIXED_TIMEOUT,
    HELPER,
    KEPT_BITS,
    LARGEST_RECORD,
    NAT_BITS,
    NO_MARK,
    REFRESH_FLOOR_S,
    REQUEST,
    SRC_NAT,
    be32,
    create,
    estimate_s,
    has_fixed_timer,
    is_expectation,
    nat_range,
    refresh,
    remaining_s,
    same_content,
    same_tuples,
)
from syncd.flows.timers import DEFAULTS, Timers

TimedRecord = tuple[bytes, bytes, float]  # Key, body, seconds since it was told.

_TIMEOUT = CTA_TIMEOUT  # A C integer when compiled.
_HEAD, _BE32 = Struct("<IHH"), Struct(">I").pack
_IPPROTO_UDP = 17
_CACHE_LIMIT = 65_536
_STATUS_HEAD, _TIMEOUT_HEAD = b"\x08\0\x03\0", b"\x08\0\x07\0"
_PROTOINFO_HEAD, _MARK_HEAD = b"\x30\0\x04\x80", b"\x08\0\x08\0"
_TCP_TYPE = b"\x01\x80"  # CTA_PROTOINFO_TCP, at 6 in a PROTOINFO.
_UNKNOWN = (b"", 0)
_MINUTES_S = 2 * REFRESH_FLOOR_S  # Half of it is the floor.


class Restorer:
    """Requests for many flows at once; `fixed_timeout_s` overrides the estimate.

    Every method returns one message per record, in order, numbered from `sequence`. An
    empty message stands for a flow that is malformed (`creates`), that is not the same
    as the kernel's (`refreshes`), or that a plain update does not serve (`updates`).
    """

    __slots__ = (
        "_doubted",
        "_established_s",
        "_fixed_timeout_s",
        "_half_s",
        "_lenient",
        "_long_s",
        "_masks",
        "_plain",
        "_protoinfos",
        "_scaled",
        "_shapes",
        "_timeouts",
        "_timers",
        "_translated",
    )

    def __init__(
        self,
        fixed_timeout_s: int | None = None,
        masks: bytes = b"",
        timers: Timers = DEFAULTS,
    ) -> None:
        if fixed_timeout_s is not None:
            fixed_timeout_s = min(fixed_timeout_s, 0xFFFF_FFFF)
        self._fixed_timeout_s = fixed_timeout_s
        self._timers = timers
        self._established_s = timers.established_s
        # As long or longer is beyond doubt, and half of it is left after the half.
        self._long_s = max(timers.established_s, timers.in_flight_s + 1)
        self._half_s = self._long_s // 2
        self._masks = masks  # Goes with each update, see `restore.update`.
        # Raw attribute -> what to send; STATUS with the header of the TIMEOUT after it.
        self._plain: dict[bytes, bytes] = {}
        self._translated: dict[bytes, tuple[bytes, int]] = {}
        self._protoinfos: dict[bytes, bytes] = {}
        # Those of them that an update serves: unused scales may have to be taken back.
        self._scaled: dict[bytes, bytes] = {}
        # PROTOINFO (a key of `_protoinfos`) -> what a refresh adds for it.
        self._lenient: dict[bytes, bytes] = {}
        # PROTOINFO (a key of `_protoinfos`) -> seconds, if established TCP.
        self._doubted: dict[bytes, int] = {}
        # Raw attribute -> seconds; raw attribute -> bits that an update may concern.
        self._timeouts: dict[bytes, int] = {}
        self._shapes: dict[bytes, int] = {}

    def timeout_s(self, key: bytes, body: bytes, elapsed_s: float) -> int:
        """The timeout to give to this record."""
        if self._fixed_timeout_s is None or (
            not is_expectation(key) and has_fixed_timer(body)
        ):
            return estimate_s(key, body, elapsed_s, self._timers)
        return self._fixed_timeout_s

    def creates(self, records: Sequence[TimedRecord], sequence: int) -> list[bytes]:
        """Messages that create flows; related ones name their masters."""
        plain, translated = self._plain.get, self._translated.get
        timeouts, protoinfos = self._timeouts.get, self._protoinfos.get
        doubted = self._doubted.get
        fixed_s, heads, be32, join = self._fixed_timeout_s, _HEADS.get, _BE32, b"".join
        messages: list[bytes] = []
        append = messages.append
        long_s, half_s = self._long_s, self._half_s
        numbers = _serials(sequence, len(records))
        for (key, body, elapsed_s), (serial,) in zip(records, numbers, strict=True):
            data, size, at = body, len(body), body[0] if body else 0
            end = at + 16
            if size < end:
                append(self._create_rarely(key, body, elapsed_s, serial))
                continue
            left = timeouts(data[at + 8 : end])
            if left is None:
                left = self._learn_timeout(data[at + 8 : end])
            raw = data[at : at + 8]
            reply, ranges, status, bits = data[:at], b"", plain(raw), 0
            if status is None:
                status, bits = translated(raw, _UNKNOWN)
            tail = data[end:size]
            protoinfo = protoinfos(tail)
            ports = at == 52 or at == 76
            if protoinfo is not None:
                tail = b""
            elif left is not None and ports and body[at - 20] == _IPPROTO_UDP:
                protoinfo = b""
            elif (protoinfo := protoinfos(tail[:48])) is not None:
                tail = tail[48:]
            if bits and ports and len(key) >= at + 4:
                reply, ranges = _untranslate_ports(key, body, bits)
                bits = 0
            head = heads(len(key) + len(body) + len(ranges))
            if bits or left is None or not status or protoinfo is None or head is None:
                append(self._create_rarely(key, body, elapsed_s, serial))
                continue
            if fixed_s is not None:
                left = fixed_s
            elif left >= long_s and elapsed_s <= half_s:
                left -= int(elapsed_s)
            elif protoinfo and (short := doubted(body[end : end + 48])):
                if (
                    left > short
                    and left >= _MINUTES_S
                    and elapsed_s + elapsed_s <= left
                ):
                    left -= int(elapsed_s)
                else:
                    left = remaining_s(left, elapsed_s, short, self._established_s)
            elif left - elapsed_s >= REFRESH_FLOOR_S:
                left -= int(elapsed_s)
            else:
                left = remaining_s(left, elapsed_s)
            parts = (head, serial, key, reply, status, be32(left), protoinfo, tail)
            append(join((*parts, ranges)) if ranges else join(parts))
        return messages

    def refreshes(
        self, records: Sequence[TimedRecord], held: Sequence[bytes], sequence: int
    ) -> list[bytes]:
        """Messages that set the timers of flows that the kernel holds alike.

        See `restore.refresh` for what else they do.
        """
        lenient, long_s, half_s = self._lenient.get, self._long_s, self._half_s
        shapes, timeouts = self._shapes.get, self._timeouts.get
        protoinfos, fixed_s = self._protoinfos.get, self._fixed_timeout_s
        doubted = self._doubted.get
        heads, be32, join = _REFRESH_HEADS.get, _BE32, b"".join
        messages: list[bytes] = []
        append = messages.append
        numbers = _serials(sequence, len(records))
        for record, present, (serial,) in zip(records, held, numbers, strict=True):
            key, body, elapsed_s = record
            ours, theirs, at = body, present, body[0] if body else 0
            size, held_size, end = len(body), len(present), at + 16
            if size < end or held_size < end or theirs[at + 10] != _TIMEOUT:
                append(self._refresh_rarely(record, present, serial))
                continue
            left = timeouts(ours[at + 8 : end])
            if left is None:
                left = self._learn_timeout(ours[at + 8 : end])
            new, head = shapes(ours[at : at + 8]), heads(len(key))
            alike = ours[: at + 8] == theirs[: at + 8]
            rest, there = ours[end:size], theirs[end:held_size]
            if not alike or rest != there:
                old, kept = shapes(theirs[at : at + 8]), protoinfos(there[:48])
                sent = protoinfos(rest[:48])
                if old is None or (rest != there and (sent is None or kept is None)):
                    new = None
                elif new is not None and not alike:
                    alike = ours[:at] == theirs[:at] and _covers(old, new)
                alike = alike and sent == kept and rest[48:] == there[48:]
            tcp = there[6:8] == _TCP_TYPE
            more = lenient(there[:48]) if tcp else b""
            if left is None or new is None or head is None or more is None:
                append(self._refresh_rarely(record, present, serial))
                continue
            if not alike:
                append(b"")
                continue
            if fixed_s is not None:
                left = fixed_s
            elif (left >= long_s and elapsed_s <= half_s) or (
                not tcp and left - elapsed_s >= REFRESH_FLOOR_S
            ):
                left -= int(elapsed_s)
            else:
                short = doubted(rest[:48], 0)
                left = remaining_s(left, elapsed_s, short, self._established_s)
            if more:
                head = _HEAD.pack(24 + len(key) + len(more), CT_NEW, REQUEST)
            append(join((head, serial, key, _TIMEOUT_HEAD, be32(left), more)))
        return messages

    def updates(
        self, records: Sequence[TimedRecord], held: Sequence[bytes], sequence: int
    ) -> list[bytes]:
        """Messages that bring the kernel's flows, of the same tuples, up to date."""
        shapes, scaled = self._shapes.get, self._scaled.get
        timeouts, masks = self._timeouts.get, self._masks
        messages: list[bytes] = []
        numbers = _serials(sequence, len(records))
        for (key, body, elapsed_s), present, (serial,) in zip(
            records, held, numbers, strict=True
        ):
            ours, theirs, at = body, present, body[0] if body else 0
            size, held_size, end = len(body), len(present), at + 16
            if size < end or held_size < end:
                messages.append(b"")
                continue
            stored = timeouts(ours[at + 8 : end])
            if stored is None:
                stored = self._learn_timeout(ours[at + 8 : end])
            new, old = shapes(ours[at : at + 8]), shapes(theirs[at : at + 8])
            rest, mark = _split_mark(ours[end:size])
            there, kept_mark = _split_mark(theirs[end:held_size])
            if kept_mark and not mark:
                mark = NO_MARK
            protoinfo = scaled(rest)
            if not rest and (at == 52 or at == 76) and body[at - 20] == _IPPROTO_UDP:
                protoinfo = b""
            if (
                new is None
                or old is None
                or (new ^ old) & NAT_BITS
                or protoinfo is None
                or len(rest) != len(there)  # It has what may have to be cleared.
                or rest[2:3] != there[2:3]
                or ours[:at] != theirs[:at]
                or theirs[at + 10] != _TIMEOUT  # An offloaded flow has none.
                or stored is None
            ):
                messages.append(b"")
                continue
            left = self._fixed_timeout_s
            if left is None:
                short = self._doubted.get(rest, 0)
                left = remaining_s(stored, elapsed_s, short, self._established_s)
            status = new & KEPT_BITS | old & (KEPT_BITS | EXPECTED) | CONFIRMED
            length = 32 + len(key) + len(protoinfo) + len(mark) + len(masks)
            parts = (_STATUS_HEAD, _BE32(status), _TIMEOUT_HEAD, _BE32(left), protoinfo)
            head = _HEAD.pack(length, CT_NEW, REQUEST)
            messages.append(b"".join((head, serial, key, *parts, mark, masks)))
        return messages

    def _create_rarely(
        self, key: bytes, body: bytes, elapsed_s: float, serial: bytes
    ) -> bytes:
        """The same for a layout or a value that was not seen before."""
        try:
            timeout_s = self.timeout_s(key, body, elapsed_s)
            message = create(key, body, timeout_s, _number_of(serial))
        except RecordError:
            return b""
        self.learn(body)
        return message

    def _refresh_rarely(
        self, record: TimedRecord, present: bytes, serial: bytes
    ) -> bytes:
        key, body, elapsed_s = record
        try:
            same = same_tuples(body, present) and same_content(body, present)
            self.learn(body)
            self.learn(present)
            if not same:
                return b""
            timeout_s = self.timeout_s(key, body, elapsed_s)
            sequence = _number_of(serial)
            return refresh(key, timeout_s, sequence, present)
        except RecordError:
            return b""

    def _learn_timeout(self, raw: bytes) -> int | None:
        """The seconds in a TIMEOUT; None if it is something else."""
        if raw[:4] != _TIMEOUT_HEAD or len(raw) != 8:
            return None
        if len(self._timeouts) >= _CACHE_LIMIT:
            self._timeouts.clear()
        self._timeouts[raw] = seconds = int.from_bytes(raw[4:], "big")
        return seconds

    def learn(self, body: bytes) -> None:
        """Remember the attributes of a body that was walked without complaint."""
        for cache in (self._plain, self._translated, self._protoinfos, self._shapes):
            if len(cache) >= _CACHE_LIMIT:
                cache.clear()
        if not self._protoinfos:
            self._doubted.clear()
            self._lenient.clear()
            self._scaled.clear()
        at = body[0]
        raw, timeout = body[at : at + 8], body[at + 8 : at + 12]
        protoinfo = body[at + 16 : at + 64]
        if raw[:4] != _STATUS_HEAD or timeout != _TIMEOUT_HEAD:
            return
        status = int.from_bytes(raw[4:], "big")
        if not status & (FIXED_TIMEOUT | OFFLOADED):  # Whose timers are their own.
            sent = be32(CTA_STATUS, status & KEPT_BITS | CONFIRMED) + _TIMEOUT_HEAD
            if status & NAT_BITS:
                self._translated[raw] = sent, status & NAT_BITS
            else:
                self._plain[raw] = sent
        # Those with a helper take the way through `restore`, which names it.
        if not status & (FIXED_TIMEOUT | HELPER | OFFLOADED):
            self._shapes[raw] = status & (KEPT_BITS | NAT_BITS | EXPECTED)
        if protoinfo[:4] == _PROTOINFO_HEAD:
            self._protoinfos[protoinfo] = sent = protoinfo_to_send(protoinfo)
            if uses_scales(sent):
                self._scaled[protoinfo] = sent
            self._lenient[protoinfo] = b"" if is_lenient(protoinfo) else sent
            if established := doubted_s(protoinfo, self._timers):
                self._doubted[protoinfo] = established


def _covers(old: int, new: int) -> bool:
    """Does the kernel's flow have the status bits that ours would add, and our NAT?"""
    return not (new ^ old) & NAT_BITS and not new & KEPT_BITS & ~old


def _untranslate_ports(key: bytes, body: bytes, bits: int) -> tuple[bytes, bytes]:
    """`restore.untranslate` for tuples with ports, by their fixed places."""
    ends, real, to_source, to_destination, maximum = (
        _PORTS_V4 if body[0] == 52 else _PORTS_V6
    )
    source, destination, source_port, destination_port = ends(key)
    head, real_source, inner, real_destination, ports, port, last, real_port = real(
        body
    )
    join = b"".join
    reply = (head, destination, inner, source, ports, destination_port, last)
    ranges = b""
    if bits & SRC_NAT:
        address = (to_source, real_destination, maximum, real_destination)
        ranges = join((*address, _MINIMUM_PORT, real_port, _MAXIMUM_PORT, real_port))
    if bits & DST_NAT:
        address = (to_destination, real_source, maximum, real_source)
        ranges += join((*address, _MINIMUM_PORT, port, _MAXIMUM_PORT, port))
    return join((*reply, source_port)), ranges


def _split_mark(rest: bytes) -> tuple[bytes, bytes]:
    """MARK is the last attribute of a body."""
    return (rest[:-8], rest[-8:]) if rest[-8:-4] == _MARK_HEAD else (rest, b"")


def _serials(first: int, count: int) -> Iterator[tuple[bytes]]:
    """nlmsg_seq and nlmsg_pid (0: the kernel) for `count` messages."""
    return iter_unpack("8s", array("Q", range(first, first + count)).tobytes())


def _number_of(serial: bytes) -> int:
    return int.from_bytes(serial[:4], "little")


_HEADS = {
    size: _HEAD.pack(16 + size, CT_NEW, REQUEST | CREATE | EXCL)
    for size in range(0, LARGEST_RECORD, 4)
}
_REFRESH_HEADS = {
    size: _HEAD.pack(16 + size + 8, CT_NEW, REQUEST) for size in range(32, 128, 4)
}
# Unpack the ends of a key; unpack a reply tuple; the heads of CTA_NAT_SRC and of
# CTA_NAT_DST with that of their lowest address; the head of the highest address.
_PORTS_V4 = (
    Struct("16x4s4x4s16x4s4x4s").unpack_from,
    Struct("12s4s4s4s16s4s4s4s").unpack_from,
    nat_range(CTA_NAT_SRC, 1, bytes(4), bytes(2))[:8],
    nat_range(CTA_NAT_DST, 1, bytes(4), bytes(2))[:8],
    nla.tlv(2, bytes(4))[:4],
)
_PORTS_V6 = (
    Struct("16x16s4x16s16x4s4x4s").unpack_from,
    Struct("12s16s4s16s16s4s4s4s").unpack_from,
    nat_range(CTA_NAT_SRC, 4, bytes(16), bytes(2))[:8],
    nat_range(CTA_NAT_DST, 4, bytes(16), bytes(2))[:8],
    nla.tlv(5, bytes(16))[:4],
)
_MINIMUM_PORT = nla.nested(3, nla.tlv(1, bytes(2)), nla.tlv(2, bytes(2)))[:8]
_MAXIMUM_PORT = nla.tlv(2, bytes(2))[:4]
