"""A dump beside what peers tell: what differs in more than timers is asked for."""

from syncd.flows import nla
from syncd.flows.doubts import Doubts
from syncd.flows.planted import END_SHIFT
from syncd.flows.planting import same_copy
from syncd.flows.record import (
    CTA_MARK,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_FLAGS_ORIGINAL,
    CTA_PROTOINFO_TCP_FLAGS_REPLY,
    CTA_PROTOINFO_TCP_STATE,
    CTA_PROTOINFO_TCP_WSCALE_ORIGINAL,
    CTA_PROTOINFO_TCP_WSCALE_REPLY,
    DUMP,
    Record,
)

from tests.unit.replication.talk import flow_body, flow_key

NOW = 1000.0
LIBERAL = 0x08


def tcp_body(number: int, seconds: int, state: int = 3, flags: int = 3) -> bytes:
    """An established connection as the kernel writes it."""
    parts = nla.attributes(flow_body(number, seconds))
    told = bytes((flags, flags))
    tcp = nla.nested(
        CTA_PROTOINFO_TCP,
        nla.tlv(CTA_PROTOINFO_TCP_STATE, bytes((state,))),
        nla.tlv(CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, b"\7"),
        nla.tlv(CTA_PROTOINFO_TCP_WSCALE_REPLY, b"\7"),
        nla.tlv(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, told),
        nla.tlv(CTA_PROTOINFO_TCP_FLAGS_REPLY, told),
    )
    parts[CTA_PROTOINFO] = nla.nested(CTA_PROTOINFO, tcp)
    return b"".join(parts.values())


class Scene:
    """Copies with a timer of 120 s, written 20 s ago."""

    def __init__(self, *numbers: int) -> None:
        self.told = {flow_key(number): tcp_body(number, 86400) for number in numbers}
        self.planted = dict(self.told)
        self.judged = 0
        ends = dict.fromkeys(self.planted, int(NOW) + 100 << END_SHIFT)
        self.doubts = Doubts(self.planted, ends, self._differ)

    def _differ(self, _key: bytes, told: bytes, held: bytes) -> bool:
        self.judged += 1
        return not same_copy(told, held)

    def look(self, *records: tuple[int, bytes]) -> list[int]:
        dump: list[Record] = [(DUMP, flow_key(n), body, b"", 0) for n, body in records]
        names = {flow_key(number): number for number, _ in records}
        return [names[key] for key in self.doubts.look(dump, self.told, NOW)]


def held(number: int, seconds: int = 100, **other: int) -> tuple[int, bytes]:
    return number, tcp_body(number, seconds, **{"flags": 3 | LIBERAL, **other})


def test_copies_that_stand_as_they_were_written_raise_no_doubts() -> None:
    scene = Scene(*range(50))
    assert scene.look(*(held(number) for number in range(50))) == []
    assert (scene.doubts.compared, scene.doubts.untold) == (50, 0)
    assert scene.doubts.unseen(100) == []
    assert scene.judged == 1  # what holds for one pair of states holds for all


def test_another_state_and_another_mark_are_doubtful() -> None:
    scene = Scene(1, 2, 3)
    marked = tcp_body(2, 100) + nla.tlv(CTA_MARK, b"\0\0\0\x63")
    assert scene.look(held(1, state=2), (2, marked), held(3)) == [1, 2]


def test_a_timer_that_was_not_written_so_is_doubtful() -> None:
    scene = Scene(1, 2, 3)
    assert scene.look(held(1, 97), held(2, 110), held(3, 60)) == [2, 3]


def test_what_the_dump_does_not_show_is_doubtful_unless_it_ended_meanwhile() -> None:
    scene = Scene(1, 2, 3)
    scene.look(held(1))
    del scene.planted[flow_key(2)]
    assert scene.doubts.unseen(10) == [flow_key(3)]
    assert scene.doubts.unseen(10) == []


def test_what_is_no_copy_is_not_looked_at_and_what_nobody_tells_is_counted() -> None:
    scene = Scene(1, 2)
    del scene.told[flow_key(1)]
    assert scene.look(held(1), held(7), held(2)) == []
    assert (scene.doubts.compared, scene.doubts.untold) == (1, 1)
