"""What helpers change without an event is asked for, and not told more than needed."""

from syncd.flows import restore
from syncd.flows.helped import AT_ONCE, Timers
from syncd.flows.nla import nested, tlv
from syncd.flows.own import Own
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    CANONICAL,
    CTA_EXPECT_FLAGS,
    CTA_EXPECT_MASTER,
    CTA_EXPECT_TIMEOUT,
    CTA_EXPECT_ZONE,
    CTA_HELP,
    CTA_HELP_NAME,
    CTA_SEQ_ADJ_ORIG,
    CTA_STATUS,
    DUMP,
    EXP_DUMP,
    EXP_END,
    EXP_NEW,
    NEW,
    UPDATE,
    Record,
    mask_of,
)
from syncd.flows.table import NEW_TO_PEERS
from syncd.flows.zones import zone_of_original

from tests.unit.flows.recorded import recorded
from tests.unit.replication.talk import flow_body, flow_key

ONE = b"\0\0\0\1"
HELP = nested(CTA_HELP, tlv(CTA_HELP_NAME, b"ftp\0"))
_TRANSLATED = tlv(CTA_STATUS, b"\0\0\x20\x1e")


def _helped(number: int, kind: int = NEW, *, translated: bool = True) -> Record:
    """A control connection; with `translated` its source is."""
    body = flow_body(number) + HELP
    if translated:
        body = body.replace(tlv(CTA_STATUS, b"\0\0\0\x0e"), _TRANSLATED)
    return kind, flow_key(number), body, ONE, mask_of(body)


def _key(scenario: str) -> bytes:
    return RecordReader().read_one(recorded(scenario)[0].message)[1]


def _expectation(
    number: int, seconds: int, flags: int = 0, kind: int = EXP_DUMP
) -> Record:
    key = flow_key(number)
    tuple_part, master = b"\x34\0\x02\x80" + key[8:], b"\x34\0\x01\x80" + key[8:]
    mask = b"\x34\0\x03\x80" + bytes(48)
    body = (
        master
        + tlv(CTA_EXPECT_TIMEOUT, seconds.to_bytes(4))
        + tlv(CTA_EXPECT_FLAGS, flags.to_bytes(4))
    )
    assert master[2] == CTA_EXPECT_MASTER
    return kind, key[:4] + tuple_part + mask, body, ONE, CANONICAL


def test_a_translated_flow_with_a_helper_is_read_again_when_it_changes() -> None:
    own = Own()
    own.apply([_helped(1), _helped(2, translated=False)], 1.0)
    assert not own.lookups
    own.apply([_helped(1, UPDATE), _helped(2, UPDATE, translated=False)], 1.0)
    assert list(own.lookups) == [flow_key(1)]


def test_what_a_lookup_finds_shifted_is_told() -> None:
    own = Own()
    own.apply([_helped(1)], 1.0)
    own.flows.marks.clear()
    _, key, body, ident, mask = _helped(1, DUMP)
    own.apply([(DUMP, key, body, ident, mask)], 1.0)
    assert not own.flows.marks
    for offset in (b"\0\0\0\1", b"\0\0\0\2"):  # and the next command shifts it further
        shifted = body + nested(CTA_SEQ_ADJ_ORIG, tlv(3, offset))
        own.apply([(DUMP, key, shifted, ident, mask | 1 << CTA_SEQ_ADJ_ORIG)], 1.0)
        assert own.flows.bodies[key] == shifted
        assert list(own.flows.marks) == [key]
        own.flows.marks.clear()


def test_flows_that_helpers_rewrite_are_asked_for_in_turn_and_then_forgotten() -> None:
    own = Own()
    assert bool(own.unspoken) is False
    own.apply([_helped(number) for number in range(AT_ONCE + 10)], 1.0)
    assert own.unspoken
    own.ask_helped()
    assert len(own.lookups) == AT_ONCE
    own.ask_helped()
    assert len(own.lookups) == AT_ONCE + 10
    for number in range(AT_ONCE + 10):
        own.flows.end(flow_key(number))
    own.lookups.clear()
    own.ask_helped()
    own.ask_helped()
    assert not own.lookups
    assert bool(own.unspoken) is False


