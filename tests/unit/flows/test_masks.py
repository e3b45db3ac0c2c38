"""Masks take bits from marks and labels, and leave everything else alone."""

from syncd.config import ALL_LABELS, ALL_MARKS
from syncd.flows import nla, restore
from syncd.flows.masks import WHOLE, Masks
from syncd.flows.record import CTA_LABELS, CTA_LABELS_MASK, CTA_MARK, CTA_MARK_MASK

from tests.unit.flows.test_restore import VECTORS


def _flow(mark: int, labels: int) -> tuple[bytes, bytes]:
    vector = next(v for v in VECTORS if v.name.endswith("tcp4_close"))
    body = vector.body
    if labels:
        body += nla.tlv(CTA_LABELS, labels.to_bytes(16, "little"))
    return vector.key, body + (restore.be32(CTA_MARK, mark) if mark else b"")


def test_without_masks_nothing_is_touched() -> None:
    assert WHOLE.whole
    assert WHOLE.attributes == b""
    for vector in VECTORS:
        assert WHOLE.body(vector.key, vector.body) is vector.body


def test_the_bits_of_a_mask_stay_and_no_others() -> None:
    masks = Masks(0xFF00, 1 << 127 | 1)
    for told, left in (
        ((0x1234, 1 << 127 | 2), (0x1200, 1 << 127)),
        ((0x0034, 2), (0, 0)),
        ((0xFF00, 1), (0xFF00, 1)),
    ):
        assert masks.body(*_flow(*told)) == _flow(*left)[1]
    assert nla.values(masks.attributes) == {
        CTA_MARK_MASK: b"\0\0\xff\0",
        CTA_LABELS_MASK: b"\1" + bytes(14) + b"\x80",
    }


def test_each_mask_is_sent_only_where_it_leaves_something_out() -> None:
    assert set(nla.values(Masks(7, ALL_LABELS).attributes)) == {CTA_MARK_MASK}
    assert set(nla.values(Masks(ALL_MARKS, 0).attributes)) == {CTA_LABELS_MASK}


def test_expectations_and_what_is_malformed_pass_as_they_are() -> None:
    masks = Masks(0, 0)
    for vector in VECTORS:
        if restore.is_expectation(vector.key):
            assert masks.body(vector.key, vector.body) == vector.body
    key, body = _flow(1, 1)
    assert masks.body(key, body + b"\0") == body + b"\0"
    assert list(masks.restored([(key, body, 2.0)])) == [(key, _flow(0, 0)[1], 2.0)]
