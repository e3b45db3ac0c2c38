"""Rows of the daemon become messages again."""

import pytest
from syncd.cli.show import read_row
from syncd.errors import RecordError
from syncd.flows import nla, view

KEY = b"\x02\0\0\0" + nla.nested(
    1,
    nla.nested(1, nla.tlv(1, bytes((10, 0, 0, 1))), nla.tlv(2, bytes((10, 0, 0, 2)))),
    nla.nested(2, nla.tlv(1, b"\x32")),
)


def test_a_row_of_a_table_is_a_message_without_what_the_table_does_not_keep() -> None:
    row = {"key": KEY.hex(), "body": nla.tlv(8, b"\0\0\0\7").hex(), "peer": "fw2"}
    description = view.describe_message(read_row(row))
    assert (description["protocol_number"], description["mark"]) == (50, 7)


def test_a_row_of_the_kernel_is_a_whole_message() -> None:
    message = view.message_of(KEY, b"")
    assert read_row({"message": message.hex()}) == message


@pytest.mark.parametrize(
    "row", [{}, {"key": "00"}, {"key": "0g", "body": ""}, {"message": 7}]
)
def test_a_row_that_is_none_is_a_record_error(row: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        read_row(row)
