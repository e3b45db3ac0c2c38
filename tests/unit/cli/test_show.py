"""Rows of the daemon are decoded, also those that are decoded already."""

import pytest
from syncd.cli.show import read_row
from syncd.errors import RecordError
from syncd.flows import nla

KEY = b"\x02\0\0\0" + nla.nested(
    1,
    nla.nested(1, nla.tlv(1, bytes((10, 0, 0, 1))), nla.tlv(2, bytes((10, 0, 0, 2)))),
    nla.nested(2, nla.tlv(1, b"\x32")),
)


def test_a_row_of_a_table_is_decoded_and_names_its_peer() -> None:
    row = {"key": KEY.hex(), "body": nla.tlv(8, b"\0\0\0\7").hex(), "peer": "fw2"}
    description = read_row(row)
    assert (description["mark"], description["peer"]) == (7, "fw2")


def test_a_row_of_the_kernel_is_a_whole_message() -> None:
    attributes = KEY[4:]
    message = (20 + len(attributes)).to_bytes(4, "little") + bytes((0, 1)) + bytes(10)
    row = {"message": (message + b"\x02\0\0\0" + attributes).hex()}
    assert read_row(row)["protocol_number"] == 50


def test_a_decoded_row_is_taken_as_it_is() -> None:
    assert read_row({"kind": "flow", "mark": 1}) == {"kind": "flow", "mark": 1}


@pytest.mark.parametrize(
    "row", [{}, {"key": "00"}, {"key": "0g", "body": ""}, {"message": 7}]
)
def test_a_row_that_is_none_is_a_record_error(row: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        read_row(row)
