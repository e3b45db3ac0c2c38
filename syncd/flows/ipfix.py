"""Flows that ended as IPFIX messages (RFC 7011): endings come in, datagrams go out.

    message   version 10, length, export time, sequence number, observation domain
    set       id (2 templates, 3 options templates, 256... data), length, records

One record tells both directions (RFC 5103: reverse elements have enterprise number
29305); what was translated has the elements of a NAT session's end (RFC 8158).

The rule: a datagram fits the room that it is given, a template goes out before the
first record that needs it and again on each beat, and the sequence number counts the
data records before the message, whatever became of them.
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from syncd.errors import RecordError
from syncd.flows import numbers as n
from syncd.flows.ending import (
    CLOSED,
    DELETED,
    EVICTED,
    EXPIRED,
    LOST,
    REMOVED,
    RESET,
    Ending,
    whole,
)
from syncd.flows.shape import IPV4, Place, Shape
from syncd.flows.text import Tuple, counters_of, name_in, status_of, times_of

# Information elements as (number, octets, enterprise). iana.org/assignments/ipfix
Element = tuple[int, int, int]
_VARIABLE: Final = 65535
_REVERSE: Final = 29305
_NETFILTER: Final = 21373
_FLOW_START: Final[Element] = (152, 8, 0)  # flowStartMilliseconds
_FLOW_END: Final[Element] = (153, 8, 0)  # flowEndMilliseconds
_END_REASON: Final[Element] = (136, 1, 0)  # flowEndReason
_BIFLOW: Final[Element] = (239, 1, 0)  # biflowDirection: 1, from the initiator
_PROTOCOL: Final[Element] = (4, 1, 0)  # protocolIdentifier
_ADDRESSES: Final = {4: ((8, 4, 0), (12, 4, 0)), 16: ((27, 16, 0), (28, 16, 0))}
_PORTS: Final = ((7, 2, 0), (11, 2, 0))  # sourceTransportPort, destinationTransportPort
_ICMP: Final = {n.ICMP: (32, 2, 0), n.ICMPV6: (139, 2, 0)}  # icmpTypeCodeIPv4, IPv6
_COUNTERS: Final = ((2, 8, 0), (1, 8, 0))  # packetDeltaCount, octetDeltaCount
_ZONE: Final[Element] = (234, 4, 0)  # ingressVRFID
_ZONE_HIGH, _ZONE_LOW = (234, 2, 0), (234, 2, 0)  # the kernel has 16 bits
_MARK: Final[Element] = (4, 4, _NETFILTER)  # as ulogd numbers it
_IDENT: Final[Element] = (148, 8, 0)  # flowId
_IDENT_HIGH, _IDENT_LOW = (148, 4, 0), (148, 4, 0)  # the kernel has 32 bits
_HELPER: Final[Element] = (96, _VARIABLE, 0)  # applicationName
_OBSERVED: Final[Element] = (323, 8, 0)  # observationTimeMilliseconds
_NAT_EVENT: Final[Element] = (230, 1, 0)  # natEvent: 5, NAT44 session delete
_NAT_ADDRESSES: Final = {
    4: ((225, 4, 0), (226, 4, 0)),  # postNATSource- and -DestinationIPv4Address
    16: ((281, 16, 0), (282, 16, 0)),  # the same of IPv6
}
_NAT_PORTS: Final = ((227, 2, 0), (228, 2, 0))  # postNAPTSource- and -Destination-
_OPTIONS: Final[tuple[Element, ...]] = (
    (149, 4, 0),  # observationDomainId, the scope
    (300, _VARIABLE, 0),  # observationDomainName: the node
    (42, 8, 0),  # exportedFlowRecordTotalCount
    (165, 8, 0),  # notSentFlowTotalCount
)
_END_REASONS: Final = {
    EXPIRED: b"\1",  # idle timeout
    CLOSED: b"\3",  # end of flow detected
    RESET: b"\3",
    DELETED: b"\4",  # forced end
    REMOVED: b"\4",
    EVICTED: b"\5",  # lack of resources
    LOST: b"",
}

_HEADER: Final = Struct(">HHIII")
_PAIR: Final = Struct(">HH")
_TOTALS: Final = Struct(">QQ")
_VERSION, _TEMPLATES, _OPTIONS_TEMPLATES = 10, 2, 3
_OPTIONS_ID, _FIRST_ID = 256, 257
_NAT_BITS: Final = 0x30  # IPS_SRC_NAT, IPS_DST_NAT
_MS_NS: Final = 1_000_000
_ZEROS: Final = bytes(8)
_LAYOUTS: Final = 4096


class _Layout(NamedTuple):
    """How the records of messages of one shape are cut."""

    template: int
    start: Place | None
    stop: Place | None
    before: bytes  # what stands between the times and the rest
    observed: bool
    places: tuple[Place, ...]  # of the message, with zeros behind it
    tail: bytes


class IpfixExporter:
    """Packs endings into messages."""

    __slots__ = (
        "_closed",
        "_domain",
        "_flows",
        "_known",
        "_layouts",
        "_name",
        "_open",
        "_parts",
        "_records",
        "_size",
        "_templates",
        "exported",
        "malformed",
        "message_bytes",
        "sequence",
    )

    def __init__(self, domain: int, node: str, message_bytes: int) -> None:
        self.message_bytes = message_bytes  # room of one datagram
        self.sequence = 0  # data records so far, those of the open message too
        self.exported = 0  # flows
        self.malformed = 0  # endings that are no flow's message
        self._domain = domain
        self._name = node.encode()[:254]
        self._layouts: dict[tuple[int, bool], dict[int, dict[int, _Layout]]] = {}
        self._known = 0
        self._templates: dict[tuple[Element, ...], int] = {}
        self._closed: list[tuple[bytes, int]] = []
        self._parts: list[list[bytes]] = []  # the sets of the open message
        self._open = 0  # the id of its last set
        self._size = _HEADER.size
        self._records = self._flows = 0

    def add(self, endings: Iterable[Ending], now_ns: int) -> None:
        """A record for each; what is no flow's message is counted."""
        for ending in endings:
            message = whole(ending)
            try:
                layout = self._layout(message, ending.reason == LOST, now_ns)
            except RecordError:
                self.malformed += 1
                continue
            stop = layout.stop
            end_ms = now_ns // _MS_NS
            if stop is not None:
                end_ms = int.from_bytes(message[stop[0] : stop[1]]) // _MS_NS
            end = end_ms.to_bytes(8)
            parts = [end, _END_REASONS[ending.reason], layout.before]
            if layout.start is not None:
                begin, after = layout.start
                start_ms = int.from_bytes(message[begin:after]) // _MS_NS
                parts.insert(0, start_ms.to_bytes(8))
            if layout.observed:
                parts.append(end)
            data = message + _ZEROS
            parts += [data[begin:after] for begin, after in layout.places]
            parts.append(layout.tail)
            self._put(layout.template, b"".join(parts), now_ns)
            self._flows += 1
            self.exported += 1

    def take(self, now_ns: int, *, rest: bool) -> list[tuple[bytes, int]]:
        """Datagrams that are full, each with the number of flows in it.

        With `rest` also the one that is being filled.
        """
        if rest:
            self._close(now_ns)
        closed, self._closed = self._closed, []
        return closed

    def announce(self, not_sent: int, now_ns: int) -> None:
        """All templates once more, and what the exporter says of itself."""
        self._close(now_ns)
        fields = _PAIR.pack(_OPTIONS_ID, len(_OPTIONS)) + b"\0\1" + _fields(_OPTIONS)
        self._put(_OPTIONS_TEMPLATES, fields, now_ns)
        name = bytes((len(self._name),)) + self._name
        totals = _TOTALS.pack(self.exported, not_sent)
        self._put(_OPTIONS_ID, self._domain.to_bytes(4) + name + totals, now_ns)
        for elements, number in self._templates.items():
            self._put(_TEMPLATES, _template(number, elements), now_ns)
        self._close(now_ns)

    def _put(self, number: int, record: bytes, now_ns: int) -> None:
        """A record into the set with this id, in the open message or a new one."""
        need = len(record) + (4 if number != self._open else 0)
        if self._size + need > self.message_bytes and self._parts:
            self._close(now_ns)
            need = len(record) + 4
        if number != self._open:
            self._parts.append([number.to_bytes(2)])
            self._open = number
        self._parts[-1].append(record)
        self._size += need
        if number > _OPTIONS_TEMPLATES:
            self._records += 1
            self.sequence += 1

    def _close(self, now_ns: int) -> None:
        """End the open message."""
        if not self._parts:
            return
        before = (self.sequence - self._records) & 0xFFFFFFFF
        second = now_ns // 1_000_000_000 & 0xFFFFFFFF
        pieces = [_HEADER.pack(_VERSION, self._size, second, before, self._domain)]
        for number, *records in self._parts:
            inside = b"".join(records)
            pieces += (number, (4 + len(inside)).to_bytes(2), inside)
        self._closed.append((b"".join(pieces), self._flows))
        self._parts, self._open = [], 0
        self._size, self._records, self._flows = _HEADER.size, 0, 0

    def _layout(self, message: bytes, lost: bool, now_ns: int) -> _Layout:
        value = int.from_bytes(message, "little")
        for mask, layouts in self._layouts.get((len(message), lost), {}).items():
            found = layouts.get(value & mask)
            if found is not None:
                return found
        return self._learn(message, lost, now_ns)

    def _learn(self, message: bytes, lost: bool, now_ns: int) -> _Layout:
        """The layout of the first message of a shape."""
        shape = Shape(message)
        cut = _Cut(shape, lost)
        elements = tuple(cut.elements)
        number = self._templates.get(elements)
        if number is None:
            number = _FIRST_ID + len(self._templates)
            self._templates[elements] = number
            self._put(_TEMPLATES, _template(number, elements), now_ns)
        layout = _Layout(
            *(number, cut.start, cut.stop, cut.before),
            *(cut.observed, tuple(cut.places), cut.tail),
        )
        if self._known == _LAYOUTS:
            self._layouts.clear()
            self._known = 0
        self._known += 1
        mask = shape.template().mask
        by_length = self._layouts.setdefault((len(message), lost), {})
        value = int.from_bytes(message, "little") & mask
        by_length.setdefault(mask, {})[value] = layout
        return layout


