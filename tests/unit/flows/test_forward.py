"""What two kernels know of one flow goes forward on both, and comes to an end."""

import pytest
from syncd.flows import nla
from syncd.flows.forward import advance
from syncd.flows.record import CTA_PROTOINFO, CTA_STATUS

from tests.unit.replication.talk import flow_body

SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, TIME_WAIT, SYN_SENT2 = 1, 2, 3, 4, 7, 9


def tcp(state: int, status: int) -> bytes:
    reply = flow_body(1)[:52]
    inner = nla.nested(1, nla.tlv(1, bytes((state,))))
    return (
        reply
        + nla.tlv(CTA_STATUS, status.to_bytes(4))
        + nla.tlv(7, bytes(4))
        + nla.nested(CTA_PROTOINFO, inner)
    )


def state(body: bytes) -> int:
    return nla.attributes(body)[CTA_PROTOINFO][12]


@pytest.mark.parametrize(
    ("ours", "theirs", "closing", "after"),
    [
        (SYN_SENT, SYN_RECV, False, SYN_RECV),
        (SYN_SENT2, SYN_RECV, False, SYN_RECV),
        (SYN_SENT, SYN_SENT2, False, SYN_SENT2),
        (SYN_RECV, SYN_SENT, False, None),
        (SYN_RECV, SYN_SENT2, False, None),
        (SYN_RECV, ESTABLISHED, False, ESTABLISHED),
        (ESTABLISHED, TIME_WAIT, False, None),
        (SYN_SENT, TIME_WAIT, True, None),
        (ESTABLISHED, FIN_WAIT, True, FIN_WAIT),
        (FIN_WAIT, TIME_WAIT, True, TIME_WAIT),
        (TIME_WAIT, ESTABLISHED, True, None),
        (ESTABLISHED, ESTABLISHED, True, None),
    ],
)
def test_tcp_goes_forward_only(
    ours: int, theirs: int, *, closing: bool, after: int | None
) -> None:
    further = advance(tcp(ours, 0x8), tcp(theirs, 0x8), closing=closing)
    assert (None if further is None else state(further)) == after


def test_bits_are_added_and_both_sides_come_to_rest() -> None:
    one, other = tcp(SYN_SENT, 0x8), tcp(ESTABLISHED, 0xA)
    one = advance(one, other, closing=True) or one
    other = advance(other, one, closing=True) or other
    assert advance(one, other, closing=True) is None
    assert nla.attributes(one)[CTA_STATUS][4:] == b"\0\0\0\x0a"


def test_another_flow_and_garbage_change_nothing() -> None:
    assert advance(tcp(SYN_SENT, 8), flow_body(2), closing=True) is None
    assert advance(b"\1\2\3", tcp(SYN_SENT, 8), closing=True) is None
