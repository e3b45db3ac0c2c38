"""The lines of `conntrack -L`, `-E`, `-L expect` and `-E expect`, version 1.4.7.

A `Shape` comes in and is given its text. The rule: byte for byte what conntrack (with
libnetfilter_conntrack 1.0.9) prints for the same message, with all its oddities; the
tests compare with the library itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from syncd.errors import RecordError
from syncd.flows import numbers as n
from syncd.flows.shape import Place, Shape

SECOND_NS: Final = 1_000_000_000
_CREATED: Final = 0x600  # NLM_F_CREATE | NLM_F_EXCL
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


@dataclass(frozen=True, slots=True)
class Clock:
    """What time it is, and what a second is called here; both come from outside."""

    now_ns: Callable[[], int]
    localtime: Callable[[float], Sequence[int]]  # as time.localtime


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a line is to have; each is a word of conntrack's option -o."""

    clock: Clock
    events: bool = False  # the lines say what happened: NEW, UPDATE, DESTROY
    extended: bool = False
    ident: bool = False
    timestamp: bool = False
    ktimestamp: bool = False
    labels: Mapping[int, str] | None = field(default=None)  # bit -> name


def event_of(shape: Shape) -> str:
    """new, update or destroy."""
    if shape.kind & 0xF:
        return "destroy"
    return "new" if shape.flags & _CREATED else "update"


def flow_text(shape: Shape, wishes: Wishes) -> None:
    """The line of a flow."""
    found = shape.attributes
    if wishes.events:
        _add_tag(shape)
    if wishes.extended:
        shape.add(f"{shape.family_name:<8} {shape.family} ")
    orig = Tuple(shape, found.get(n.CTA_ORIG))
    shape.add(f"{orig.protocol_name:<8} {orig.protocol} ")
    if n.CTA_TIMEOUT in found:
        shape.value(found[n.CTA_TIMEOUT], 4, "%d ")
    add_state(shape)
    status = status_of(shape)
    add_ends(shape, orig)
    add_zone(shape, orig, "orig")
    add_counters(shape, n.CTA_COUNTERS_ORIG)
    if status is not None and not status & n.SEEN_REPLY:
        shape.add("[UNREPLIED] ")
    if n.CTA_REPLY in found:
        reply = Tuple(shape, found[n.CTA_REPLY])
        add_ends(shape, reply)
        add_zone(shape, reply, "reply")
    add_counters(shape, n.CTA_COUNTERS_ORIG + 1)
    add_assured(shape, status or 0)
    add_number(shape, n.CTA_MARK, 4, "mark=%d ")
    add_number(shape, n.CTA_SECMARK, 4, "secmark=%d ")
    if n.CTA_SECCTX in found:
        shape.add(f"secctx={name_in(shape, found[n.CTA_SECCTX])} ")
    add_number(shape, n.CTA_ZONE, 2, "zone=%d ")
    _add_times(shape, wishes)
    if n.CTA_HELP in found:
        shape.add(f"helper={name_in(shape, found[n.CTA_HELP])} ")
    add_number(shape, n.CTA_USE, 4, "use=%d ")
    if wishes.ident:
        add_number(shape, n.CTA_ID, 4, "id=%d ")
    _add_labels(shape, wishes.labels)
    shape.strip()


def expectation_text(shape: Shape, wishes: Wishes) -> None:
    """The line of an expectation."""
    found = shape.attributes
    if wishes.events:
        _add_tag(shape)
    add_number(shape, n.EXP_TIMEOUT, 4, "%d ")
    expected = Tuple(shape, found.get(n.EXP_TUPLE))
    shape.add(f"proto={expected.protocol} ")
    add_ends(shape, expected)
    for kind, prefix in ((n.EXP_MASK, "mask-"), (n.EXP_MASTER, "master-")):
        add_ends(shape, Tuple(shape, found.get(kind)), prefix)
    add_number(shape, n.EXP_ZONE, 2, "zone=%d ")
    flags = shape.number(found[n.EXP_FLAGS], 4) if n.EXP_FLAGS in found else 0
    shape.add(",".join(flag_names(flags)))
    if flags:
        shape.add(" ")
    add_number(shape, n.EXP_CLASS, 4, "class=%d ")
    if n.EXP_HELPER in found:
        shape.add(f"helper={shape.word(found[n.EXP_HELPER])}")
    shape.strip()


