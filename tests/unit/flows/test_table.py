"""Own tables follow the kernel, peers' tables follow the frames."""

import pytest
from syncd.flows.masquerade import dies_with_address
from syncd.flows.nla import tlv
from syncd.flows.own import Own
from syncd.flows.reader import RecordReader
from syncd.flows.record import (
    BY_PROGRAM,
    CANONICAL,
    CTA_HELP,
    CTA_LABELS,
    CTA_MARK,
    DUMP,
    END,
    EXP_END,
    EXP_NEW,
    NEW,
    UPDATE,
)
from syncd.flows.table import ENDED_AT_PEERS, NEW_TO_PEERS, Table

from tests.unit.flows.recorded import recorded
from tests.unit.replication.talk import flow_body, flow_key, new_flow, put

ONE, TWO = b"\0\0\0\1", b"\0\0\0\2"
MASK = CANONICAL | 1 << 2 | 1 << 3 | 1 << 7


def test_a_flow_that_begins_and_ends_unseen_leaves_no_trace() -> None:
    own = Own()
    own.apply([new_flow(1), (END, flow_key(1), b"", ONE, 0)], 1.0)
    assert not own.flows.bodies
    assert not own.flows.marks
    assert not own.flows.facts


def test_an_end_of_a_flow_that_peers_know_is_marked() -> None:
    own = Own()
    put(own, 1)
    assert own.flows.marks == {flow_key(1): NEW_TO_PEERS}
    own.flows.marks.clear()  # it left in a frame
    own.apply([(END, flow_key(1), b"", ONE, 0)], 1.0)
    assert own.flows.marks == {flow_key(1): flow_body(1)}


def test_an_end_with_another_ident_ends_nothing() -> None:
    own = Own()
    put(own, 1)
    own.apply([(END, flow_key(1), b"", TWO, 0)], 1.0)
    assert flow_key(1) in own.flows.bodies


def test_the_end_of_the_hidden_half_of_a_clash_ends_nothing() -> None:
    """It has the key of the flow that it clashed with, which lives on."""
    own = Own()
    own.apply([new_flow(1)], 1.0)
    own.flows.adopt([(flow_key(1), flow_body(1), 0.0)])  # its ident is not known
    status = b"\0\0\x17\x98"
    body = flow_body(1)
    size = body[0]
    clash = body[: size + 4] + status + body[size + 8 :]
    own.apply([(END, flow_key(1), clash, TWO, MASK)], 1.0)
    assert flow_key(1) in own.flows.bodies
    own.apply([(END, flow_key(1), body, TWO, MASK)], 1.0)
    assert flow_key(1) not in own.flows.bodies


def test_an_update_that_tells_nothing_of_a_labelled_flow_may_be_of_its_labels() -> None:
    own = Own()
    labels = tlv(CTA_LABELS, bytes(15) + b"\x80")
    mask = MASK | 1 << CTA_LABELS
    own.apply([(NEW, flow_key(1), flow_body(1) + labels, ONE, mask)], 1.0)
    mark = tlv(CTA_MARK, b"\0\0\0\7")
    marked = (UPDATE, flow_key(1), flow_body(1) + mark, ONE, MASK | 1 << CTA_MARK)
    own.apply([marked], 1.0)
    assert not own.lookups
    own.apply([(UPDATE, flow_key(1), flow_body(1, 30), ONE, MASK)], 1.0)
    assert list(own.lookups) == [flow_key(1)]
    answer = (DUMP, flow_key(1), flow_body(1, 30) + mark, ONE, MASK | 1 << CTA_MARK)
    own.apply([answer], 1.0)
    assert own.flows.bodies[flow_key(1)] == flow_body(1, 30) + mark


def test_an_update_keeps_the_attributes_that_it_does_not_have() -> None:
    own = Own()
    body = flow_body(1) + tlv(CTA_MARK, b"\0\0\0\7")
    own.apply([(NEW, flow_key(1), body, ONE, MASK | 1 << CTA_MARK)], 1.0)
    own.apply([(UPDATE, flow_key(1), flow_body(1, 30), ONE, MASK)], 1.0)
    assert own.flows.bodies[flow_key(1)] == flow_body(1, 30) + body[-8:]