def test_the_master_of_a_new_expectation_is_read_at_once_and_once_more() -> None:
    own = Own()
    own.apply([_helped(1), _expectation(1, 300, kind=EXP_NEW)], 1.0)
    assert flow_key(1) in own.lookups
    own.lookups.clear()
    own.ask_helped()
    assert flow_key(1) in own.lookups


def test_an_expectation_is_told_again_only_when_it_has_changed() -> None:
    own = Own()
    record = _expectation(1, 300, kind=EXP_NEW)
    own.apply([record], 1.0)
    table = own.expectations
    table.marks.clear()

    def review(*records: Record) -> list[bytes]:
        own.begin_review()
        own.fill(records)
        own.end_review()
        marked, table.marks = list(table.marks), {}
        return marked

    key = record[1]
    assert review(_expectation(1, 280)) == []
    assert review(_expectation(1, 160)) == []
    assert review(_expectation(1, 149)) == [key]  # half: who learns late must know
    assert review(_expectation(1, 148)) == []
    assert review(_expectation(1, 300)) == [key]  # set anew
    assert review(_expectation(1, 299)) == []
    assert review(_expectation(1, 200)) == []
    assert review(_expectation(1, 250)) == [key]
    assert review(_expectation(1, 240, flags=3)) == [key]
    assert review() == [key]
    assert not table.bodies


def test_a_review_does_not_end_what_came_meanwhile() -> None:
    own = Own()
    own.begin_review()
    own.apply([_expectation(1, 300, kind=EXP_NEW)], 1.0)
    own.end_review()
    assert own.expectations.marks == {_expectation(1, 300)[1]: NEW_TO_PEERS}
    own.begin_review()
    _, key, _, ident, _ = _expectation(1, 300)
    own.apply([(EXP_END, key, b"", ident, 0)], 1.0)
    own.fill([_expectation(1, 300)])  # shown before it ended, read after
    own.apply([_expectation(1, 300, kind=EXP_NEW)], 1.0)
    own.expectations.abort_dump()
    assert own.expectations.bodies


def test_timers_of_what_has_ended_are_forgotten() -> None:
    timers = Timers()
    _, key, body, _, _ = _expectation(1, 300)
    assert not timers.moved(key, body, _expectation(1, 200)[2])
    assert timers.moved(key, body, _expectation(1, 250)[2])
    timers.forget_all_but({})
    assert not timers.moved(key, body, _expectation(1, 290)[2])


def test_the_zone_of_a_master_is_that_of_its_original_direction() -> None:
    assert zone_of_original(_key("zone")) == b"\0\7"
    assert zone_of_original(_key("udp4")) is None
    assert zone_of_original(_key("zone_reply_dir")) is None
    key = _key("zone_orig_dir")
    assert zone_of_original(key) is not None
    own = Own()
    plain = flow_key(1)
    zoned = plain[:4] + b"\x3c\0" + plain[6:] + tlv(3, b"\0\x08")
    body = flow_body(1) + HELP
    own.apply([(NEW, zoned, body, ONE, mask_of(body))], 1.0)
    record = _expectation(1, 300, kind=EXP_NEW)
    own.apply([record], 1.0)
    expected = record[1] + tlv(CTA_EXPECT_ZONE, b"\0\x08")
    assert list(own.expectations.bodies) == [expected]


def test_a_helper_may_have_a_name_of_any_length() -> None:
    for length in range(1, 64):
        name = nested(CTA_HELP, tlv(CTA_HELP_NAME, b"n" * length + b"\0"))
        state = nested(
            CTA_HELP, tlv(CTA_HELP_NAME, b"n" * length + b"\0"), tlv(2, b"x")
        )
        for part in (name, state):
            body = flow_body(1) + part
            message = _message(flow_key(1), body)
            for by_layouts in (True, False):
                reader = RecordReader(by_layouts)
                for _ in range(2):
                    (record,) = reader.read([message])
                    assert record[1:3] == (flow_key(1), body)
            created = restore.create(flow_key(1), body, 60, 1)
            assert part in created
            assert part in restore.refresh(flow_key(1), 60, 1, body)


def _message(key: bytes, body: bytes) -> bytes:
    whole = key + body + tlv(12, ONE)
    return (16 + len(whole)).to_bytes(4, "little") + b"\0\1\0\6" + bytes(8) + whole