class _Cut:
    """What a record of a message like this has: elements, and where they stand."""

    def __init__(self, shape: Shape, lost: bool) -> None:
        self.shape = shape
        self.elements: list[Element] = []
        self.places: list[Place] = []
        self.before = b"\1"
        self.tail = b""
        times = {} if lost else times_of(shape)
        self.start, self.stop = times.get(1), times.get(2)
        orig = Tuple(shape, shape.attributes.get(n.CTA_ORIG))
        reply = Tuple(shape, shape.attributes.get(n.CTA_REPLY))
        status = status_of(shape) or 0
        self.observed = bool(status & _NAT_BITS)
        if self.start is not None:
            self.elements.append(_FLOW_START)
        self.elements.append(_FLOW_END)
        if not lost:
            self.elements.append(_END_REASON)
        self.elements.append(_BIFLOW)
        if self.observed:
            if shape.family == IPV4:
                self.elements.append(_NAT_EVENT)
                self.before += b"\5"
            self.elements.append(_OBSERVED)
        self._add_ends(orig)
        if self.observed:
            self._add_translated(reply)
        self._add_counters()
        self._add_rest(orig)

    def _add(self, element: Element, place: Place | None) -> None:
        """An element whose value stands in the message, or is zeros."""
        _, size, _ = element
        if place is None:
            place = (len(self.shape.message), len(self.shape.message) + size)
        else:
            self.shape.value(place, size)  # refuses another size
        self.elements.append(element)
        self.places.append(place)

    def _add_ends(self, orig: Tuple) -> None:
        size = orig.source[1] - orig.source[0]
        if size not in _ADDRESSES:
            raise RecordError(f"an address of {size} bytes")
        source, target = _ADDRESSES[size]
        self._add(source, orig.source)
        self._add(target, orig.target)
        self._add(_PROTOCOL, orig.parts.get(n.PROTO_NUMBER))
        if orig.protocol in n.WITH_PORTS:
            self._add(_PORTS[0], orig.parts.get(n.PROTO_SOURCE))
            self._add(_PORTS[1], orig.parts.get(n.PROTO_TARGET))
        elif orig.protocol in _ICMP:
            ident, kind, code = n.ICMP_PARTS[orig.protocol]
            if kind not in orig.parts or code not in orig.parts:
                raise RecordError("a tuple without its type")
            self.elements.append(_ICMP[orig.protocol])
            for part in (kind, code):
                self.shape.value(orig.parts[part], 1)
                self.places.append(orig.parts[part])
            if self.observed:
                self._add(_PORTS[0], orig.parts.get(ident))

    def _add_translated(self, reply: Tuple) -> None:
        """Where replies go to is what the source became, and the other way round."""
        size = reply.source[1] - reply.source[0]
        if size not in _NAT_ADDRESSES:
            raise RecordError(f"an address of {size} bytes")
        source, target = _NAT_ADDRESSES[size]
        self._add(source, reply.target)
        self._add(target, reply.source)
        if reply.protocol in n.WITH_PORTS:
            self._add(_NAT_PORTS[0], reply.parts.get(n.PROTO_TARGET))
            self._add(_NAT_PORTS[1], reply.parts.get(n.PROTO_SOURCE))
        elif reply.protocol in n.ICMP_PARTS:
            ident, _, _ = n.ICMP_PARTS[reply.protocol]
            self._add(_NAT_PORTS[0], reply.parts.get(ident))

    def _add_counters(self) -> None:
        for side in (0, 1):
            counters = counters_of(self.shape, n.CTA_COUNTERS_ORIG + side)
            if counters is None:
                continue
            enterprise = _REVERSE if side else 0
            for (number, size, _), place in zip(_COUNTERS, counters, strict=True):
                self._add((number, size, enterprise), place)

    def _add_rest(self, orig: Tuple) -> None:
        shape, found = self.shape, self.shape.attributes
        zone = found.get(n.CTA_ZONE, orig.zone)
        self._add(_MARK, found.get(n.CTA_MARK))
        self._add(_ZONE_HIGH, None)
        self._add(_ZONE_LOW, zone)
        self.elements[-2:] = [_ZONE]
        self._add(_IDENT_HIGH, None)
        self._add(_IDENT_LOW, found.get(n.CTA_ID))
        self.elements[-2:] = [_IDENT]
        if n.CTA_HELP in found:
            name = name_in(shape, found[n.CTA_HELP]).encode()[:254]
            self.elements.append(_HELPER)
            self.tail = bytes((len(name),)) + name


def _fields(elements: Iterable[Element]) -> bytes:
    """Field specifiers."""
    return b"".join(
        _PAIR.pack(number | 0x8000, size) + enterprise.to_bytes(4)
        if enterprise
        else _PAIR.pack(number, size)
        for number, size, enterprise in elements
    )


def _template(number: int, elements: tuple[Element, ...]) -> bytes:
    return _PAIR.pack(number, len(elements)) + _fields(elements)
