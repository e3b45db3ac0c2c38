"""An audit finds what no event told, and leaves alone what events tell."""

import math

from syncd.flows.audit import Audit
from syncd.flows.nla import tlv
from syncd.flows.own import Own
from syncd.flows.record import CTA_MARK, DUMP, Record

from tests.unit.flows.test_table import MASK, ONE
from tests.unit.replication.talk import flow_body, flow_key, put

MARK = tlv(CTA_MARK, b"\0\0\0\7")


def _dumped(number: int, seconds: int = 60, mark: bytes = b"") -> Record:
    mask = MASK | (1 << CTA_MARK if mark else 0)
    return DUMP, flow_key(number), flow_body(number, seconds) + mark, ONE, mask


def _own(*numbers: int) -> Own:
    own = Own()
    put(own, *numbers)
    own.flows.marks.clear()
    return own


def _audit(own: Own) -> Audit:
    return Audit(own, lambda key, _body: key != flow_key(99))


def _judge(audit: Audit, keys: list[bytes], *replies: Record) -> None:
    audit.judge(keys, {record[1]: record for record in replies}, 1.0)


def _keys(*numbers: int) -> list[bytes]:
    return [flow_key(number) for number in numbers]


def test_equal_tables_raise_no_suspicion() -> None:
    own = _own(1, 2)
    audit = _audit(own)
    assert not audit.note(9)
    audit.compare([_dumped(1, 7), _dumped(2, 59), _dumped(99)])
    assert not audit.suspects
    assert not audit.take_unseen(9)
    assert audit.found.records == 3
    assert not audit.found.differences


def test_what_no_event_told_is_put_right_and_counted() -> None:
    own = _own(1, 2, 3)
    audit = _audit(own)
    there = [_dumped(1), _dumped(2, mark=MARK), _dumped(4)]
    audit.compare(there)
    suspects = audit.take_suspects(9)
    assert suspects == _keys(2, 4)
    _judge(audit, suspects, *there)
    assert audit.take_unseen(9) == _keys(3)
    _judge(audit, _keys(3))
    found = audit.found
    assert (found.changed, found.unknown, found.ended) == (1, 1, 1)
    assert [example.split(":")[0] for example in found.examples] == [
        *("changed", "unknown", "ended"),
    ]
    assert own.flows.bodies == {record[1]: record[2] for record in there}
    assert set(own.flows.marks) == set(_keys(2, 3, 4))


def test_a_suspicion_that_events_have_settled_meanwhile_is_no_difference() -> None:
    own = _own(1, 2)
    audit = _audit(own)
    audit.compare([_dumped(1, mark=MARK), _dumped(3)])
    own.apply([_dumped(1, mark=MARK)], 1.0)  # the event had waited in the queue
    put(own, 3)
    own.flows.end(flow_key(2))
    assert not audit.take_unseen(9)
    _judge(audit, audit.take_suspects(9), _dumped(1, mark=MARK), _dumped(3))
    assert not audit.found.differences


def test_what_an_event_touches_during_the_judgement_is_left_to_events() -> None:
    own = _own(1, 2)
    audit = _audit(own)
    audit.compare([_dumped(1, mark=MARK), _dumped(3)])
    own.flows.touched = set(_keys(1, 2, 3))
    _judge(audit, _keys(1, 2, 3), _dumped(1, mark=MARK), _dumped(3))
    assert not audit.found.differences
    assert set(own.lookups) == set(_keys(1, 3))
    assert not own.flows.marks


def test_a_flow_that_lives_on_with_a_longer_timer_is_told_again() -> None:
    own = _own(1, 2)
    audit = _audit(own)
    there = [_dumped(1, 119), _dumped(2, 120)]
    audit.compare(there)
    assert audit.take_suspects(9) == _keys(2)
    _judge(audit, _keys(2), there[1])
    assert audit.found.timers == 1
    assert not audit.found.differences
    assert set(own.flows.marks) == {flow_key(2)}
    assert own.flows.bodies[flow_key(2)] == flow_body(2, 120)


def test_a_flow_that_the_filter_wants_no_longer_ends() -> None:
    own = _own(1, 99)
    audit = _audit(own)
    audit.compare([_dumped(1), _dumped(99, mark=MARK)])
    _judge(audit, audit.take_suspects(9), _dumped(99, mark=MARK))
    assert list(own.flows.bodies) == _keys(1)


def test_held_ends_are_no_difference() -> None:
    own = _own(1, 2)
    own.flows.holding = True
    own.flows.end(flow_key(1))
    audit = _audit(own)
    audit.compare([_dumped(2)])
    assert not audit.take_unseen(9)
    assert own.flows.held == {flow_key(1): math.inf}


def test_a_masqueraded_flow_that_is_gone_is_held_for_a_moment() -> None:
    own = Own()
    body = flow_body(1)[:52] + tlv(3, b"\0\0\0\x1e") + flow_body(1)[60:]
    own.apply([(DUMP, flow_key(1), body, ONE, MASK)], 1.0)
    audit = _audit(own)
    _judge(audit, audit.take_unseen(9))
    assert audit.found.ended == 1
    assert own.flows.release_due(1.0) == 0
    assert own.flows.release_due(99.0) == 1


def test_planted_flows_are_skipped_and_uprooted_when_they_are_gone() -> None:
    own = _own(1)
    own.plant([(flow_key(5), flow_body(5)), (flow_key(6), flow_body(6))])
    audit = _audit(own)
    audit.compare([_dumped(1), _dumped(5, mark=MARK)])
    assert not audit.suspects
    assert audit.take_unseen(9) == _keys(6)
    _judge(audit, _keys(6))
    assert own.take_uprooted() == _keys(6)
    assert not audit.found.differences
    assert list(own.flows.bodies) == _keys(1)
