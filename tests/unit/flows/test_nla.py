"""Attributes are found where they are, and bad lengths are refused."""

import pytest
from syncd.errors import RecordError
from syncd.flows.nla import attributes, find, nested, tlv, values, walk

MARK = bytes.fromhex("0800080000000007")
NAME = bytes.fromhex("0900060073697078") + b"\0\0\0\0"  # 5 bytes and padding


def test_walk_yields_type_and_places_of_each_attribute() -> None:
    assert list(walk(MARK + NAME)) == [(8, 0, 4, 8), (6, 8, 12, 17)]


def test_walk_keeps_to_the_range_it_is_given() -> None:
    assert list(walk(b"head" + MARK + NAME, 4, 12)) == [(8, 4, 8, 12)]


def test_walk_leaves_the_flag_bits_out_of_the_type() -> None:
    assert [kind for kind, *_ in walk(bytes.fromhex("0400 0180 0400 0240"))] == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("0300 0800", id="shorter than its header"),
        pytest.param("0000 0000", id="zero length"),
        pytest.param("0c00 0800 00000000", id="longer than the data"),
        pytest.param("0600 1200 0007", id="without its padding"),
        pytest.param("0800 0800 00000007 08", id="a byte left over"),
        pytest.param("08", id="no header"),
    ],
)
def test_a_bad_length_is_a_record_error(data: str) -> None:
    bad = bytes.fromhex(data)
    with pytest.raises(RecordError):
        list(walk(bad))
    with pytest.raises(RecordError):
        attributes(bad)


def test_an_end_beyond_the_data_is_a_record_error() -> None:
    with pytest.raises(RecordError):
        list(walk(MARK, 0, 12))
    with pytest.raises(RecordError):
        attributes(MARK, 0, 12)


def test_attributes_are_whole_and_padded() -> None:
    assert attributes(MARK + NAME) == {8: MARK, 6: NAME}


def test_values_are_bare() -> None:
    assert values(MARK + NAME) == {8: b"\0\0\0\7", 6: b"sipx\0"}


def test_of_duplicates_the_last_one_wins() -> None:
    assert values(MARK + tlv(8, b"last")) == {8: b"last"}
    assert attributes(MARK + tlv(8, b"last")) == {8: tlv(8, b"last")}


def test_find_tells_where_the_first_of_a_type_starts() -> None:
    assert find(NAME + MARK + MARK, 8) == 12
    assert find(NAME + nested(8, MARK), 8) == 12
    assert find(NAME + MARK, 5) == -1
    assert find(b"", 5) == -1


def test_find_stops_at_a_length_that_cannot_be() -> None:
    with pytest.raises(RecordError):
        find(bytes(4) + MARK, 8)


def test_nothing_has_no_attributes() -> None:
    assert attributes(b"") == {}
    assert list(walk(b"")) == []


@pytest.mark.parametrize("value", [b"", b"1", b"12", b"123", b"1234", b"12345"])
def test_tlv_pads_to_four_bytes_and_tells_the_bare_length(value: bytes) -> None:
    attribute = tlv(6, value)
    assert len(attribute) % 4 == 0
    assert list(walk(attribute)) == [(6, 0, 4, 4 + len(value))]
    assert values(attribute) == {6: value}


def test_nested_sets_the_flag_and_joins_its_parts() -> None:
    assert nested(4, tlv(1, b"\0\0\0\1"), tlv(2, b"")) == bytes.fromhex(
        "1000 0480 0800 0100 00000001 0400 0200"
    )
