"""Two accounts of one record are the same, but for what moves without an event."""

import pytest
from syncd.flows.likeness import alike, completed, lengthened
from syncd.flows.nla import nested, tlv
from syncd.flows.reader import RecordReader
from syncd.flows.record import CTA_MARK, EXP_NEW, without_timeout

from tests.unit.flows.recorded import recorded
from tests.unit.replication.talk import flow_body, flow_key

KEY = flow_key(1)


def _tcp(flags: int, status: int = 0x0E, seconds: int = 100, state: int = 3) -> bytes:
    both = bytes((flags, 0))
    inner = tlv(1, bytes((state,))), tlv(2, b"\7"), tlv(3, b"\7")
    protoinfo = nested(4, nested(1, *inner, tlv(4, both), tlv(5, both)))
    timer = tlv(3, status.to_bytes(4)) + tlv(7, seconds.to_bytes(4))
    return flow_body(1)[:52] + timer + protoinfo


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (_tcp(0x23), True),
        (_tcp(0x23, seconds=7), True),
        (_tcp(0x33), True),  # data in flight
        (_tcp(0x03), False),  # MAXACK_SET
        (_tcp(0x27), False),  # close-init
        (_tcp(0x23, state=4), False),
        (_tcp(0x23, status=0x0A), False),
        (_tcp(0x23, status=0x400E), True),  # offloaded
        (_tcp(0x23, status=0xC00E, seconds=9), True),  # to hardware
        (_tcp(0x23, status=0x240E), False),
        (_tcp(0x23) + tlv(CTA_MARK, b"\0\0\0\1"), False),
        (without_timeout(_tcp(0x23)), False),
        (_tcp(0x23)[:-2], False),
        (b"", False),
    ],
)
def test_a_flow_differs_by_what_events_tell(new: bytes, expected: bool) -> None:
    assert alike(KEY, _tcp(0x23), new) is expected
    assert alike(KEY, new, _tcp(0x23)) is expected


def test_a_lenient_look_does_not_see_maxack_set() -> None:
    assert alike(KEY, _tcp(0x23), _tcp(0x13), lenient=True)
    assert not alike(KEY, _tcp(0x23), _tcp(0x27), lenient=True)


def test_every_recorded_flow_is_like_itself_at_another_time() -> None:
    reader = RecordReader()
    for item in recorded():
        for _, key, body, _, _ in reader.read([item.message]):
            assert alike(key, body, body[:-1] + body[-1:])


def test_an_expectation_with_another_timer_is_the_same() -> None:
    messages = [item.message for item in recorded("ftp4_passive")]
    records = RecordReader().read(messages)
    _, key, body, _, _ = next(r for r in records if r[0] == EXP_NEW)
    at = body.index(bytes.fromhex("08000400"))
    moved = body[: at + 4] + (7).to_bytes(4) + body[at + 8 :]
    assert moved != body
    assert alike(key, body, moved)
    assert not alike(key, body, body[:-8])


def test_a_timer_is_longer_when_it_has_at_least_doubled() -> None:
    assert lengthened(KEY, _tcp(0x23, seconds=60), _tcp(0x23, seconds=120))
    assert not lengthened(KEY, _tcp(0x23, seconds=61), _tcp(0x23, seconds=120))
    assert not lengthened(KEY, _tcp(0x23, seconds=1), _tcp(0x23, seconds=30))
    assert not lengthened(KEY, b"", _tcp(0x23))
    assert not lengthened(KEY, _tcp(0x23), b"")


def test_an_offloaded_flow_keeps_what_dumps_do_not_show() -> None:
    offloaded = without_timeout(_tcp(0x23, status=0x400E))[:60]
    mark = tlv(CTA_MARK, b"\0\0\0\1")
    assert completed(_tcp(0x23), offloaded) == _tcp(0x23, status=0x400E)
    assert completed(_tcp(0x23), offloaded + mark) == _tcp(0x23, status=0x400E) + mark
    assert completed(offloaded, offloaded) == offloaded
    assert completed(b"\7", offloaded) == offloaded