def test_an_update_of_an_unknown_flow_is_looked_up() -> None:
    own = Own()
    own.apply([(UPDATE, flow_key(1), flow_body(1), ONE, MASK)], 1.0)
    assert not own.flows.bodies
    assert list(own.lookups) == [flow_key(1)]
    own.apply([(DUMP, flow_key(1), flow_body(1), ONE, MASK)], 1.0)
    assert own.flows.bodies == {flow_key(1): flow_body(1)}


def test_a_moved_timer_alone_is_no_change() -> None:
    own = Own()
    put(own, 1)
    own.flows.marks.clear()
    own.apply([(DUMP, flow_key(1), flow_body(1, 7), ONE, MASK)], 1.0)
    assert not own.flows.marks
    assert own.flows.bodies[flow_key(1)] == flow_body(1)


def test_a_dump_sweeps_what_it_does_not_show() -> None:
    own = Own()
    put(own, 1, 2)
    own.flows.begin_dump()
    own.fill([(DUMP, flow_key(1), flow_body(1), ONE, MASK)])
    assert own.flows.end_dump() == 1
    assert list(own.flows.bodies) == [flow_key(1)]


def test_events_during_a_dump_are_newer_than_the_dump() -> None:
    own = Own()
    put(own, 1, 2)
    own.flows.begin_dump()
    own.apply([(END, flow_key(1), b"", ONE, 0), new_flow(3, 99)], 1.0)
    stale = flow_body(3, 50)
    own.fill([(DUMP, flow_key(n), flow_body(n, 50), ONE, MASK) for n in (1, 2)])
    own.fill([(DUMP, flow_key(3), stale, ONE, MASK)])
    own.flows.end_dump()
    assert set(own.flows.bodies) == {flow_key(2), flow_key(3)}
    assert own.flows.bodies[flow_key(3)] == flow_body(3, 99)


def test_a_flow_that_events_and_the_dump_tell_differently_is_looked_up() -> None:
    own = Own()
    own.flows.begin_dump()
    put(own, 1)
    full = flow_body(1, 50) + tlv(CTA_MARK, b"\0\0\0\7")
    own.fill([(DUMP, flow_key(1), full, ONE, MASK | 1 << CTA_MARK)])
    own.flows.end_dump()
    assert own.flows.bodies[flow_key(1)] == flow_body(1)
    assert list(own.lookups) == [flow_key(1)]


def test_a_dump_is_prepared_and_swept_in_parts() -> None:
    own = Own()
    put(own, *range(1, 8))
    own.flows.marks.clear()
    own.begin_dump()
    while own.note(2):
        pass
    own.fill([(DUMP, flow_key(1), flow_body(1), ONE, MASK)])
    own.apply([(END, flow_key(2), b"", ONE, 0), new_flow(3, 99)], 1.0)
    parts = 0
    while own.sweep(1.0, 2):
        parts += 1
    assert parts == 3
    assert own.end_dump(1.0) == 4
    assert set(own.flows.bodies) == {flow_key(1), flow_key(3)}
    assert flow_key(1) not in own.flows.marks


OFFLOADED = flow_body(1)[:52] + tlv(3, b"\0\0\x40\x0e")


def test_a_flow_in_a_flow_table_keeps_what_was_told_of_it() -> None:
    own = Own()
    put(own, 1)
    own.flows.marks.clear()
    own.begin_dump()
    own.fill([(DUMP, flow_key(1), OFFLOADED, ONE, MASK & ~(1 << 7))])
    assert own.end_dump(1.0) == 0
    own.apply([(DUMP, flow_key(1), OFFLOADED, ONE, MASK & ~(1 << 7))], 1.0)
    assert not own.flows.marks
    assert own.flows.bodies[flow_key(1)] == flow_body(1)


