"""IPFIX messages, read by a small reader of RFC 7011 that knows only templates."""

import struct
from dataclasses import dataclass, field

from syncd.flows import ending
from syncd.flows.ending import Ending
from syncd.flows.ipfix import IpfixExporter
from syncd.flows.reader import RecordReader

from tests.unit.flows.recorded import recorded
from tests.unit.flows.test_ending import endings_of

NOW_NS = 1_795_253_203_000_000_000
Values = dict[tuple[int, int], bytes]  # (element, enterprise) -> value


@dataclass
class Collector:
    """What a collector makes of the datagrams; anything odd is an assertion."""

    templates: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    records: list[Values] = field(default_factory=list)
    options: list[Values] = field(default_factory=list)
    counted: int = 0

    def take(self, datagram: bytes, domain: int = 7) -> None:
        version, length, _, number, source = struct.unpack_from(">HHIII", datagram)
        assert (version, length, source) == (10, len(datagram), domain)
        assert number == self.counted
        at = 16
        while at < length:
            kind, size = struct.unpack_from(">HH", datagram, at)
            self.take_set(kind, datagram[at + 4 : at + size])
            at += size
        assert at == length

    def take_set(self, kind: int, inside: bytes) -> None:
        while inside:
            if kind in (2, 3):
                inside = self.template(inside, options=kind == 3)
                continue
            values, inside = self.record(self.templates[kind], inside)
            self.counted += 1
            (self.options if (149, 0) in values else self.records).append(values)

    def template(self, inside: bytes, *, options: bool) -> bytes:
        number, count = struct.unpack_from(">HH", inside)
        at = 6 if options else 4
        fields = []
        for _ in range(count):
            element, size = struct.unpack_from(">HH", inside, at)
            at += 4
            enterprise = 0
            if element & 0x8000:
                (enterprise,) = struct.unpack_from(">I", inside, at)
                at += 4
            fields.append((element & 0x7FFF, enterprise, size))
        assert self.templates.setdefault(number, fields) == fields
        return inside[at:]

    def record(
        self, fields: list[tuple[int, int, int]], inside: bytes
    ) -> tuple[Values, bytes]:
        values: Values = {}
        for element, enterprise, size in fields:
            if size == 65535:
                size, inside = inside[0], inside[1:]
            assert (element, enterprise) not in values
            assert len(inside) >= size
            values[element, enterprise] = inside[:size]
            inside = inside[size:]
        return values, inside


def exported(endings: list[Ending], room: int = 1400) -> list[Values]:
    exporter, collector = IpfixExporter(7, "fw1", room), Collector()
    exporter.add(endings, NOW_NS)
    for datagram, _ in exporter.take(NOW_NS, rest=True):
        assert len(datagram) <= room
        collector.take(datagram)
    assert exporter.malformed == 0
    return collector.records


def number(values: Values, element: int, enterprise: int = 0) -> int:
    return int.from_bytes(values[element, enterprise])


def test_every_recorded_end_is_one_record() -> None:
    scenarios = sorted({one.scenario for one in recorded()})
    endings = [one for scenario in scenarios for one in endings_of(scenario)]
    for room in (512, 1400):
        assert len(exported(endings * 3, room)) == 3 * len(endings)


def test_a_record_has_both_directions_and_the_kernels_times() -> None:
    (values,) = exported(endings_of("tcp4_acct_tstamp"))
    assert number(values, 152) == 1795216633884
    assert number(values, 153) == 1795216635889
    assert values[8, 0] == bytes((10, 77, 1, 10))
    assert values[12, 0] == bytes((10, 77, 2, 10))
    assert (number(values, 7), number(values, 11)) == (54820, 7000)
    assert (number(values, 2), number(values, 1)) == (8, 439)
    assert (number(values, 2, 29305), number(values, 1, 29305)) == (6, 335)
    assert (number(values, 4), number(values, 136), number(values, 239)) == (6, 3, 1)


def test_a_translated_flow_tells_the_end_of_a_nat_session() -> None:
    values = exported(endings_of("tcp4_dnat_snat"))[0]
    assert number(values, 230) == 5
    assert number(values, 323) == number(values, 153)
    assert values[225, 0] == bytes((10, 77, 2, 1))
    assert values[226, 0] == bytes((10, 77, 2, 10))
    assert (number(values, 227), number(values, 228)) == (51936, 7000)
    values = exported(endings_of("tcp6_snat"))[0]
    assert values[281, 0].hex() == "fd770002000000000000000000000001"
    assert (230, 0) not in values  # RFC 8158 knows no such event of IPv6


def test_icmp_has_type_and_code_and_its_number_where_that_is_translated() -> None:
    (values,) = exported(endings_of("icmp4"))
    assert number(values, 32) == 8 << 8
    assert (7, 0) not in values
    values = exported(endings_of("icmp4_masquerade"))[0]
    assert (number(values, 7), number(values, 227)) == (777, 42117)
    (values,) = exported(endings_of("icmp6"))
    assert number(values, 139) == 128 << 8


def test_mark_zone_and_helper_are_there() -> None:
    found = exported(endings_of("kitchen_sink_ftp4"))
    assert {number(values, 4, 21373) for values in found} == {51966}
    assert {number(values, 234) for values in found} == {7}
    assert b"ftp" in [values.get((96, 0)) for values in found]


def test_a_lost_flow_has_neither_reason_nor_counters() -> None:
    _, key, body, _, _ = RecordReader().read_one(recorded("udp4")[0].message)
    (values,) = exported([ending.lost_ending(key, body, taken_over=False)])
    assert not {(136, 0), (1, 0), (2, 0)} & set(values)
    assert number(values, 153) == NOW_NS // 1_000_000


def test_templates_come_again_with_what_the_exporter_says_of_itself() -> None:
    exporter, early, late = IpfixExporter(7, "fw1", 512), Collector(), Collector()
    exporter.announce(0, NOW_NS)
    exporter.add(endings_of("udp4") + endings_of("udp6"), NOW_NS)
    for datagram, _ in exporter.take(NOW_NS, rest=True):
        early.take(datagram)
    late.counted = early.counted
    exporter.announce(9, NOW_NS)
    exporter.add(endings_of("udp4"), NOW_NS)
    for datagram, _ in exporter.take(NOW_NS, rest=True):
        late.take(datagram)
    assert len(early.records) == 2
    assert len(late.records) == 1
    (told,) = late.options
    assert told[300, 0] == b"fw1"
    assert (number(told, 42), number(told, 165)) == (2, 9)


def test_what_is_no_message_is_counted() -> None:
    (one,) = endings_of("udp4")
    exporter = IpfixExporter(7, "fw1", 512)
    exporter.add([one._replace(message=one.message[:30])], NOW_NS)
    assert exporter.malformed == 1
    assert exporter.take(NOW_NS, rest=True) == []
