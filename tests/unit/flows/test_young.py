"""Flows wait for their age, in the order in which they came, and most end first."""

from syncd.flows.record import DUMP, NEW, UPDATE
from syncd.flows.young import Young

from tests.unit.flows.shapes import ASSURED, CONFIRMED, SEEN_REPLY, Shape

AGE_S = 10.0


def flows(count: int) -> list[Shape]:
    return [Shape(sport=number + 1, ident=number + 1) for number in range(count)]


def test_a_flow_is_due_when_it_is_old_enough_and_not_before() -> None:
    young = Young(AGE_S)
    assert young.deadline() == float("inf")
    young.wait(Shape().record(NEW), 100.0)
    due_at = young.deadline()
    assert 100.0 + AGE_S <= due_at <= 100.0 + AGE_S + 0.5
    assert young.due(due_at - 0.01, 100) == []
    assert young.due(due_at, 100) == [Shape().record(DUMP)]
    assert not young.flows
    assert young.deadline() == float("inf")


def test_the_oldest_come_first_and_not_more_than_asked_for() -> None:
    young = Young(AGE_S)
    shapes = flows(10)
    for number, shape in enumerate(shapes):
        young.wait(shape.record(NEW), 100.0 + number)
    told = []
    while part := young.due(200.0, 3):
        assert len(part) <= 3
        told += [record[1] for record in part]
    assert told == [shape.key for shape in shapes]


def test_what_ends_in_time_is_never_told() -> None:
    young = Young(AGE_S)
    first, second = flows(2)
    for shape in (first, second):
        young.wait(shape.record(NEW), 100.0)
    young.end(first.key, b"\0\0\0\x09")  # the end of an older one on that tuple
    assert first.key in young.flows
    young.end(first.key, first.record(NEW)[3])
    assert young.never_told == 1
    assert [record[1] for record in young.due(200.0, 9)] == [second.key]


def test_updates_are_laid_over_what_waits() -> None:
    young = Young(AGE_S)
    shape = Shape(mark=7)
    young.wait(shape.record(NEW), 100.0)
    later = shape.but(state=7, mark=None, status=CONFIRMED | SEEN_REPLY)
    assert young.update(later.record(UPDATE))
    assert young.due(200.0, 9) == [later.but(mark=7).record(DUMP)]


def test_an_update_of_another_flow_on_the_tuple_ends_the_waiting() -> None:
    young = Young(AGE_S)
    young.wait(Shape().record(NEW), 100.0)
    assert not young.update(Shape(ident=2).record(UPDATE))
    assert not young.flows


def test_another_flow_on_the_tuple_is_young_anew() -> None:
    young = Young(AGE_S)
    young.wait(Shape().record(NEW), 100.0)
    young.renew(Shape(ident=2).record(NEW), 105.0)
    assert young.due(112.0, 9) == []
    assert young.due(116.0, 9) == [Shape(ident=2).record(DUMP)]


def test_a_full_word_of_the_kernel_replaces_what_waits() -> None:
    young = Young(AGE_S)
    young.wait(Shape(mark=7).record(NEW), 100.0)
    now = Shape(status=CONFIRMED | ASSURED)
    young.renew(now.record(DUMP), 101.0)
    assert young.due(200.0, 9) == [now.record(DUMP)]


def test_what_a_dump_does_not_show_waits_no_longer() -> None:
    young = Young(AGE_S)
    shown, gone, later = flows(3)
    for shape in (shown, gone):
        young.wait(shape.record(NEW), 100.0)
    young.begin_dump()
    young.seen(shown.key)
    young.wait(later.record(NEW), 101.0)
    young.end_dump()
    assert set(young.flows) == {shown.key, later.key}
    young.begin_dump()
    young.abort_dump()
    young.end_dump()
    assert set(young.flows) == {shown.key, later.key}