def test_a_change_of_a_flow_in_a_flow_table_keeps_its_timer() -> None:
    own = Own()
    put(own, 1)
    mark, mask = tlv(CTA_MARK, b"\0\0\0\7"), MASK & ~(1 << 7) | 1 << CTA_MARK
    own.apply([(DUMP, flow_key(1), OFFLOADED + mark, ONE, mask)], 1.0)
    expected = OFFLOADED + tlv(7, (60).to_bytes(4)) + mark
    assert own.flows.bodies[flow_key(1)] == expected
    assert own.flows.facts[flow_key(1)] == (ONE, mask | 1 << 7)


def test_a_flow_that_was_in_a_flow_table_before_we_came_has_no_timer() -> None:
    own = Own()
    own.apply([(DUMP, flow_key(1), OFFLOADED, ONE, MASK & ~(1 << 7))], 1.0)
    assert own.flows.bodies[flow_key(1)] == OFFLOADED


def test_an_end_that_is_told_again_later_ends_no_younger_flow() -> None:
    own = Own()
    put(own, 1)
    end = (END, flow_key(1), b"", ONE, 0)
    own.apply([new_flow(1, 50, TWO), end, end], 1.0)
    assert own.flows.bodies == {flow_key(1): flow_body(1, 50)}


def test_a_dump_that_failed_sweeps_nothing() -> None:
    own = Own()
    put(own, 1, 2)
    own.flows.begin_dump()
    own.flows.abort_dump()
    assert len(own.flows) == 2
    assert own.flows.touched is None


def test_held_ends_come_true_when_they_are_released() -> None:
    own = Own()
    put(own, 1, 2)
    own.flows.holding = True
    own.apply([(END, flow_key(1), b"", ONE, 0)], 1.0)
    assert len(own.flows) == 2
    own.flows.begin_dump()
    own.fill([(DUMP, flow_key(2), flow_body(2), ONE, MASK)])
    assert own.flows.end_dump() == 0
    assert own.flows.release() == 1
    assert list(own.flows.bodies) == [flow_key(2)]


def test_a_held_flow_that_lives_again_is_not_released() -> None:
    own = Own()
    put(own, 1)
    own.flows.holding = True
    own.apply([(END, flow_key(1), b"", ONE, 0), new_flow(1, 9, TWO)], 1.0)
    assert own.flows.release() == 0
    assert own.flows.bodies == {flow_key(1): flow_body(1, 9)}


def test_an_adopted_flow_takes_the_next_update_whole() -> None:
    own = Own()
    body = flow_body(1) + tlv(CTA_MARK, b"\0\0\0\7")
    own.flows.adopt([(flow_key(1), body, 0.0)])
    own.apply([(UPDATE, flow_key(1), flow_body(1, 30), TWO, MASK)], 1.0)
    assert own.flows.bodies[flow_key(1)] == flow_body(1, 30) + body[-8:]
    own.apply([(END, flow_key(1), b"", TWO, 0)], 1.0)
    assert not own.flows.bodies


def test_what_the_kernel_told_since_the_commit_began_is_not_adopted_over() -> None:
    own = Own()
    put(own, 1)
    own.flows.disturbed, own.flows.left = set(), []
    own.apply([(UPDATE, flow_key(1), flow_body(1, 30), ONE, MASK)], 1.0)
    own.apply([(END, flow_key(2), flow_body(2), ONE, 0)], 1.0)
    own.flows.end(flow_key(3))  # we deleted it
    own.flows.adopt([(flow_key(n), flow_body(n), 0.0) for n in (1, 2, 3, 4)])
    assert own.flows.bodies == {
        flow_key(1): flow_body(1, 30),
        flow_key(4): flow_body(4),
    }
    assert own.flows.marks == {flow_key(n): ENDED_AT_PEERS for n in (1, 2, 3, 4)}
    assert own.take_left() == [flow_key(2), flow_key(3)]  # maybe they live elsewhere


def test_a_sequence_adjustment_without_its_numbers_is_looked_up() -> None:
    own = Own()
    body = flow_body(1)[:52] + tlv(3, b"\0\0\0\x4e") + flow_body(1)[60:]
    put(own, 1)
    own.apply([(UPDATE, flow_key(1), body, ONE, MASK | 1 << CTA_HELP)], 1.0)
    assert list(own.lookups) == [flow_key(1)]