class Tuple:
    """One direction of a flow, or one of the tuples of an expectation."""

    __slots__ = ("parts", "protocol", "source", "target", "zone")

    def __init__(self, shape: Shape, place: Place | None) -> None:
        if place is None:
            raise RecordError("a tuple is missing")
        found = shape.nested(place)
        if n.TUPLE_IP not in found:
            raise RecordError("a tuple without addresses")
        addresses = shape.nested(found[n.TUPLE_IP])
        first = 1 if 1 in addresses else 3  # IPv4, IPv6
        if first not in addresses or first + 1 not in addresses:
            raise RecordError("a tuple without addresses")
        self.source, self.target = addresses[first], addresses[first + 1]
        # A mask may come without a protocol.
        proto = found.get(n.TUPLE_PROTO)
        self.parts = {} if proto is None else shape.nested(proto)
        number = self.parts.get(n.PROTO_NUMBER)
        self.protocol = 0 if number is None else shape.number(number, 1)
        self.zone = found.get(n.TUPLE_ZONE)

    @property
    def protocol_name(self) -> str:
        return n.PROTOCOL_NAMES.get(self.protocol, "unknown")


def add_ends(
    shape: Shape, ends: Tuple, prefix: str = "", *, full: bool = False
) -> None:
    """`src=... dst=... sport=... dport=... `."""
    shape.add(f"{prefix}src=")
    shape.address(ends.source, full=full)
    shape.add(f" {prefix}dst=")
    shape.address(ends.target, full=full)
    shape.add(" ")
    if ends.protocol in n.WITH_PORTS:
        # A kernel that does not know the protocol tells no ports.
        add_part(shape, ends, n.PROTO_SOURCE, "sport=%d ")
        add_part(shape, ends, n.PROTO_TARGET, "dport=%d ")
    elif ends.protocol == n.GRE:
        add_part(shape, ends, n.PROTO_SOURCE, "srckey=0x%x ")
        add_part(shape, ends, n.PROTO_TARGET, "dstkey=0x%x ")
    elif ends.protocol in n.ICMP_PARTS:
        ident, kind, code = n.ICMP_PARTS[ends.protocol]
        add_part(shape, ends, kind, "type=%d ", 1)
        add_part(shape, ends, code, "code=%d ", 1)
        add_part(shape, ends, ident, "id=%d ")


def add_part(shape: Shape, ends: Tuple, kind: int, form: str, size: int = 2) -> None:
    """A port or the like; 0 if it is not told."""
    if kind in ends.parts:
        shape.value(ends.parts[kind], size, form)
    else:
        shape.add(form % 0)


def add_number(shape: Shape, kind: int, size: int, form: str) -> None:
    """A number of the message, if it is there."""
    if kind in shape.attributes:
        shape.value(shape.attributes[kind], size, form)


def add_state(shape: Shape) -> None:
    """The state of TCP, SCTP or DCCP."""
    for states, number in states_of(shape):
        shape.add(f"{n.state_name(states, number)} ")


def states_of(shape: Shape) -> list[tuple[tuple[str, ...], int]]:
    """Names and number of the state, in the order in which conntrack prints them."""
    place = shape.attributes.get(n.CTA_PROTOINFO)
    if place is None:
        return []
    parts = shape.nested(place)
    found: list[tuple[tuple[str, ...], int]] = []
    for kind in (1, 3, 2):  # TCP, SCTP, DCCP
        inside = shape.nested(parts[kind]) if kind in parts else {}
        if 1 in inside:
            found.append((n.STATES[kind], shape.number(inside[1], 1)))
    return found


def status_of(shape: Shape) -> int | None:
    place = shape.attributes.get(n.CTA_STATUS)
    return None if place is None else shape.number(place, 4)


