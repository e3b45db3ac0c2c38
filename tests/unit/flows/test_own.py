"""What is left of a dump when events come beside it and others were lost."""

from syncd.flows.own import Own
from syncd.flows.record import (
    CANONICAL,
    CTA_HELP,
    CTA_ZONE,
    DUMP,
    END,
    EXP_DUMP,
    EXP_END,
    EXP_NEW,
    NEW,
    UPDATE,
    Record,
    master_of,
    plain_key,
    with_zone,
)

from tests.messages import u16
from tests.unit.flows import recorded
from tests.unit.replication.talk import flow_body, flow_key, new_flow, put

ONE, TWO = b"\0\0\0\1", b"\0\0\0\2"


def ended(number: int, ident: bytes) -> Record:
    return END, flow_key(number), b"", ident, 0


def shown(number: int, ident: bytes) -> Record:
    return DUMP, flow_key(number), flow_body(number), ident, CANONICAL


def announced(kind: str, ident: bytes) -> Record:
    """An expectation of a flow in zone 0, or in any other that is not known yet."""
    _, key, body, _, mask = recorded.announced("ftp4_active_masquerade")
    kinds = {"new": EXP_NEW, "end": EXP_END, "dump": EXP_DUMP}
    return kinds[kind], key, body, ident, mask


def test_the_end_of_a_later_flow_of_its_tuple_keeps_no_ended_flow_alive() -> None:
    own = Own()
    put(own, 1)  # its end is lost, and so is the begin of the next one of this tuple
    own.begin_dump()
    own.apply([ended(1, TWO)], 1.0)
    own.end_dump(2.0)
    assert not own.flows.bodies


def test_a_part_that_shows_the_later_flow_does_not_keep_either_alive() -> None:
    own = Own()
    put(own, 1)
    own.begin_dump()
    own.apply([ended(1, TWO)], 1.0)
    own.fill([shown(1, TWO)])  # written before its end, read after
    assert list(own.lookups) == [flow_key(1)]  # the kernel says: there is none
    own.end_dump(2.0)
    assert not own.flows.bodies


def test_what_we_deleted_is_not_revived_by_an_older_update() -> None:
    """Seed 5006440: the end was held back, the update was read after it."""
    own = Own()
    put(own, 1)
    own.flows.holding = True  # a demoted node, whose copy the new primary has ended
    own.flows.end(flow_key(1))
    _, key, body, ident, mask = new_flow(1)
    own.apply([(UPDATE, key, body, ident, mask)], 1.0)
    assert set(own.flows.held) == {key}
    assert list(own.lookups) == [key]
    own.apply([(DUMP, key, body, ident, mask)], 1.0)  # the kernel has it after all
    assert not own.flows.held


def test_what_we_deleted_during_a_dump_is_not_revived_by_an_older_part() -> None:
    """Seed 4002559: no event tells of our own deletions."""
    own = Own()
    put(own, 1)
    announcement = announced("new", ONE)
    own.apply([announcement], 1.0)
    own.begin_dump()
    own.flows.end(flow_key(1))
    own.expectations.end(announcement[1])
    own.fill([shown(1, ONE), announced("dump", ONE)])
    own.end_dump(2.0)
    assert not own.flows.bodies
    assert not own.expectations.bodies


def test_a_late_end_ends_nothing_of_the_flow_that_took_the_tuple() -> None:
    for shows in (True, False):
        own = Own()
        own.begin_dump()
        own.apply([new_flow(1), ended(1, TWO)], 1.0)
        own.apply([ended(1, TWO)], 1.0)
        own.fill([shown(1, ONE)] if shows else [])
        own.end_dump(2.0)
        assert list(own.flows.bodies) == [flow_key(1)]


def test_a_late_end_before_the_dump_shows_the_flow_ends_nothing() -> None:
    own = Own()
    put(own, 1)
    own.begin_dump()
    own.apply([ended(1, TWO)], 1.0)
    own.fill([shown(1, ONE)])
    own.apply([shown(1, ONE)], 1.0)  # the reply to the lookup
    own.end_dump(2.0)
    assert list(own.flows.bodies) == [flow_key(1)]


def test_an_end_in_another_zone_keeps_no_ended_expectation_alive() -> None:
    own = Own()
    own.apply([announced("new", ONE)], 1.0)  # its end is lost
    own.begin_dump()
    own.apply([announced("end", TWO)], 1.0)
    own.end_dump(2.0)
    assert not own.expectations.bodies


def test_an_event_in_another_zone_hides_no_expectation_from_the_dump() -> None:
    own = Own()  # its begin is lost
    own.begin_dump()
    own.apply([announced("end", TWO)], 1.0)
    own.fill([announced("dump", ONE)])
    own.end_dump(2.0)
    assert len(own.expectations.bodies) == 1


def test_an_expectation_that_ended_during_the_dump_is_not_revived_by_it() -> None:
    own = Own()
    own.begin_dump()
    own.apply([announced("new", ONE), announced("end", ONE)], 1.0)
    own.fill([announced("dump", ONE)])
    own.end_dump(2.0)
    assert not own.expectations.bodies


def test_an_expectation_that_came_during_the_dump_stays() -> None:
    own = Own()
    own.begin_dump()
    own.apply([announced("new", ONE)], 1.0)
    own.end_dump(2.0)
    assert len(own.expectations.bodies) == 1


def _in_zone(key: bytes, zone: int) -> bytes:
    """The key of a flow with this tuple in a zone."""
    return plain_key(key) + u16(CTA_ZONE, zone)


def test_of_masters_in_two_zones_that_counts_where_the_expectation_is_known() -> None:
    """Seed 6834 of --warm: it was told under one zone and found under the other."""
    own = Own()
    _, key, body, _, mask = announced("new", ONE)
    master = master_of(body)
    helped = CANONICAL | 1 << CTA_HELP
    own.apply([(NEW, master, b"", ONE, helped)], 1.0)
    own.adopt([(_in_zone(master, 7), b"", 0.0), (with_zone(key, b"\0\7"), body, 0.0)])
    own.begin_dump()
    own.fill([(EXP_DUMP, key, body, TWO, mask)])
    own.end_dump(2.0)
    assert list(own.expectations.bodies) == [with_zone(key, b"\0\7")]


def test_what_is_adopted_is_no_copy_any_more() -> None:
    """Seed 7993 of --warm: a departed node's flow that another peer told as well."""
    own = Own()
    own.plant([(flow_key(1), flow_body(1))])
    own.adopt([(flow_key(1), flow_body(1), 0.0)])
    assert not own.planted
    assert list(own.flows.bodies) == [flow_key(1)]


def test_an_expectation_that_was_met_while_it_became_own_has_ended_for_all() -> None:
    own = Own()
    own.flows.disturbed = set()
    own.expectations.left = []
    _, key, body, _, _ = announced("new", ONE)
    own.apply([announced("end", ONE)], 1.0)  # a packet was sooner than the adoption
    own.adopt([(with_zone(key, b"\0\7"), body, 0.0)])
    assert not own.expectations.bodies
    assert list(own.expectations.marks) == [with_zone(key, b"\0\7")]
    # Seed 40190 of --warm: its master gave way here, at a peer it lives on.
    assert own.take_left() == [with_zone(key, b"\0\7")]