def test_recorded_ftp_in_a_zone_gives_expectations_the_zone_of_their_master() -> None:
    own = Own()
    reader = RecordReader()
    messages = [m.message for m in recorded() if m.scenario == "ftp4_zone"]
    seen = 0
    for message in messages:
        records = reader.read([message])
        own.apply([r for r in records if r[0] in (NEW, UPDATE, EXP_NEW, EXP_END)], 1.0)
        for key in own.expectations.bodies:
            seen += 1
            assert key[-4:-2] == b"\0\7", key.hex()
    assert seen
    assert not own.expectations.bodies  # each one was matched or its master ended


def test_an_expectation_asks_for_its_master_whose_numbers_moved() -> None:
    own = Own()
    reader = RecordReader()
    for item in recorded():
        if item.scenario == "ftp4_active_masquerade":
            records = reader.read([item.message])
            if records and records[0][0] == EXP_NEW:
                own.apply(records, 1.0)
                assert own.lookups
                return
    raise AssertionError("no expectation in the recording")


def test_a_peers_table_sweeps_what_was_not_told_again() -> None:
    table = Table()
    table.put([flow_key(1), flow_body(1), flow_key(2), flow_body(2)], 1.0)
    table.begin_sweep()
    table.put([flow_key(2), flow_body(2), flow_key(3), flow_body(3)], 2.0)
    assert len(table.end_sweep()) == 1
    assert set(table.bodies) == {flow_key(2), flow_key(3)}
    assert table.told_s == {flow_key(2): 1, flow_key(3): 2}  # when the body came


def test_an_end_of_an_unknown_key_is_fine() -> None:
    table = Table()
    table.drop([flow_key(1)])
    assert not table.bodies
    assert table.clear() == 0


def early_end(number: int, mask: int = 1 << 7) -> tuple[int, bytes, bytes, bytes, int]:
    """The kernel destroys a masqueraded UDP flow that has time left."""
    body = flow_body(number)[:52] + tlv(3, b"\0\0\x03\x9e") + flow_body(number)[60:]
    return END, flow_key(number), body, ONE, CANONICAL | mask


def test_an_end_with_the_address_is_held_back_for_seconds() -> None:
    own = Own()
    put(own, 1)
    own.apply([early_end(1)], 100.0)
    assert own.flows.release_due(102.9) == 0
    assert flow_key(1) in own.flows.bodies
    assert own.flows.release_due(103.0) == 1
    assert flow_key(1) not in own.flows.bodies


def test_a_demotion_in_these_seconds_holds_the_end_for_good() -> None:
    own = Own()
    put(own, 1)
    own.apply([early_end(1)], 100.0)
    own.flows.hold()
    assert own.flows.release_due(1e6) == 0
    assert own.flows.release() == 1


def test_an_end_that_a_program_caused_counts_at_once() -> None:
    own = Own()
    put(own, 1)
    own.apply([early_end(1, 1 << 7 | BY_PROGRAM)], 100.0)
    assert flow_key(1) not in own.flows.bodies


def test_a_flow_that_is_there_again_does_not_end_later() -> None:
    own = Own()
    put(own, 1)
    own.apply([early_end(1), new_flow(1, 77, TWO)], 100.0)
    assert own.flows.release_due(200.0) == 0
    assert own.flows.bodies == {flow_key(1): flow_body(1, 77)}


@pytest.mark.parametrize(
    ("scenario", "kind", "expected"),
    [
        ("tcp4_masquerade", "UPDATE", True),
        ("tcp4_masquerade", "DESTROY", False),  # TIME_WAIT
        ("udp4_masquerade", "UPDATE", True),
        ("icmp4_masquerade", "UPDATE", True),
        ("tcp4_close", "UPDATE", False),
        ("tcp4_dnat_port", "UPDATE", False),
    ],
)
def test_what_can_die_with_an_address(scenario: str, kind: str, expected: bool) -> None:
    reader = RecordReader()
    items = [i for i in recorded() if i.scenario == scenario and i.type == kind]
    record = reader.read([items[0].message])[0]
    assert dies_with_address(record[2]) is expected
