"""The judge himself: he must see what differs, and agree with conntrack(8)."""

import pytest

from tests.kernel import reader
from tests.lab import Lab, run_in

pytestmark = pytest.mark.kernel

INSERT = (
    *("conntrack", "-I", "-p", "tcp", "-s", "10.0.0.1", "-d", "10.0.0.2"),
    *("--sport", "1000", "--dport", "80", "--state", "ESTABLISHED", "-t", "500"),
    *("-u", "SEEN_REPLY,ASSURED", "--mark", "9"),
)
KEY: reader.Key = ((6, "10.0.0.1", "10.0.0.2", 1000, 80, 0), 0)


def test_a_flow_is_read_as_it_was_inserted_and_can_be_deleted(lab: Lab) -> None:
    namespace = lab.namespace("one", tracking=True)
    run_in(namespace, *INSERT)
    rows = reader.kernel_rows(namespace)
    assert list(rows) == [KEY]
    row = rows[KEY]
    assert row["reply"] == (6, "10.0.0.2", "10.0.0.1", 80, 1000, 0)
    assert (row["mark"], row["status"]) == (9, 0xE)
    assert str(row["state"]).startswith("('ESTABLISHED', (0, 0), ")
    assert reader.delete_flows(namespace, reader.dump(namespace)) == 0
    assert not reader.kernel_rows(namespace)


def test_every_difference_is_seen_and_only_the_documented_ones_are_not(
    lab: Lab,
) -> None:
    namespace = lab.namespace("one", tracking=True)
    run_in(namespace, *INSERT)
    rows = reader.kernel_rows(namespace)
    row = rows[KEY]
    assert len(reader.differences(rows, {})) == 1
    assert len(reader.differences({}, rows)) == 1
    for name in row:
        other = {KEY: row | {name: ("another",)}}
        if name != "timeout":
            assert reader.differences(rows, other), name

    def with_flags(flags: int) -> reader.Rows:
        return {KEY: row | {"state": ("ESTABLISHED", (0, 0), (flags, 2))}}

    assert not reader.differences(with_flags(2), with_flags(0x12))
    assert reader.differences(with_flags(2), with_flags(0x2A))
    assert not reader.differences(with_flags(2), with_flags(0x2A), reader.as_committed)
    assert reader.differences(with_flags(2), with_flags(1), reader.as_committed)
