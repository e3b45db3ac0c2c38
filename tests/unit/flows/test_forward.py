"""What two kernels know of one flow goes forward on both, and comes to an end."""

import pytest
from syncd.flows import nla
from syncd.flows.forward import advance, bring
from syncd.flows.masks import Masks
from syncd.flows.record import (
    CTA_LABELS,
    CTA_MARK,
    CTA_MARK_MASK,
    CTA_PROTOINFO,
    CTA_STATUS,
)

from tests.unit.replication.talk import flow_body, flow_key

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
    ("ours", "theirs", "after"),
    [
        (SYN_SENT, SYN_RECV, SYN_RECV),
        (SYN_SENT2, SYN_RECV, SYN_RECV),
        (SYN_SENT, SYN_SENT2, SYN_SENT2),
        (SYN_RECV, SYN_SENT, None),
        (SYN_RECV, SYN_SENT2, None),
        (SYN_RECV, ESTABLISHED, ESTABLISHED),
        (SYN_SENT, TIME_WAIT, None),
        (ESTABLISHED, FIN_WAIT, FIN_WAIT),
        (FIN_WAIT, TIME_WAIT, TIME_WAIT),
        (TIME_WAIT, ESTABLISHED, None),
        (ESTABLISHED, ESTABLISHED, None),
    ],
)
def test_tcp_goes_forward_only(ours: int, theirs: int, after: int | None) -> None:
    further = advance(tcp(ours, 0x8), tcp(theirs, 0x8))
    assert (None if further is None else state(further)) == after


def test_bits_are_added_and_both_sides_come_to_rest() -> None:
    one, other = tcp(SYN_SENT, 0x8), tcp(ESTABLISHED, 0xA)
    one = advance(one, other) or one
    other = advance(other, one) or other
    assert advance(one, other) is None
    assert nla.attributes(one)[CTA_STATUS][4:] == b"\0\0\0\x0a"


@pytest.mark.parametrize(
    ("ours", "theirs", "mask", "after"),
    [
        (0, 7, 0xFF, 7),
        (7, 0, 0xFF, 0),
        (0x107, 0x202, 0xFF, 2),  # the kernel keeps the 0x100 that is not meant
        (0x107, 0x207, 0xFF, None),
        (7, 7, 0xFF, None),
        (7, 1, 0, None),
    ],
)
def test_marks_and_labels_become_those_of_the_primary(
    ours: int, theirs: int, mask: int, after: int | None
) -> None:
    here, there = (
        tcp(ESTABLISHED, 0x8)
        + (nla.tlv(CTA_MARK, mark.to_bytes(4, "big")) if mark else b"")
        + (nla.tlv(CTA_LABELS, mark.to_bytes(16, "little")) if mark else b"")
        for mark in (ours, theirs)
    )
    assert advance(here, there) is None
    masks = Masks(mask, mask)
    further = advance(here, there, masks)
    if after is None:
        assert further is None
        return
    assert further is not None
    marks = nla.attributes(further)
    assert int.from_bytes(marks.get(CTA_MARK, b"")[4:], "big") == after
    assert int.from_bytes(marks.get(CTA_LABELS, b"")[4:], "little") == after
    said = nla.attributes(bring(flow_key(1), further, 1, here, masks), 20)
    assert int.from_bytes(said[CTA_MARK][4:], "big") == after
    assert said[CTA_LABELS][4:] == after.to_bytes(16, "little")
    assert said[CTA_MARK_MASK][4:] == mask.to_bytes(4, "big")


def test_another_flow_and_garbage_change_nothing() -> None:
    assert advance(tcp(SYN_SENT, 8), flow_body(2)) is None
    assert advance(b"\1\2\3", tcp(SYN_SENT, 8)) is None