def add_assured(shape: Shape, status: int) -> None:
    """The one of the three marks that counts most."""
    for bit, mark in (
        (n.HW_OFFLOAD, "[HW_OFFLOAD] "),
        (n.OFFLOAD, "[OFFLOAD] "),
        (n.ASSURED, "[ASSURED] "),
    ):
        if status & bit:
            shape.add(mark)
            return


def add_zone(shape: Shape, ends: Tuple, side: str) -> None:
    """The zone of one direction."""
    if ends.zone is not None:
        shape.value(ends.zone, 2, f"zone-{side}=%d ")


def counters_of(shape: Shape, kind: int) -> tuple[Place, Place] | None:
    """Packets and bytes of one direction."""
    if kind not in shape.attributes:
        return None
    parts = shape.nested(shape.attributes[kind])
    return (parts[1], parts[2]) if 1 in parts and 2 in parts else None


def add_counters(shape: Shape, kind: int) -> None:
    """`packets=... bytes=... `."""
    counters = counters_of(shape, kind)
    if counters is not None:
        shape.value(counters[0], 8, "packets=%d ")
        shape.value(counters[1], 8, "bytes=%d ")


def name_in(shape: Shape, place: Place) -> str:
    """The name that a helper or a security context has inside."""
    parts = shape.nested(place)
    if 1 not in parts:
        raise RecordError("a name is missing")
    return shape.word(parts[1])


def flag_names(flags: int) -> list[str]:
    """An expectation's flags."""
    return [name for bit, name in enumerate(n.EXPECTATION_FLAGS) if flags >> bit & 1]


def names_of_labels(value: bytes, names: Mapping[int, str]) -> list[str]:
    """The labels that are set and have a name, the lowest bit first."""
    bits = int.from_bytes(value, "little")  # of the little endian hosts we support
    return [
        names[bit]
        for bit in range(bits.bit_length())
        if bits >> bit & 1 and bit in names
    ]


def times_of(shape: Shape) -> dict[int, Place]:
    """When the flow began (1) and when it ended (2), in nanoseconds."""
    place = shape.attributes.get(n.CTA_TIMESTAMP)
    return {} if place is None else shape.nested(place)


def _add_tag(shape: Shape) -> None:
    shape.add(f"{f'[{event_of(shape).upper()}]':>9} ")


def _add_times(shape: Shape, wishes: Wishes) -> None:
    times = times_of(shape)
    if 1 in times:
        _add_age(shape, times, wishes.clock)

    def date(ns: int) -> str:
        return date_text(wishes.clock.localtime(ns // SECOND_NS))

    if wishes.ktimestamp:
        for kind, name in ((1, "start"), (2, "stop")):
            if kind in times:
                shape.add(f"[{name}=")
                shape.reckoned(times[kind], 8, date)
                shape.add("] ")


def _add_age(shape: Shape, times: dict[int, Place], clock: Clock) -> None:
    """From the first second to the last one; a flow that goes on ends now."""
    start, stop = times[1], times.get(2)

    def age(message: bytes) -> str:
        begun_ns = int.from_bytes(message[start[0] : start[1]])
        ended_ns = 0 if stop is None else int.from_bytes(message[stop[0] : stop[1]])
        age_s = (ended_ns or clock.now_ns()) // SECOND_NS - begun_ns // SECOND_NS
        return f"{age_s & 0xFFFFFFFFFFFFFFFF}"

    shape.add("delta-time=")
    shape.computed(age)
    shape.add(" ")


def date_text(moment: Sequence[int]) -> str:
    """As ctime() of the C library."""
    year, month, day, hour, minute, second, weekday = moment[:7]
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{_DAYS[weekday]} {_MONTHS[month - 1]} {day:2d} {clock} {year}"


def _add_labels(shape: Shape, names: Mapping[int, str] | None) -> None:
    place = shape.attributes.get(n.CTA_LABELS)
    if names is None or place is None or place[0] == place[1]:
        return

    def labels(value: bytes) -> str:
        found = names_of_labels(value, names)
        return f"={','.join(found)}" if found else ""

    # Of a flow whose labels have no names conntrack prints the word alone.
    shape.add("labels")
    shape.converted(place, labels)
